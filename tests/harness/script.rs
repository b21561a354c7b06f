//! Scripts in other languages, as processes. `scripts/drivers` fetches what they need.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// No script takes nearly as long; one that hangs must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a script of tests/drivers prints when it is given that URL.
pub async fn output(interpreter: &Path, script: &str, url: &str) -> String {
    output_of(interpreter, script, &[url]).await
}

/// What a script of tests/drivers prints when it is given those arguments.
pub async fn output_of(interpreter: &Path, script: &str, arguments: &[&str]) -> String {
    let running = tokio::process::Command::new(interpreter)
        .arg(Path::new("tests/drivers").join(script))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{script} does not end"))
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", interpreter.display()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return said;
    }
    // the last line of a traceback is the error
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Vec<&str> = errors.lines().rev().take(5).collect();
    format!("{said}the script failed: {}\n", last.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

pub fn python() -> PathBuf {
    let python = home().join("venv/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/drivers", python.display());
    python
}

pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/drivers")
}
