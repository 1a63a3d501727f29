//! Real balancers, in front of the ambassador or behind it.

use std::fmt::Display;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{command_is_missing, eventually, leave_out};

/// A running `haproxy` or `nginx`.
pub(crate) struct Balancer {
    child: Child,
    _directory: TempDir,
}

/// A part of a balancer's configuration, and where it listens by it.
pub(crate) type Part = (SocketAddr, String);

impl Balancer {
    /// `haproxy` with these listeners; `None` where there is none.
    pub(crate) fn haproxy(listeners: &[Part]) -> Option<Self> {
        if command_is_missing("haproxy") {
            return None;
        }
        let configuration = |listeners: String, _: &Path| {
            format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout check 5s\n\
                 {listeners}\n"
            )
        };
        Some(Self::start(&["haproxy", "-db", "-f"], configuration, listeners))
    }

    /// `nginx` with these servers of streams; `None` where there is none with streams.
    pub(crate) fn nginx(servers: &[Part]) -> Option<Self> {
        const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
        if command_is_missing("nginx") {
            return None;
        }
        if !Path::new(MODULE).exists() {
            leave_out("there is no nginx for streams (libnginx-mod-stream)");
            return None;
        }
        let configuration = |servers: String, directory: &Path| {
            let directory = directory.display();
            format!(
                "load_module {MODULE};\ndaemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/log;\n\
                 events {{}}\nstream {{\n{servers}\n}}\n"
            )
        };
        Some(Self::start(&["nginx", "-e", "stderr", "-c"], configuration, servers))
    }

    fn start(program: &[&str], configuration: impl Fn(String, &Path) -> String, parts: &[Part]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("configuration");
        let text = parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
        fs::write(&path, configuration(text, directory.path())).expect("a configuration file");
        let said = directory.path().join("stderr");
        let child = Command::new(program[0])
            .args(&program[1..])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).expect("a file"))
            .spawn()
            .expect("the balancer starts");
        let mut balancer = Self { child, _directory: directory };
        for (address, _) in parts {
            eventually("the balancer listens", || {
                let ended = balancer.child.try_wait().expect("a child").is_some();
                assert!(!ended, "{}", fs::read_to_string(&said).unwrap_or_default());
                TcpStream::connect(address).is_ok()
            });
        }
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listener of `haproxy`: what stands behind its address, the server, and what stands behind that.
pub(crate) fn listen(address: SocketAddr, bind: &str, server: impl Display, options: &str) -> Part {
    let port = address.port();
    (address, format!("listen port-{port}\n  bind {address} {bind}\n  server there {server} {options}"))
}
