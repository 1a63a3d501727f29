//! The system's own files about names, as they are found: what glibc passes over is passed over here, and never a reason
//! not to start or not to dial. Other programs live with the same files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;

use crate::reload::{Event, Failure, Reloading};
use crate::text;

/// Where the name servers are, and the search domains: resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Names that need no name server: hosts(5).
const HOSTS: &str = "/etc/hosts";

/// The port of name servers.
const DNS: u16 = 53;

/// The most dots that glibc asks for before a name is tried as it is.
const MOST_DOTS: usize = 15;

/// How long glibc waits for a name server where the file does not say, and at the most, in seconds.
const TIMEOUT: u64 = 5;
const LONGEST_TIMEOUT: u64 = 30;

/// Far more than the longest lists of advertisers' hosts have.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What the hosts file has, now and whenever it changes.
pub(super) fn hosts() -> Reloading<Hosts> {
    reloading(HOSTS, Hosts::parse)
}

/// Whom to ask, now and whenever that changes.
pub(super) fn resolv_conf() -> Reloading<ResolvConf> {
    reloading(RESOLV_CONF, ResolvConf::parse)
}

/// What is made of a file's bytes. A file that can't be read at start holds nothing, as one that is not there; one that
/// goes later leaves what it held.
fn reloading<T>(path: &str, parse: fn(&[u8]) -> T) -> Reloading<T>
where
    T: PartialEq + Send + Sync + 'static,
{
    let first = parse(&read(path).ok().flatten().unwrap_or_default());
    let (paths, read_from, file) = ([path.into()], path.to_owned(), path.to_owned());
    let look = move |last: &T| {
        let bytes = read(&read_from).map_err(|error| text::io_error(&error))?;
        let is_gone = bytes.is_none();
        let found = parse(&bytes.unwrap_or_default());
        match found != *last {
            true if is_gone => Err("it is not there any more, or not to be read".to_owned().into()),
            true => Ok(Some(found)),
            false => Ok(None),
        }
    };
    Reloading::new(paths, first, look, move |event| match event {
        Event::Changed => {}
        Event::Failed(Failure { reason, remedy }) => tracing::warn!(
            target: "file",
            file,
            error = reason,
            remedy = remedy.as_deref(),
            "file reload failed; keeping the last content"
        ),
        Event::Recovered => tracing::info!(target: "file", file, "file reload recovered"),
    })
}

/// The file's bytes; `None` where there is no such file, or none that is meant for us. An error says nothing of the file:
/// there are no descriptors left, say.
fn read(path: &str) -> io::Result<Option<Vec<u8>>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};

    let mut bytes = Vec::new();
    let read = match std::fs::metadata(path) {
        Ok(data) if !data.is_file() => return Ok(None),
        _ => File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)),
    };
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked; none where the file names none.
    servers: Vec<IpAddr>,
    /// What is appended to names with few dots.
    search: Vec<Name>,
    /// How many dots a name has to have to be tried as it is before the search domains are.
    dots: usize,
    /// How long an answer is waited for.
    pub(super) timeout: Duration,
    /// Whether questions go over TCP alone.
    pub(super) tcp_only: bool,
    /// Whether name servers are told that answers over UDP may be long.
    pub(super) edns0: bool,
    /// Whether nobody is to be asked for IPv6 addresses.
    pub(super) no_aaaa: bool,
}

