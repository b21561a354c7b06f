//! The command line: one file per subcommand.
//!
//! Each file has `Args` (what clap parses, and so what `--help` says) and `run(Args) -> Result<ExitCode>`;
//! this file only names them. A subcommand prints its answer on standard output and returns; an error
//! comes back as [`Error`] and is printed here, on standard error, with its DETAIL and HINT.
//! Exit codes: 0 done, 1 failed or something wrong was found, 2 the arguments make no sense (clap).
//!
//! May import every room; nothing imports it but `main.rs`. When a flag behaves oddly, look at the
//! subcommand's `Args`; when it does the wrong thing, at the room that it calls.

mod check;
mod dev;
mod route;
mod serve;

use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A PostgreSQL proxy that makes many Postgres servers behave as one.
#[derive(Debug, Parser)]
#[command(name = "pgweir", version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Serve(serve::Args),
    /// Validate shard map files, and compare them with the live schemas
    Check(check::Args),
    /// Tell where a statement would go, and why, without any server
    Route(route::Args),
    /// Start, show and stop a local cluster with the proxy in front
    Dev(dev::Args),
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if !matches!(command, Command::Serve(_)) {
        die_with_the_reader();
    }
    let outcome = match command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(args),
        Command::Route(args) => route::run(args),
        Command::Dev(args) => dev::run(args),
    };
    outcome.unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

/// `pgweir route ... | head` ends quietly when nobody reads any more, like other programs. A proxy must not: there
/// a broken pipe is an error of one socket.
fn die_with_the_reader() {
    // SAFETY: no other thread runs yet, and the default action is always valid.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// An error as a person at a terminal should meet it: the SQLSTATE is for clients of the proxy and left out.
fn report(error: &Error) {
    eprintln!("pgweir: {}", error.message());
    if let Some(detail) = error.detail_text() {
        eprintln!("DETAIL: {detail}");
    }
    if let Some(hint) = error.hint_text() {
        eprintln!("HINT: {hint}");
    }
}

#[allow(dead_code, reason = "used by the subcommands that talk to servers")]
/// A subcommand's runtime, for those that talk to servers but are not one: current thread, all drivers.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("cannot start the async runtime: {e}")))?
        .block_on(work)
}
