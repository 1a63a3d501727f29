//! What takes longer than a test may: load (`make load`) and the long run (`make soak`). Nothing here runs by itself.

mod load;
mod soak;
#[expect(dead_code, unused_imports, reason = "it is the other tests' too")]
#[path = "../it/support/mod.rs"]
mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on file descriptors, and says what it is now.
fn raise_descriptors() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as far as the hard limit");
    usize::try_from(maximum.unwrap_or(1 << 20)).expect("a limit")
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people to read")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
