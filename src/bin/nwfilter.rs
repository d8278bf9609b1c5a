//! The command `nwfilter`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nwfilter::cli::main()
}
