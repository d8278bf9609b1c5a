//! The daemon `nwfilterd`.

use clap::Parser;
use nwfilter::service::config::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    match nwfilter::service::daemon::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nwfilterd: {}", failure.report());
            ExitCode::FAILURE
        }
    }
}
