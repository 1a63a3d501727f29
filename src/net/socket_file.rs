//! The file of a listening Unix socket: how it comes to be, whom it lets in, and how it goes.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a Unix socket, removed with its listener.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Which file it is: whatever else has that name by now is somebody else's.
    identity: (u64, u64),
}

impl fmt::Display for SocketFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.path.display())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok();
        if found.is_some_and(|found| identity(&found) == self.identity) {
            // If it can't be removed, the next start finds it refusing connections.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Listens at `path`. A socket that nobody listens at any more gives way; nothing else does.
pub(super) fn bind(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    // Of two that start at the same time, the second one must not remove the first one's file: it looks when the first
    // one listens.
    let turn = take_turn(path);
    make_way(path)?;
    let socket = bound(path, mode)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_path_buf(), identity: identity(&found) };
    // What the umask has taken away.
    if let Some(mode) = mode.filter(|mode| found.mode() & 0o777 != *mode) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    drop(turn);
    Ok((socket, file))
}

/// A socket with a file that lets nobody in who must not be: the file gets the mode of its socket, less the umask.
fn bound(path: &Path, mode: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        fchmod(&socket, Mode::from_raw_mode(mode))?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// How long somebody else may take to bind in the same directory: far longer than that takes. Whoever locks it for longer
/// does so for another reason.
const TURN: Duration = Duration::from_secs(5);

/// How often a turn is asked for meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until nobody else binds in this directory; the turn ends when the file is closed. Where the directory can't be
/// opened or its file system has no locks, nobody waits.
fn take_turn(path: &Path) -> Option<File> {
    let directory = File::open(path.parent()?).ok()?;
    let begun = Instant::now();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < TURN => sleep(LOOK),
            Err(_) => return None,
        }
    }
}

/// Removes the socket that a process left behind which is gone.
fn make_way(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    if kind.is_symlink() {
        return Err(in_the_way("a symbolic link"));
    }
    if !kind.is_socket() {
        return Err(in_the_way(if kind.is_dir() { "a directory" } else { "a file that is no socket" }));
    }
    let asking = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Whoever listens and is slow to accept has a full queue, and must not be waited for.
    asking.set_nonblocking(true)?;
    let Err(error) = asking.connect(&SockAddr::unix(path)?) else {
        return Err(io::ErrorKind::AddrInUse.into());
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => fs::remove_file(path),
        // It is gone by now.
        Some(Errno::NOENT) => Ok(()),
        Some(Errno::ACCESS | Errno::PERM) => Err(in_the_way(
            "a socket that this user may not connect to, so that it is not known whether anybody listens,",
        )),
        Some(Errno::PROTOTYPE) => Err(in_the_way("a socket of another kind")),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn in_the_way(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("{what} is there already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_no_moment_is_the_file_open_to_more_than_it_should_be() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o700] {
            let path = directory.path().join(format!("{mode:o}"));
            let _socket = bound(&path, Some(mode)).unwrap();
            let made = fs::symlink_metadata(&path).unwrap().mode() & 0o777;
            assert_eq!(made & !mode, 0, "{made:o} instead of {mode:o}");
        }
    }
}
