//! The grammar of a file of backends: one `HOST:PORT` a line, `#` for comments.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::target::endpoint;
use crate::files;
use crate::net::Endpoint;
use crate::text;

/// The largest file in bytes, far more than ten thousand backends need.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}{}: {reason}", path.display(), Line(*line))]
pub struct FileError {
    path: PathBuf,
    line: Option<usize>,
    reason: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, ", line {line}"),
            None => Ok(()),
        }
    }
}

/// Reads the backends of a file. An empty list is an error, as is a malformed line.
pub fn read(path: &Path, default_port: Option<u16>) -> Result<Vec<Endpoint>, FileError> {
    let error = |reason: String| FileError { path: path.to_path_buf(), line: None, reason };
    let file = files::open(path).map_err(error)?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| error(text::io_error(&e)))?;
    if text.len() as u64 > LARGEST {
        return Err(error(format!("it is larger than {LARGEST} bytes")));
    }
    let endpoints = parse(&text, default_port).map_err(|(line, reason)| FileError {
        path: path.to_path_buf(),
        line: Some(line),
        reason,
    })?;
    if endpoints.is_empty() {
        return Err(error("it names no backend".to_owned()));
    }
    Ok(endpoints)
}

/// Parses the backends; an error has the number of the first invalid line.
pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Result<Vec<Endpoint>, (usize, String)> {
    let mut endpoints = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let endpoint = endpoint(line, default_port).map_err(|e| (number + 1, e.to_string()))?;
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::text;

    #[test]
    fn a_file_without_an_end_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST + 1).unwrap();
        let error = read(file.path(), None).unwrap_err();
        assert!(error.to_string().ends_with(": it is larger than 4194304 bytes"), "{error}");
    }

    #[test]
    fn lines_comments_and_line_endings_are_read() {
        let endpoints = parse(&text("backends/good"), Some(6379)).unwrap();
        let shown: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a:1", "[::1]:2", "b:6379"]);
    }

    #[test]
    fn the_first_line_that_is_no_backend_is_named() {
        assert_eq!(parse(&text("backends/broken-line-4"), None).unwrap_err().0, 4);
        assert_eq!(
            parse(&text("backends/without-port"), None).unwrap_err(),
            (1, "it names no port".to_owned())
        );
    }
}
