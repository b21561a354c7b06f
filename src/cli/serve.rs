//! `pgweir serve`: runs the proxy.

use crate::config::{self, Surroundings};
use crate::error::Result;
use crate::server;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_long_help = config::help())]
pub struct Args {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", env = "PGWEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one setting, over the file and the environment, e.g. server.port=6432
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    server::run(args.config.as_deref(), Surroundings::of_process(&args.settings))?;
    Ok(ExitCode::SUCCESS)
}
