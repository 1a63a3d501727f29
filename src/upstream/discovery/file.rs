//! Backends from a file, which is read again when it changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::config::backends_file::read;
use crate::files::{self, Stamp};
use crate::upstream::backends::{Backends, Listing};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a file must have been left alone before it is read: whoever writes it in place needs more than one write.
const SETTLED: Duration = Duration::from_millis(100);

/// The file's stamp; `None` where no thread can be started to look at it, too.
async fn look(path: &Arc<Path>) -> Option<Stamp> {
    let path = Arc::clone(path);
    files::away(move || Stamp::of(&path)).await?
}

/// Reads the file again whenever it has changed, for as long as the process runs.
pub(super) async fn follow(backends: &Backends, path: &Path, default_port: Option<u16>) {
    let path: Arc<Path> = path.into();
    // What it held at start is known; that it may have changed since is found out at the first look.
    let mut read_at: Option<Option<Stamp>> = None;
    loop {
        sleep(LOOK).await;
        let stamp = look(&path).await;
        if read_at == Some(stamp) && !stamp.is_some_and(Stamp::is_fresh) {
            continue;
        }
        sleep(SETTLED).await;
        if look(&path).await != stamp {
            continue;
        }
        read_at = Some(stamp);
        let path = Arc::clone(&path);
        match files::away(move || read(&path, default_port)).await {
            Some(Ok(endpoints)) => {
                backends.publish(endpoints.into_iter().map(Listing::in_order).collect(), "file_changed");
            }
            Some(Err(error)) => backends.unknown(&error.to_string()),
            None => {
                read_at = None;
                backends.unknown(files::NO_THREAD);
            }
        }
    }
}