impl ResolvConf {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut found = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(TIMEOUT),
            tcp_only: false,
            edns0: false,
            no_aaaa: false,
        };
        let mut search = None;
        for line in lines(bytes) {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => match words.next().map(str::parse) {
                    // An address that stands for this host, and that no answer comes from.
                    Some(Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED))) => {
                        found.servers.push(Ipv4Addr::LOCALHOST.into());
                    }
                    Some(Ok(address)) => found.servers.push(address),
                    _ => ignored(&line),
                },
                // The last of these lines counts, unless there is nothing in it.
                Some("search") => {
                    let listed: Vec<_> = words.collect();
                    search = (!listed.is_empty()).then(|| domains(listed)).or(search);
                }
                Some("domain") => search = words.next().map(|domain| domains([domain])).or(search),
                Some("options") => words.for_each(|option| found.take(option)),
                Some(_) => ignored(&line),
                None => {}
            }
        }
        found.search = search.unwrap_or_else(own_domain);
        found
    }

    /// One that nobody knows, or with a value that is none, is passed over.
    fn take(&mut self, option: &str) {
        match option.split_once(':') {
            Some(("ndots", dots)) => self.dots = number(dots).unwrap_or(self.dots).min(MOST_DOTS),
            Some(("timeout", seconds)) => {
                let seconds = number(seconds).and_then(|seconds| u64::try_from(seconds).ok());
                self.timeout =
                    seconds.map_or(self.timeout, |s| Duration::from_secs(s.clamp(1, LONGEST_TIMEOUT)));
            }
            None if option == "use-vc" => self.tcp_only = true,
            None if option == "edns0" => self.edns0 = true,
            None if option == "no-aaaa" => self.no_aaaa = true,
            _ => {}
        }
    }

    pub(super) fn names_no_server(&self) -> bool {
        self.servers.is_empty()
    }

    /// The name servers; without any the one of this host, as everywhere.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let own = [Ipv4Addr::LOCALHOST.into()];
        let servers = if self.servers.is_empty() { &own[..] } else { &self.servers };
        servers.iter().map(|address| SocketAddr::new(*address, DNS)).collect()
    }

    /// The names that `name` may stand for, in the order in which they are tried.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut itself = name.clone();
        itself.set_fqdn(true);
        if name.is_fqdn() || name.is_localhost() {
            return vec![itself];
        }
        // Together they may be longer than a name can be.
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let is_dotted = usize::from(name.num_labels()) > self.dots;
        let mut candidates: Vec<Name> = searched.collect();
        let at = if is_dotted { 0 } else { candidates.len() };
        candidates.insert(at, itself);
        let mut seen = Vec::new();
        candidates.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
        candidates
    }
}

/// Where the file has no search domains, the host's own is one.
fn own_domain() -> Vec<Name> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    host.split_once('.').map(|(_, domain)| domains([domain])).unwrap_or_default()
}

/// Those that are domains.
fn domains<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Name> {
    let domain = |word: &str| {
        // As the label of a host is written; a name of DNS could hold anything.
        let is_plain = |c: char| c.is_alphanumeric() || ['.', '-', '_'].contains(&c);
        let parsed = Name::from_str_relaxed(word).ok().filter(|_| word.chars().all(is_plain));
        if parsed.is_none() {
            ignored(word);
        }
        parsed
    };
    // What systemd writes where there is no domain.
    words.into_iter().filter(|word| *word != "--").filter_map(domain).collect()
}

fn ignored(what: &str) {
    tracing::debug!(target: "resolve", file = RESOLV_CONF, what, "line ignored");
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok()
}

/// The addresses in `/etc/hosts`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// An address and its names on a line, `#` for comments.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        for line in lines(bytes) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else { continue };
            for name in words {
                let addresses = found.0.entry(name.to_ascii_lowercase()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        found
    }

    /// What there is for `name`.
    pub(super) fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.0.get(&name).map(Vec::as_slice)
    }
}

