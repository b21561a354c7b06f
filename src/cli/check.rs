//! `pgweir check`: validates configuration and shard maps, and compares maps with the live schemas.
//!
//! Three levels. An *error*: statements would fail or go wrong. A *warning*: something works less well than
//! it should, or will fail in an unlucky hour. A *note*: worth knowing. Errors and warnings make the exit code 1.

mod live;

use crate::backend;
use crate::config::{self, Config, Surroundings};
use crate::error::{Error, Result};
use crate::options::{Raw, Section};
use crate::shards::{self, ShardMap};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Nothing is wrong, something is, the check could not be made.
const FINE: u8 = 0;
const FINDINGS: u8 = 1;
const NOT_RUN: u8 = 2;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is, 2 the check could not be made.\n\
                  Shards that cannot be reached are noted and not compared.")]
pub struct Args {
    /// Configuration file; pgweir.toml when neither this nor --map is given
    #[arg(long, short, value_name = "FILE", env = "PGWEIR_CONFIG", conflicts_with = "maps")]
    pub config: Option<PathBuf>,
    /// Shard map file, instead of a configuration; may be repeated
    #[arg(long = "map", value_name = "FILE")]
    pub maps: Vec<PathBuf>,
    /// With --config: section.key=value; with --map: a setting of the databases, e.g. service_user=postgres
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Look at files only, connect to no shard
    #[arg(long)]
    pub offline: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warning,
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    /// stable name of the kind, for scripts
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    pub message: String,
    /// what to write or to do instead
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A shard that was asked.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Asked {
    pub database: String,
    pub shard: String,
    /// why it could not be compared
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
    shards: Vec<Asked>,
    files: usize,
}

/// One database to be checked.
pub(super) struct Subject {
    pub map: Arc<ShardMap>,
    pub file: PathBuf,
    pub servers: backend::Options,
    /// by shard, where pgweir's own log-in differs
    pub services: BTreeMap<String, backend::options::ServiceLogin>,
    /// as configured; empty with --map
    pub users: Arc<Config>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let outcome = check(&args);
    let report = match outcome {
        Ok(report) => report,
        Err(e) => {
            super::report(&e);
            return Ok(ExitCode::from(NOT_RUN));
        }
    };
    print(&report, args.json)?;
    let wrong = report.findings.iter().any(|f| f.level < Level::Note);
    Ok(ExitCode::from(if wrong { FINDINGS } else { FINE }))
}

fn check(args: &Args) -> Result<Report> {
    let mut report = Report::default();
    let subjects =
        if args.maps.is_empty() { of_config(args, &mut report)? } else { of_maps(args, &mut report)? };
    if !args.offline {
        super::block_on(async {
            for subject in &subjects {
                let (findings, asked) = live::compare(subject).await;
                report.findings.extend(findings);
                report.shards.extend(asked);
            }
            Ok(())
        })?;
    }
    report.findings.sort_by_key(|f| f.level);
    Ok(report)
}

fn of_config(args: &Args, report: &mut Report) -> Result<Vec<Subject>> {
    let file = args.config.clone().unwrap_or_else(|| PathBuf::from("pgweir.toml"));
    if !file.exists() {
        return Err(Error::config(format!("there is no {}", file.display()))
            .hint("Name a configuration with --config, or shard maps with --map."));
    }
    report.files += 1;
    let config = match config::load(Some(&file), &Surroundings::of_process(&args.settings)) {
        Ok(config) => Arc::new(config),
        Err(mistakes) => {
            report.findings.extend(mistakes.into_iter().map(|m| Finding {
                level: Level::Error,
                code: "configuration",
                file: Some(m.place),
                line: m.line,
                database: None,
                shard: None,
                message: m.message,
                hint: m.instead,
            }));
            return Ok(vec![]);
        }
    };
    if let Err(e) = crate::session::tls::load(&config.tls) {
        report.findings.push(Finding {
            level: Level::Error,
            code: "certificate",
            file: Some(file.display().to_string()),
            line: None,
            database: None,
            shard: None,
            message: e.message().to_owned(),
            hint: e.hint_text().map(str::to_owned),
        });
    }
    let mut subjects = Vec::new();
    for (name, database) in &config.databases {
        let Some(map) = read_map(&database.place.map, report) else { continue };
        if *map.database != **name {
            report.findings.push(Finding {
                level: Level::Error,
                code: "database-name",
                file: Some(database.place.map.display().to_string()),
                line: None,
                database: Some(name.clone()),
                shard: None,
                message: format!(
                    "the map is of database \"{}\", and the configuration has it under [database.{name}]",
                    map.database
                ),
                hint: Some(format!(
                    "Write database = \"{name}\" in the map, or [database.{}] in the configuration.",
                    map.database
                )),
            });
        }
        subjects.push(Subject {
            map: Arc::new(map),
            file: database.place.map.clone(),
            servers: database.servers.clone(),
            services: database.shards.clone(),
            users: config.clone(),
        });
    }
    Ok(subjects)
}

fn of_maps(args: &Args, report: &mut Report) -> Result<Vec<Subject>> {
    let mut servers = backend::Options::default();
    for setting in &args.settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            Error::config(format!("--set {setting}: not a setting"))
                .hint("Write key=value, e.g. service_user=postgres.")
        })?;
        match servers.set(key, &Raw::Word(value.to_owned()), Path::new("")) {
            Some(Ok(())) => {}
            Some(Err(expected)) => {
                return Err(Error::config(format!("--set {key}: expected {expected}")));
            }
            None => {
                let known: Vec<&str> = servers.settings().iter().map(|s| s.key).collect();
                return Err(Error::config(format!("--set {key}: there is no such setting"))
                    .hint(format!("There are {}.", known.join(", "))));
            }
        }
    }
    let mut subjects = Vec::new();
    for file in &args.maps {
        if !file.exists() {
            return Err(Error::config(format!("there is no {}", file.display())));
        }
        if let Some(map) = read_map(file, report) {
            let (map, servers) = (Arc::new(map), servers.clone());
            let (services, users) = (BTreeMap::new(), Arc::default());
            subjects.push(Subject { map, file: file.clone(), servers, services, users });
        }
    }
    Ok(subjects)
}

