//! Where the installed Postgres is.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest major version that pgweir works with.
pub const OLDEST: u32 = 15;

/// An installed Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// the directory that holds `postgres` and `initdb`
    pub bin: PathBuf,
    /// e.g. 15
    pub major: u32,
    /// what `postgres --version` prints
    pub version: String,
}

impl Postgres {
    /// The newest installation, at least [`OLDEST`], in PATH or in the usual places of distributions.
    pub fn find() -> Result<Postgres> {
        let mut found: Vec<Postgres> = places().iter().filter_map(|bin| Postgres::at(bin)).collect();
        // stable: of equal versions the one that PATH names first
        found.sort_by_key(|p| std::cmp::Reverse(p.major));
        match found.into_iter().next() {
            Some(postgres) if postgres.major >= OLDEST => Ok(postgres),
            Some(postgres) => Err(Error::config(format!(
                "the newest PostgreSQL server that is installed is {} (in {})",
                postgres.major,
                postgres.bin.display()
            ))
            .hint(format!("Install PostgreSQL {OLDEST} or newer, server included."))),
            None => Err(Error::config("no PostgreSQL server is installed")
                .detail("Looked in PATH, where pg_config points, and in the usual places of distributions.")
                .hint(format!(
                    "Install PostgreSQL {OLDEST} or newer, server included (on Debian: the package `postgresql`), or put the directory of `postgres` and `initdb` into PATH."
                ))),
        }
    }

    /// The installation in that directory, if there is a complete one.
    pub fn at(bin: &Path) -> Option<Postgres> {
        if !bin.join("initdb").is_file() || !bin.join("postgres").is_file() {
            return None;
        }
        let version = said(Command::new(bin.join("postgres")).arg("--version"))?;
        Some(Postgres { bin: bin.to_owned(), major: major(&version)?, version })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Directories that may hold the programs, without repetition; several of them may not exist.
fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Some(bin) = said(Command::new("pg_config").arg("--bindir")) {
        places.push(PathBuf::from(bin));
    }
    // Debian and SUSE, Red Hat, built from source, Homebrew on ARM and on Intel, Postgres.app, Arch and Alpine
    for (parent, child) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr/lib", "bin"),
        ("/usr", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
        ("/usr/libexec", ""),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut versions: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| {
                let name = e.file_name();
                let name = name.to_string_lossy();
                name.starts_with("postgresql")
                    || name.starts_with("pgsql-")
                    || name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            })
            .map(|e| e.path().join(child))
            .collect();
        versions.sort();
        places.extend(versions);
    }
    places.push(PathBuf::from("/usr/local/pgsql/bin"));
    let mut seen = std::collections::HashSet::new();
    places.retain(|p| seen.insert(p.clone()));
    places
}

/// The first line that a program prints, if it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` -> 15; also `18beta1`, `19devel`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("mysqld 8"), None);
    }

    #[test]
    fn an_installation_needs_both_programs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Postgres::at(dir.path()), None);
        std::fs::write(dir.path().join("initdb"), "").unwrap();
        assert_eq!(Postgres::at(dir.path()), None);
    }
}
