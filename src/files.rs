//! Files that settings name.

use std::fs::File;
use std::path::Path;

use crate::failure::words;

/// Opens a file for reading, or says why it can't be: opening a pipe that nobody writes to would wait for ever, and a
/// device may have no end.
pub fn open(path: &Path) -> Result<File, String> {
    let kind = std::fs::metadata(path).map_err(|e| words(&e))?;
    if !kind.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|e| words(&e))
}