/// A map, or its mistakes in the report.
fn read_map(file: &Path, report: &mut Report) -> Option<ShardMap> {
    report.files += 1;
    match shards::file::load(file) {
        Ok(map) => Some(map),
        Err(findings) => {
            report.findings.extend(findings.into_iter().map(|f| Finding {
                level: Level::Error,
                code: "shard-map",
                file: Some(f.file.to_string()),
                line: (f.line > 0).then_some(f.line as usize),
                database: None,
                shard: None,
                message: f.message,
                hint: Some(f.hint),
            }));
            None
        }
    }
}

fn print(report: &Report, json: bool) -> Result<()> {
    let mut count = BTreeMap::from([(Level::Error, 0), (Level::Warning, 0), (Level::Note, 0)]);
    for finding in &report.findings {
        *count.entry(finding.level).or_default() += 1;
    }
    let count = |level| count.get(&level).copied().unwrap_or(0);
    let (errors, warnings, notes) = (count(Level::Error), count(Level::Warning), count(Level::Note));
    if json {
        let value = serde_json::json!({
            "findings": report.findings, "shards": report.shards, "files": report.files,
            "errors": errors, "warnings": warnings, "notes": notes,
        });
        let text = serde_json::to_string_pretty(&value)
            .map_err(|e| Error::internal(format!("cannot print JSON: {e}")))?;
        println!("{text}");
        return Ok(());
    }
    for finding in &report.findings {
        println!("{finding}");
    }
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let reached = report.shards.iter().filter(|s| s.error.is_none()).count();
    println!(
        "{}, {} of {} compared: {}, {}, {}",
        plural(report.files, "file"),
        reached,
        plural(report.shards.len(), "shard"),
        plural(errors, "error"),
        plural(warnings, "warning"),
        plural(notes, "note"),
    );
    Ok(())
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{level}: ")?;
        if let Some(shard) = &self.shard {
            write!(f, "shard {shard}: ")?;
        }
        f.write_str(&self.message)?;
        for (i, line) in self.hint.iter().flat_map(|h| h.lines()).enumerate() {
            write!(f, "\n  {} {line}", if i == 0 { "hint:" } else { "     " })?;
        }
        Ok(())
    }
}
