//! Data directories made once and copied.
//!
//! `initdb` takes seconds, a copy a tenth of one. Templates lie in the system's directory for temporary
//! files, owned by the servers' account and closed to others. There is one per shard number, because a
//! copy has its original's system identifier, and shards must not share theirs: that is how a server that
//! belongs to another shard is told.

use crate::cluster::account::Account;
use crate::cluster::binaries::Postgres;
use crate::error::{Error, Result};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a fresh data directory holds. Equal specifications share a template.
#[derive(Debug, Clone)]
pub struct Spec {
    pub locale: String,
    /// MB per file of write-ahead log: 16 as usual, 1 where copying must be quick
    pub wal_segment: u32,
    pub superuser: String,
    /// roles to be made: name, and attributes after WITH
    pub roles: Vec<(String, String)>,
    /// databases to be made, and their owner
    pub databases: Vec<String>,
    pub owner: String,
}

/// Makes `target` a data directory; blocking.
pub fn lay(
    postgres: &Postgres,
    account: &Account,
    spec: &Spec,
    shard: usize,
    fast: bool,
    target: &Path,
) -> Result<()> {
    if !fast {
        return make(postgres, account, spec, target);
    }
    let Some(cache) = cache(account) else { return make(postgres, account, spec, target) };
    let key = key(postgres, account, spec, shard);
    let template = cache.join(&key);
    let lock = File::create(cache.join(format!("{key}.lock"))).map_err(|e| failed("lock", &cache, e))?;
    lock.lock().map_err(|e| failed("lock", &cache, e))?;
    for attempt in 0..2 {
        if !template.exists() {
            let fresh = cache.join(format!("{key}.new"));
            remove(&fresh)?;
            make(postgres, account, spec, &fresh)?;
            let files = count(&fresh)?;
            fs::write(cache.join(format!("{key}.files")), files.to_string())
                .map_err(|e| failed("write to", &cache, e))?;
            fs::rename(&fresh, &template).map_err(|e| failed("rename", &fresh, e))?;
        }
        // The system may clean old files out of its temporary directory one by one.
        let expected = fs::read_to_string(cache.join(format!("{key}.files"))).unwrap_or_default();
        if expected == count(&template)?.to_string() {
            copy(&template, target, account)?;
            return Ok(());
        }
        if attempt == 0 {
            remove(&template)?;
        }
    }
    Err(Error::internal(format!("the template in {} does not stay whole", template.display())))
}

/// Copies a data directory of a server that is shut down.
pub fn copy(from: &Path, to: &Path, account: &Account) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700).create(to).map_err(|e| failed("make", to, e))?;
    account.own(to)?;
    for entry in fs::read_dir(from).map_err(|e| failed("read", from, e))? {
        let entry = entry.map_err(|e| failed("read", from, e))?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(|e| failed("read", from, e))?.is_dir() {
            copy(&entry.path(), &target, account)?;
        } else {
            fs::copy(entry.path(), &target).map_err(|e| failed("write", &target, e))?;
            account.own(&target)?;
        }
    }
    Ok(())
}

/// Removes a directory, if it is there.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", dir, e)),
        _ => Ok(()),
    }
}

fn make(postgres: &Postgres, account: &Account, spec: &Spec, target: &Path) -> Result<()> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().mode(0o700).create(target).map_err(|e| failed("make", target, e))?;
    account.own(target)?;
    let mut initdb = Command::new(postgres.program("initdb"));
    initdb
        .arg("-D")
        .arg(target)
        .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--auth=trust"])
        .arg(format!("--locale={}", spec.locale))
        .arg(format!("--wal-segsize={}", spec.wal_segment))
        .arg(format!("--username={}", spec.superuser))
        .env("TZ", "UTC");
    run(initdb, account, parent, "")?;
    let mut script = String::new();
    for (role, attributes) in &spec.roles {
        script += &format!("CREATE ROLE {} WITH {attributes};\n", identifier(role));
    }
    for database in spec.databases.iter().filter(|d| *d != "postgres") {
        script += &format!("CREATE DATABASE {} OWNER {};\n", identifier(database), identifier(&spec.owner));
    }
    if script.is_empty() {
        return Ok(());
    }
    let mut single = Command::new(postgres.program("postgres"));
    single
        .args(["--single", "-c", "exit_on_error=on", "-c", "fsync=off", "-c", "log_checkpoints=off", "-D"])
        .arg(target)
        .arg("postgres");
    run(single, account, parent, &script)
}

/// Runs a program to its end as the account; its output is the error's detail when it fails.
fn run(mut command: Command, account: &Account, dir: &Path, input: &str) -> Result<()> {
    account.dress(&mut command);
    undress_environment(&mut command);
    command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let cannot = |e: std::io::Error| Error::config(format!("cannot run {name}: {e}"));
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that fails early does not read all; its exit code and words tell
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::config(format!("{name} failed: {}", output.status))
        .detail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The caller's own connection settings and language do not concern the servers.
pub fn undress_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("LC_") || name == "LANG" || name == "LANGUAGE" {
            command.env_remove(&*name);
        }
    }
    command.env("LC_ALL", "C");
}

/// A name as SQL writes it.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as SQL writes it, whatever standard_conforming_strings says.
pub fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The directory of templates; `None` when somebody else may have put something there.
fn cache(account: &Account) -> Option<PathBuf> {
    // SAFETY: returns a number and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let dir = std::env::temp_dir().join(format!("pgweir-templates-{uid}"));
    // an error because it is there already is looked at below
    let _ = DirBuilder::new().mode(0o711).create(&dir);
    let meta = fs::symlink_metadata(&dir).ok()?;
    (meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0 && account.reaches(&dir)).then_some(dir)
}

fn key(postgres: &Postgres, account: &Account, spec: &Spec, shard: usize) -> String {
    let all = format!("{postgres:?} {} {spec:?}", account.uid);
    format!("{}-{:016x}-{shard}", postgres.major, xxhash_rust::xxh3::xxh3_64(all.as_bytes()))
}

/// Files below a directory, and the bytes in them.
fn count(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(|e| failed("read", dir, e))? {
        let entry = entry.map_err(|e| failed("read", dir, e))?;
        let meta = entry.metadata().map_err(|e| failed("read", dir, e))?;
        sum += if meta.is_dir() { count(&entry.path())? } else { 1 + meta.len() };
    }
    Ok(sum)
}

fn failed(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot {what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_words() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\ so"), " E'it''s \\\\ so'");
    }
}
