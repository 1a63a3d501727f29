//! The file of a listening Unix socket: created with its mode, and removed with the listener.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::process::umask;
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a Unix socket, removed when dropped, unless the socket lives on.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a different file at the path belongs to another process. None where the file is to stay.
    identity: Option<(u64, u64)>,
}

impl fmt::Display for SocketFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.path.display())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok();
        if self.identity.is_some() && found.map(|found| identity(&found)) == self.identity {
            // If it can't be removed, the next start replaces it: nothing listens there.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl SocketFile {
    /// That of a socket which somebody else has, too.
    pub(super) fn of_another(path: PathBuf) -> Self {
        Self { path, identity: None }
    }

    /// Gives it this mode; without one that which a new file has, less the umask.
    pub(super) fn set_mode(&self, mode: Option<u32>) -> io::Result<()> {
        let mode = mode.unwrap_or_else(|| {
            // It can only be read by setting it. A file that is made meanwhile has too narrow a mode, never too wide a one.
            let umask_now = umask(Mode::from_raw_mode(0o777));
            umask(umask_now);
            0o777 & !umask_now.as_raw_mode()
        });
        if fs::symlink_metadata(&self.path)?.mode() & 0o777 == mode {
            return Ok(());
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// Somebody else has the socket, too: the file stays.
    pub(super) fn stay(&mut self) {
        self.identity = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Listens at `path`. Replaces the socket of a process that no longer listens, and no other file.
pub(super) fn bind(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    // Locked until the socket listens: of two processes that start at the same time, the second must not take the file
    // of
    // the first for an abandoned one.
    let lock = lock_directory(path);
    remove_abandoned(path)?;
    let socket = bound(path, mode)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_path_buf(), identity: Some(identity(&found)) };
    // Restores the bits that the umask removed.
    if mode.is_some() {
        file.set_mode(mode)?;
    }
    socket.listen(backlog)?;
    drop(lock);
    Ok((socket, file))
}

/// A bound socket whose file never has a wider mode: the kernel creates it with the mode of the socket, less the umask.
fn bound(path: &Path, mode: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        fchmod(&socket, Mode::from_raw_mode(mode))?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// The timeout for the lock, far longer than another process needs to bind. A lock held longer has another purpose.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Locks the directory against other processes that bind there, until the file is closed. `None` after the timeout, or
/// where the directory can't be opened or its file system has no locks: then without a lock.
fn lock_directory(path: &Path) -> Option<File> {
    let directory = File::open(path.parent()?).ok()?;
    let begun = Instant::now();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_TIMEOUT => sleep(LOCK_INTERVAL),
            Err(_) => return None,
        }
    }
}

/// Removes a socket at which no process listens any more; any other file is an error.
pub(super) fn remove_abandoned(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    if kind.is_symlink() {
        return Err(in_the_way("a symbolic link"));
    }
    if !kind.is_socket() {
        return Err(in_the_way(if kind.is_dir() { "a directory" } else { "a file that is no socket" }));
    }
    let asking = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where the backlog of a slow listener is full, a blocking connect would wait.
    asking.set_nonblocking(true)?;
    let Err(error) = asking.connect(&SockAddr::unix(path)?) else {
        return Err(io::ErrorKind::AddrInUse.into());
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => fs::remove_file(path),
        // Removed meanwhile.
        Some(Errno::NOENT) => Ok(()),
        Some(Errno::ACCESS | Errno::PERM) => {
            Err(in_the_way("a socket that this user may not connect to (and so may be in use)"))
        }
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
