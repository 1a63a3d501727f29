//! Backends from a file, which is read again when it changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::config::backends_file::read;
use crate::net::Endpoint;
use crate::reload::Reloading;
use crate::upstream::backends::{Backends, Listing};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Reads the file again whenever it has changed, for as long as the process runs.
pub(super) async fn follow(backends: &Backends, path: &Path, default_port: Option<u16>) {
    let path = path.to_path_buf();
    let paths = [path.clone()];
    let read = move |last: &Vec<Endpoint>| {
        let found = read(&path, default_port).map_err(|error| error.to_string())?;
        Ok((found != *last).then_some(found))
    };
    // What it held at start is known; that it may have changed since is found out at the first look.
    let file = Reloading::new(paths, Vec::new(), read, |_| {});
    let (mut published, mut is_known) = (file.last(), true);
    loop {
        sleep(LOOK).await;
        file.current().await;
        let failure = file.failure();
        let found = file.last();
        if let Some(failure) = &failure {
            backends.unknown(&failure.reason, failure.remedy.as_deref());
        } else if !is_known || !Arc::ptr_eq(&found, &published) {
            backends.publish(found.iter().cloned().map(Listing::in_order).collect(), "file_changed");
            published = found;
        }
        is_known = failure.is_none();
    }
}