/// Without the mark that editors of another system put before the first. What is no text is none of what is looked for.
fn lines(bytes: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::fixture;

    #[tokio::test]
    async fn what_a_file_held_outlives_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let file = reloading(path.to_str().unwrap(), <[u8]>::to_vec);
        let mut last = "";
        for held in [None, Some("one"), Some("two"), None, Some("three"), Some("")] {
            match held {
                // Missing at first, and later removed.
                None => drop(std::fs::remove_file(&path)),
                Some(held) => std::fs::write(&path, held).unwrap(),
            }
            let is_gone = held.is_none() && !last.is_empty();
            last = held.unwrap_or(last);
            // Whoever asks waits half a second for a look; on a busy machine one may take longer.
            let mut looks = 0;
            while file.current().await.as_slice() != last.as_bytes() || file.failure().is_some() != is_gone {
                looks += 1;
                assert!(looks < 100, "{held:?}: {:?}, {:?}", file.last(), file.failure());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // What is no file has nothing in it.
        let directory = reloading(directory.path().to_str().unwrap(), <[u8]>::to_vec);
        assert_eq!(directory.current().await.as_slice(), b"");
    }

    fn search(conf: &ResolvConf, name: &str) -> Vec<String> {
        let candidates = conf.candidates(&Name::from_str_relaxed(name).unwrap());
        candidates.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn hosts_files_of_docker_kubernetes_and_people_are_read() {
        for (file, name, address) in [
            ("people", "ip6-localhost", "::1"),
            ("people", "my_db.", "172.17.0.2"),
            ("people", "redis", "10.0.0.7"),
            ("docker-link", "redis", "172.17.0.2"),
            ("docker-link", "app-redis", "172.17.0.2"),
            ("docker-network", "3f4e8c21b7d0", "172.17.0.3"),
            ("kubernetes", "redis.example.com", "10.1.2.3"),
        ] {
            let hosts = Hosts::parse(&fixture(&format!("hosts/{file}")));
            let expected: IpAddr = address.parse().unwrap();
            assert_eq!(hosts.addresses(name), Some(&[expected][..]), "{name} in {file}");
            assert_eq!(hosts.addresses("absent"), None);
        }
    }

    #[test]
    fn resolv_conf_is_read_as_it_is_found() {
        let conf = ResolvConf::parse(
            b"\xef\xbb\xbfnameserver 10.0.0.1\r\n; a comment\n# nameserver 10.0.0.9\n\nnameserver\nnameserver example\n\
              nameserver 10.0.0.300\n nameserver fd00::1 # ours\nnameserver fe80::1%eth0\nnameservers 10.0.0.8\n\
              domain one.test\nsearch\nsearch a..b ${domain} inner.test, \xff -- two.test.\r\nsortlist 10.0.0.0/8\n\
              options ndots:2 rotate edns0 no-such:thing timeout:0 attempts:x\r\noptions\noptions ndots:-1\nlookup file",
        );
        assert_eq!(conf.addresses(), ["10.0.0.1:53", "[fd00::1]:53"].map(|a| a.parse().unwrap()));
        assert_eq!(search(&conf, "db"), ["db.two.test.", "db."]);
        assert_eq!(conf.timeout, Duration::from_secs(1));
        let long =
            ResolvConf::parse(format!("search {}\nnameserver ::1", "x.test ".repeat(10_000)).as_bytes());
        assert_eq!(search(&long, "db"), ["db.x.test.", "db."]);
    }

    #[test]
    fn without_a_name_server_this_host_is_asked() {
        for bytes in [&b""[..], b"\n", b"\0", b"\xff\xfe", b"nameserver\n", b"# nothing\n", b"search x.test"]
        {
            let conf = ResolvConf::parse(bytes);
            assert_eq!(conf.addresses(), ["127.0.0.1:53".parse().unwrap()], "{bytes:?}");
            assert_eq!(conf.timeout, Duration::from_secs(5));
        }
    }

    #[test]
    fn search_domains_are_tried_as_the_number_of_dots_says() {
        let conf = |text: &str| ResolvConf::parse(text.as_bytes());
        let kubernetes = conf("search ns.svc.cluster.local svc.cluster.local\noptions ndots:5");
        assert_eq!(
            search(&kubernetes, "db.other"),
            ["db.other.ns.svc.cluster.local.", "db.other.svc.cluster.local.", "db.other."]
        );
        assert_eq!(search(&kubernetes, "db.other."), ["db.other."]);
        assert_eq!(search(&kubernetes, "localhost"), ["localhost."]);
        let plain = conf("domain no.test\nsearch one.test two.test");
        assert_eq!(search(&plain, "a.b"), ["a.b.", "a.b.one.test.", "a.b.two.test."]);
        assert_eq!(search(&plain, "a"), ["a.one.test.", "a.two.test.", "a."]);
        assert_eq!(search(&conf("search one.test\ndomain no.test"), "a"), ["a.no.test.", "a."]);
        assert_eq!(search(&conf("search ."), "a"), ["a."]);
        // Longer than a name can be.
        let long = format!("{0}.{0}.{0}", "x".repeat(60));
        assert_eq!(search(&conf(&format!("search {long}")), &long), [format!("{long}.")]);
    }

    #[test]
    fn options_that_say_something_are_obeyed() {
        let conf = ResolvConf::parse(b"options use-vc timeout:900\noptions no-aaaa ndots:999");
        assert!(conf.tcp_only && conf.no_aaaa);
        assert_eq!((conf.timeout, conf.dots), (Duration::from_secs(LONGEST_TIMEOUT), MOST_DOTS));
    }

    #[test]
    fn the_hosts_file_is_read_as_docker_and_people_write_it() {
        let hosts = Hosts::parse(
            b"\xef\xbb\xbf127.0.0.1\tlocalhost\r\n::1 localhost ip6-localhost # both\n\n#10.9.9.9 redis\n10.9.9.8\n\
              172.17.0.2\tmy_db 3f2a1b app-db\nnonsense redis\nfe80::1%eth0 redis\n\xff\xff redis\n10.0.0.7 REDIS redis\n\
              10.0.0.8 redis#no",
        );
        let addresses = |name: &str| hosts.addresses(name).unwrap_or_default().to_vec();
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(addresses("localhost"), parsed(&["127.0.0.1", "::1"]));
        assert_eq!(addresses("ip6-localhost"), parsed(&["::1"]));
        assert_eq!(addresses("my_db."), parsed(&["172.17.0.2"]));
        assert_eq!(addresses("Redis"), parsed(&["10.0.0.7", "10.0.0.8"]));
        assert_eq!(hosts.addresses("absent"), None);
    }
}
