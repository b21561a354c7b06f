//! `pgweir dev`: a local cluster.

use crate::error::{Error, Result};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(args: Args) -> Result<ExitCode> {
    let Args {} = args;
    Err(Error::unsupported("this subcommand is not part of this build"))
}
