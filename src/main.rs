//! The binary; what it does is in the library, where tests, benchmarks and fuzz targets can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    redis_ambassador::main()
}
