//! Files, environment and flags become effective settings here, and only here.
//!
//! The order, later wins: defaults, `pgweir.toml`, `PGWEIR_<SECTION>_<KEY>`, `--set section.key=value`. Each room declares its own
//! settings with [`options!`](crate::options!); this file knows only which section of the file belongs to which room.
//!
//! A wrong file never yields half a configuration: all mistakes are collected, each with file, line and what
//! to write instead, and the whole is refused. Secrets can stand in the file, in a file of their own
//! (`password_file`) or in a variable (`password_env`); they are never printed, [`Secret`](crate::options::Secret) sees to that.
//!
//! May import the `Options` of every room and nothing else of them. When a setting does not take effect, look at
//! [`load`] for the order and at the room's `Options` for its meaning.

mod access;

use crate::admin;
use crate::backend;
use crate::error::Error;
use crate::options::{Raw, Section, Size, did_you_mean};
use crate::session::auth::{self, identity, lookup, rules};
use crate::session::{database, tls};
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{Document, Item, TableLike, Value};

crate::choice! {
    pub enum LogFormat {
        Text = "text",
        Json = "json",
    }
}

crate::options! {
    /// The process: where it listens and how much it admits. Changes of addresses, workers and stack need a restart.
    pub struct Listening {
        /// TCP addresses (`host:port`, `[::1]:port`) and folders of unix sockets (`/run/pgweir`, or `/run/pgweir:port`)
        listen: Vec<String> = vec!["127.0.0.1:6432".into()],
        /// the port of addresses and folders that name none
        port: u16 = 6432,
        /// several processes listen on the same TCP ports (SO_REUSEPORT), and the kernel spreads clients over them
        reuse_port: bool = false,
        /// folder where the processes of this machine that serve the same clients find one another, so that each passes cancel requests
        /// on to the one whose session is meant; made if it is not there. None: a request for another one's session is lost
        run_dir: PathBuf = PathBuf::new(),
        /// worker threads; 0: one per core
        workers: usize = 0,
        /// stack of each worker: deep statements are parsed on it
        stack: Size = Size(16 << 20),
        /// connections that the kernel holds for us until they are accepted
        backlog: u32 = 1024,
        /// sessions at once; more are refused with 53300. Each is an open file, and so is each link: pgweir raises its own limit
        /// as far as the system lets it, and warns at start when that is too low
        max_clients: usize = 10_000,
        /// what clients may have pgweir hold in all: messages that are half sent and larger than 64KiB, twice, because they are passed
        /// on; prepared statements; rows of COPY; answers that are not read. Whoever finds no room is refused with 53200, others go
        /// on. 0: no limit
        max_memory: Size = Size(1 << 30),
        /// sessions at once from one address; 0: no limit. Unix sockets are not concerned
        max_clients_per_address: usize = 0,
        /// links that a user may have at once, on all shards and databases together; 0: no limit. An idle link on another shard or
        /// of another database ends when somebody waits
        max_user_connections: usize = 0,
        /// clients that have not logged in, at once; beyond that, those go that have said nothing for longest, and newcomers if there are none
        max_startups: usize = 1_000,
        /// from accept to a finished login
        startup_timeout: Duration = Duration::from_secs(10),
        /// how long sessions may take to end their transactions when pgweir stops
        drain_timeout: Duration = Duration::from_secs(30),
        /// reload shard maps when their files change; SIGHUP reloads in any case
        watch: bool = true,
        /// what is logged: `error`, `warn`, `info`, `debug`, or a filter such as `info,pgweir::session=debug`
        log: String = "info".into(),
        /// text for people, json for machines
        log_format: LogFormat = LogFormat::Text,
    }
}

crate::options! {
    /// Where a database's shard map is.
    pub struct Place {
        /// the shard map file
        map: PathBuf = PathBuf::new(),
        /// how often the shards' schemas are checked for changes that did not pass through pgweir
        schema_check: Duration = Duration::from_secs(30),
        /// for `[database."*"]`: the server's database in which pgweir asks whether others exist, and `auth_query` for users
        home: String = "postgres".into(),
        /// for `[database."*"]`: databases of that kind at once. One more takes the place of one without sessions, or is refused with
        /// 53300
        max_databases: usize = 100,
        /// for `[database."*"]`: a database that no session has used for so long is forgotten, and its links end
        database_idle_timeout: Duration = Duration::from_secs(60),
    }
}

/// One logical database as configured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Database {
    pub place: Place,
    pub session: database::Options,
    pub lookup: lookup::Options,
    pub servers: backend::Options,
    /// by shard, what its service user is called there
    pub shards: BTreeMap<String, backend::options::ServiceLogin>,
}

/// Everything that was configured, valid as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// `None`: made from flags and environment alone
    pub file: Option<PathBuf>,
    pub server: Listening,
    pub tls: tls::Options,
    pub auth: auth::Options,
    pub users: BTreeMap<String, auth::UserOptions>,
    /// by user and shard, where users are somebody else
    pub user_shards: BTreeMap<String, BTreeMap<String, auth::ShardUser>>,
    /// in order: the first that fits decides
    pub hba: Vec<rules::Options>,
    pub ident: Vec<identity::Options>,
    /// names of users by group
    pub groups: BTreeMap<String, Vec<String>>,
    pub databases: BTreeMap<String, Database>,
    pub admin: admin::Options,
}

/// What is wrong with a file, variable or flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// a file, or the name of a variable or flag
    pub place: String,
    pub line: Option<usize>,
    pub message: String,
    /// what to write instead
    pub instead: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(instead) = &self.instead {
            write!(f, "; {instead}")?;
        }
        Ok(())
    }
}

/// All of them at once, as one error.
pub fn refusal(mistakes: &[Mistake]) -> Error {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    let noun = if lines.len() == 1 { "1 mistake" } else { &format!("{} mistakes", lines.len()) };
    Error::config(format!("the configuration has {noun}\n{}", lines.join("\n")))
}

/// Where settings come from besides the file. Passed in, so that tests need no process of their own.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// environment variables
    pub variables: BTreeMap<String, String>,
    /// `section.key=value`
    pub flags: Vec<String>,
}

impl Surroundings {
    /// The process's own environment with these flags.
    pub fn of_process(flags: &[String]) -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Surroundings { variables, flags: flags.to_vec() }
    }
}

/// The effective configuration, or every mistake.
pub fn load(file: Option<&Path>, around: &Surroundings) -> Result<Config, Vec<Mistake>> {
    let mut reader = Reader::new(around);
    let mut config = Config { file: file.map(Path::to_owned), ..Config::default() };
    if let Some(path) = file {
        reader.place = path.display().to_string();
        reader.base = path.parent().map(Path::to_owned).unwrap_or_default();
        match std::fs::read_to_string(path) {
            Ok(text) => reader.read_file(&mut config, text),
            Err(e) => reader.mistake(None, format!("cannot be read: {e}"), None),
        }
    }
    reader.read_variables(&mut config);
    reader.read_flags(&mut config);
    if reader.mistakes.is_empty() {
        reader.cross_check(&config);
    }
    if reader.mistakes.is_empty() { Ok(config) } else { Err(reader.mistakes) }
}

struct Reader<'a> {
    around: &'a Surroundings,
    place: String,
    base: PathBuf,
    text: String,
    /// where each `[[user]]` and `[database.NAME]` stands, for mistakes found later
    lines: BTreeMap<String, usize>,
    mistakes: Vec<Mistake>,
}

const SECTIONS: [&str; 9] = ["server", "tls", "auth", "hba", "ident", "groups", "user", "database", "admin"];

impl<'a> Reader<'a> {
    fn new(around: &'a Surroundings) -> Self {
        Reader {
            around,
            place: "configuration".into(),
            base: PathBuf::new(),
            text: String::new(),
            lines: BTreeMap::new(),
            mistakes: Vec::new(),
        }
    }

    fn mistake(&mut self, line: Option<usize>, message: impl Into<String>, instead: Option<String>) {
        let place = self.place.clone();
        self.mistakes.push(Mistake { place, line, message: message.into(), instead });
    }

    fn line(&self, span: Option<Range<usize>>) -> Option<usize> {
        let upto = self.text.as_bytes().get(..span?.start)?;
        Some(1 + upto.iter().filter(|b| **b == b'\n').count())
    }

    fn read_file(&mut self, config: &mut Config, text: String) {
        self.text = text;
        let document = match Document::parse(self.text.clone()) {
            Ok(d) => d,
            Err(e) => {
                let line = self.line(e.span());
                return self.mistake(line, format!("not TOML: {}", e.message()), None);
            }
        };
        let root: &dyn TableLike = document.as_table();
        for (name, item) in root.iter() {
            let line = self.line(root.key(name).and_then(|k| k.span()).or(item.span()));
            match name {
                "server" => self.fill_item(name, item, line, &mut [&mut config.server]),
                "tls" => self.fill_item(name, item, line, &mut [&mut config.tls]),
                "auth" => self.fill_item(name, item, line, &mut [&mut config.auth]),
                "admin" => self.fill_item(name, item, line, &mut [&mut config.admin]),
                "hba" => self.read_hba(config, item, line),
                "ident" => self.read_ident(config, item, line),
                "groups" => self.read_groups(config, item, line),
                "user" => self.read_users(config, item, line),
                "database" => self.read_databases(config, item, line),
                _ => {
                    let instead = did_you_mean(name, SECTIONS)
                        .map(|s| format!("did you mean [{s}]?"))
                        .unwrap_or_else(|| format!("there are {}", SECTIONS.join(", ")));
                    self.mistake(line, format!("unknown section {name:?}"), Some(instead));
                }
            }
        }
    }

    fn read_users(&mut self, config: &mut Config, item: &Item, line: Option<usize>) {
        let Some(users) = item.as_array_of_tables() else {
            let instead = Some("write one [[user]] table for each, with name = \"...\"".into());
            return self.mistake(line, "users are a list of tables", instead);
        };
        for table in users.iter() {
            let line = self.line(table.span()).or(line);
            let mut user = auth::UserOptions::default();
            self.fill_but("user", table, &["shard"], &mut [&mut user]);
            let shards = self.read_shards("user", table);
            if user.name.is_empty() {
                self.mistake(line, "a user without a name", Some("add name = \"...\"".into()));
                continue;
            }
            if let Some(l) = line {
                self.lines.insert(format!("user.{}", user.name), l);
            }
            if config.users.contains_key(&user.name) {
                self.mistake(line, format!("user {:?} is there twice", user.name), Some("remove one".into()));
            }
            if !shards.is_empty() {
                config.user_shards.insert(user.name.clone(), shards);
            }
            config.users.insert(user.name.clone(), user);
        }
    }

    fn read_databases(&mut self, config: &mut Config, item: &Item, line: Option<usize>) {
        let Some(databases) = item.as_table_like() else {
            let instead = Some("write [database.NAME] with map = \"file\"".into());
            return self.mistake(line, "databases are tables", instead);
        };
        for (name, item) in databases.iter() {
            let line = self.line(databases.key(name).and_then(|k| k.span()).or(item.span()));
            let Some(table) = item.as_table_like() else {
                let instead = Some("write [database.NAME] with map = \"file\"".into());
                self.mistake(line, format!("{name:?} is no database"), instead);
                continue;
            };
            if let Some(l) = line {
                self.lines.insert(format!("database.{name}"), l);
            }
            let mut database = Database::default();
            let section = format!("database.{name}");
            database.shards = self.read_shards(&section, table);
            let Database { place, session, lookup, servers, .. } = &mut database;
            self.fill_but(&section, table, &["shard"], &mut [place, session, lookup, servers]);
            config.databases.insert(name.to_owned(), database);
        }
    }

    fn fill_item(&mut self, name: &str, item: &Item, line: Option<usize>, sections: &mut [&mut dyn Section]) {
        match item.as_table_like() {
            Some(table) => self.fill(name, table, sections),
            None => self.mistake(line, format!("{name} is a table"), Some(format!("write [{name}]"))),
        }
    }

    fn fill(&mut self, name: &str, table: &dyn TableLike, sections: &mut [&mut dyn Section]) {
        self.fill_but(name, table, &[], sections);
    }

    /// Leaves keys out that are read elsewhere.
    fn fill_but(
        &mut self,
        name: &str,
        table: &dyn TableLike,
        others: &[&str],
        sections: &mut [&mut dyn Section],
    ) {
        for (key, item) in table.iter().filter(|(key, _)| !others.contains(key)) {
            let line = self.line(table.key(key).and_then(|k| k.span()).or(item.span()));
            for base in ["_file", "_env"].iter().filter_map(|s| key.strip_suffix(s)) {
                if secret(sections, base) && table.contains_key(base) {
                    let instead = Some(format!("keep one of {base} and {key}"));
                    self.mistake(line, format!("{base} is given twice in [{name}]"), instead);
                }
            }
            match item.as_inline_table() {
                Some(table) if secret(sections, key) => {
                    self.secret_elsewhere(name, key, table, line, sections);
                }
                _ => self.assign(name, key, raw(item), line, sections),
            }
        }
    }

    /// Gives one key its value, whoever among the sections has it.
    fn assign(
        &mut self,
        name: &str,
        key: &str,
        raw: Raw,
        line: Option<usize>,
        sections: &mut [&mut dyn Section],
    ) {
        for section in sections.iter_mut() {
            match section.set(key, &raw, &self.base) {
                None => continue,
                Some(Ok(())) => return,
                Some(Err(expected)) => {
                    let message = match &raw {
                        Raw::Other(_) => refuse_kind(key, &raw),
                        _ if secret(&mut [&mut **section], key) => {
                            format!("{key} has a value of the wrong kind")
                        }
                        _ => refuse_kind(key, &raw),
                    };
                    return self.mistake(line, message, Some(format!("expected {expected}")));
                }
            }
        }
        if let Some(base) = key.strip_suffix("_file").filter(|base| secret(sections, base)) {
            return self.secret_from_file(name, base, key, raw, line, sections);
        }
        if let Some(base) = key.strip_suffix("_env").filter(|base| secret(sections, base)) {
            return self.secret_from_variable(name, base, key, raw, line, sections);
        }
        let known: Vec<&str> = sections.iter().flat_map(|s| s.settings()).map(|s| s.key).collect();
        let instead = match did_you_mean(key, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are {}", known.join(", ")),
        };
        self.mistake(line, format!("unknown key {key:?} in [{name}]"), Some(instead));
    }

    fn secret_from_file(
        &mut self,
        name: &str,
        base: &str,
        key: &str,
        raw: Raw,
        line: Option<usize>,
        sections: &mut [&mut dyn Section],
    ) {
        let path = match &raw {
            Raw::Text(p) => self.base.join(p),
            Raw::Word(p) => PathBuf::from(p),
            _ => return self.mistake(line, format!("{key} is not a path"), Some("expected a string".into())),
        };
        match std::fs::read_to_string(&path) {
            // editors end files with a newline; passwords do not
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                self.assign(name, base, Raw::Text(text), line, sections);
            }
            Err(e) => {
                let instead = Some("it must hold the secret and nothing else".into());
                self.mistake(line, format!("{key}: {} cannot be read: {e}", path.display()), instead);
            }
        }
    }

    fn secret_from_variable(
        &mut self,
        name: &str,
        base: &str,
        key: &str,
        raw: Raw,
        line: Option<usize>,
        sections: &mut [&mut dyn Section],
    ) {
        let (Raw::Text(variable) | Raw::Word(variable)) = &raw else {
            return self.mistake(line, format!("{key} is not the name of a variable"), None);
        };
        match self.around.variables.get(variable) {
            Some(text) => {
                let text = text.clone();
                self.assign(name, base, Raw::Text(text), line, sections);
            }
            None => {
                let instead = Some("set it before pgweir starts".into());
                self.mistake(line, format!("{key}: variable {variable} is not set"), instead);
            }
        }
    }

    /// `PGWEIR_SERVER_LISTEN` and so on. Other variables that begin with PGWEIR_ are left alone: container
    /// platforms invent some (PGWEIR_PORT and the like) for a service of this name.
    fn read_variables(&mut self, config: &mut Config) {
        for (variable, value) in self.around.variables.clone() {
            let Some(rest) = variable.strip_prefix("PGWEIR_") else { continue };
            let Some((section, key)) = section_of_variable(rest, config) else { continue };
            self.place = variable;
            self.assign_at(config, &section, &key, value);
        }
    }

    fn read_flags(&mut self, config: &mut Config) {
        for flag in self.around.flags.clone() {
            self.place = format!("--set {}", flag.split('=').next().unwrap_or_default());
            let parts = flag.split_once('=').and_then(|(path, value)| Some((path.rsplit_once('.')?, value)));
            match parts {
                Some(((section, key), value)) => self.assign_at(config, section, key, value.to_owned()),
                None => self.mistake(
                    None,
                    "not a setting",
                    Some("write section.key=value, e.g. server.port=6432".into()),
                ),
            }
        }
    }

    fn assign_at(&mut self, config: &mut Config, section: &str, key: &str, value: String) {
        let raw = Raw::Word(value);
        match section {
            "server" => self.assign(section, key, raw, None, &mut [&mut config.server]),
            "tls" => self.assign(section, key, raw, None, &mut [&mut config.tls]),
            "auth" => self.assign(section, key, raw, None, &mut [&mut config.auth]),
            "admin" => self.assign(section, key, raw, None, &mut [&mut config.admin]),
            _ => match section.split_once('.') {
                Some(("database", name)) => {
                    let database = config.databases.entry(name.to_owned()).or_default();
                    let Database { place, session, lookup, servers, .. } = database;
                    self.assign(section, key, raw, None, &mut [place, session, lookup, servers]);
                }
                Some(("user", name)) => {
                    let user = config.users.entry(name.to_owned()).or_default();
                    user.name = name.to_owned();
                    self.assign(section, key, raw, None, &mut [user]);
                }
                _ => {
                    let instead = did_you_mean(section, SECTIONS)
                        .map(|s| format!("did you mean {s}?"))
                        .unwrap_or_else(|| format!("there are {}", SECTIONS.join(", ")));
                    self.mistake(None, format!("unknown section {section:?}"), Some(instead));
                }
            },
        }
    }

    /// What no single value shows to be wrong.
    fn cross_check(&mut self, config: &Config) {
        self.place =
            config.file.as_ref().map(|f| f.display().to_string()).unwrap_or_else(|| "configuration".into());
        for address in &config.server.listen {
            if let Err(message) = parse_address(address, config.server.port) {
                let instead = Some("write host:port, or a folder that begins with /".into());
                self.mistake(None, format!("[server] listen: {message}"), instead);
            }
        }
        if config.server.listen.is_empty() {
            self.mistake(None, "[server] listen is empty", Some("name at least one address".into()));
        }
        if config.tls.mode != tls::Mode::Disable
            && (config.tls.cert.as_os_str().is_empty() || config.tls.key.as_os_str().is_empty())
        {
            let instead = Some("add cert = \"...\" and key = \"...\"".into());
            self.mistake(
                None,
                format!("[tls] mode {} needs a certificate", config.tls.mode.as_str()),
                instead,
            );
        }
        if matches!(config.tls.mode, tls::Mode::VerifyCa | tls::Mode::VerifyFull)
            && config.tls.client_ca.as_os_str().is_empty()
        {
            let message = format!("[tls] mode {} needs client_ca", config.tls.mode.as_str());
            self.mistake(None, message, Some("add client_ca = \"...\"".into()));
        }
        for (name, database) in &config.databases {
            if database.place.map.as_os_str().is_empty() {
                let line = self.lines.get(&format!("database.{name}")).copied();
                self.mistake(
                    line,
                    format!("database {name:?} has no shard map"),
                    Some("add map = \"file.toml\"".into()),
                );
            }
        }
        if config.databases.is_empty() {
            let instead = Some("add [database.NAME] with map = \"file.toml\"".into());
            self.mistake(None, "no database is configured", instead);
        }
        self.check_access(config);
    }
}

/// What is said of a value that cannot be.
fn refuse_kind(key: &str, raw: &Raw) -> String {
    match raw {
        Raw::Other(kind) => format!("{key} is {kind}"),
        other => format!("{key} = {} is not possible", written(other)),
    }
}

/// Is `key` a secret of one of these sections?
fn secret(sections: &mut [&mut dyn Section], key: &str) -> bool {
    sections.iter().flat_map(|s| s.settings()).any(|s| s.secret && s.key == key)
}

/// Splits `DATABASE_SHOP_MAP` into `database.shop` and `map`, for sections and databases that there are.
fn section_of_variable(rest: &str, config: &Config) -> Option<(String, String)> {
    for section in ["server", "tls", "auth", "admin"] {
        if let Some(key) = rest.strip_prefix(&format!("{}_", section.to_uppercase())) {
            return Some((section.to_owned(), key.to_lowercase()));
        }
    }
    for name in config.databases.keys() {
        let prefix: String = format!("DATABASE_{name}_")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        if let Some(key) = rest.strip_prefix(&prefix) {
            return Some((format!("database.{name}"), key.to_lowercase()));
        }
    }
    None
}

fn raw(item: &Item) -> Raw {
    match item.as_value() {
        Some(value) => raw_value(value),
        None => Raw::Other("a table"),
    }
}

fn raw_value(value: &Value) -> Raw {
    match value {
        Value::String(s) => Raw::Text(s.value().clone()),
        Value::Integer(i) => Raw::Integer(*i.value()),
        Value::Boolean(b) => Raw::Bool(*b.value()),
        Value::Array(items) => Raw::List(items.iter().map(raw_value).collect()),
        Value::Float(_) => Raw::Other("a number with a fraction"),
        Value::Datetime(_) => Raw::Other("a date"),
        Value::InlineTable(_) => Raw::Other("a table"),
    }
}

fn written(raw: &Raw) -> String {
    match raw {
        Raw::Word(w) | Raw::Text(w) => format!("{w:?}"),
        Raw::Integer(i) => i.to_string(),
        Raw::Bool(b) => b.to_string(),
        Raw::List(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Raw::Other(kind) => (*kind).to_owned(),
    }
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// resolved when bound
    Tcp { host: String, port: u16 },
    /// a folder; the socket's name is `.s.PGSQL.<port>`, where libpq looks for it
    Unix { folder: PathBuf, port: u16 },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { folder, port } => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

/// Reads `host`, `host:port`, `[v6]:port`, `/folder` or `/folder:port`.
pub fn parse_address(text: &str, default_port: u16) -> Result<Address, String> {
    let port_of = |digits: &str| digits.parse::<u16>().map_err(|_| format!("{text:?} has no valid port"));
    if text.starts_with('/') {
        return Ok(match text.rsplit_once(':') {
            Some((folder, digits)) if !digits.contains('/') => {
                Address::Unix { folder: folder.into(), port: port_of(digits)? }
            }
            _ => Address::Unix { folder: text.into(), port: default_port },
        });
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks a ]"))?;
        match after.strip_prefix(':') {
            Some(digits) => (host, port_of(digits)?),
            None if after.is_empty() => (host, default_port),
            None => return Err(format!("{text:?} has something behind the ]")),
        }
    } else if text.matches(':').count() > 1 {
        (text, default_port)
    } else {
        match text.split_once(':') {
            Some((host, digits)) => (host, port_of(digits)?),
            None => (text, default_port),
        }
    };
    if host.is_empty() {
        return Err(format!("{text:?} names no host"));
    }
    Ok(Address::Tcp { host: host.to_owned(), port })
}

/// `docs/configuration.md`, from the same declarations that parse the file.
pub fn manual() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Generated from the declarations in the source; `PGWEIR_BLESS=1 cargo test --lib config::` writes it anew. -->\n\n\
         `pgweir serve --config pgweir.toml`. Later wins: defaults, the file, `PGWEIR_<SECTION>_<KEY>` in the environment, \
         `--set section.key=value`. All mistakes are reported at once, with file and line. \
         A secret can be elsewhere: `KEY = { file = \"...\" }` or `KEY_file = \"...\"` (a file that holds it), `KEY = { env = \"...\" }` or \
         `KEY_env = \"...\"` (a variable that holds it). [authentication.md](authentication.md) tells of log-ins with examples.\n",
    );
    for (title, about, sections) in chapters() {
        let _ = write!(out, "\n## `{title}`\n\n{about}\n");
        if !sections.is_empty() {
            out += "\n| key | default | meaning | write |\n|---|---|---|---|\n";
        }
        for s in sections.iter().flat_map(|s| s.settings()) {
            let default = if s.default.is_empty() { String::new() } else { format!("`{}`", s.default) };
            let _ = writeln!(out, "| `{}` | {default} | {} | {} |", s.key, s.help, s.expected);
        }
    }
    out
}

/// The same for `--help`: one line per setting.
pub fn help() -> String {
    let mut out = String::from("Settings (in the file, as PGWEIR_<SECTION>_<KEY>, or with --set):\n");
    for (title, _, sections) in chapters() {
        let _ = writeln!(out, "\n  {title}");
        for s in sections.iter().flat_map(|s| s.settings()) {
            let default = if s.default.is_empty() { String::new() } else { format!(" [{}]", s.default) };
            let _ = writeln!(out, "    {:<18} {}{default}", s.key, s.help);
        }
    }
    out
}

/// A section of the file, what it is for, and whose settings it holds.
type Chapter = (&'static str, &'static str, Vec<Box<dyn Section>>);

fn chapters() -> Vec<Chapter> {
    vec![
        (
            "[server]",
            "Where pgweir listens and how much it admits. Addresses, workers, stack and logs need a restart; the rest is read again on SIGHUP.",
            vec![Box::new(Listening::default()) as Box<dyn Section>],
        ),
        (
            "[tls]",
            "TLS towards clients. Certificates are read again on SIGHUP.",
            vec![Box::new(tls::Options::default())],
        ),
        ("[auth]", "How clients prove who they are.", vec![Box::new(auth::Options::default())]),
        (
            "[[hba]]",
            "Who may log in from where, and how: the first rule that fits decides; whom none fits is refused. Without rules `[auth] method` is for everybody.",
            vec![Box::new(rules::Options::default())],
        ),
        (
            "[[ident]]",
            "Which users a name from outside may log in as: a certificate's, or the operating system's.",
            vec![Box::new(identity::Options::default())],
        ),
        (
            "[groups]",
            "Names of users by group: `staff = [\"alice\", \"bob\"]`, for `+staff` in rules.",
            vec![],
        ),
        ("[[user]]", "One table for each user.", vec![Box::new(auth::UserOptions::default())]),
        (
            "[user.shard.NAME]",
            "Below a `[[user]]`: who that user is on one shard, where that differs.",
            vec![Box::new(auth::ShardUser::default())],
        ),
        (
            "[database.NAME]",
            "One table for each logical database; clients connect to NAME.",
            vec![
                Box::new(Place::default()),
                Box::new(database::Options::default()),
                Box::new(lookup::Options::default()),
                Box::new(backend::Options::default()),
            ],
        ),
        (
            "[database.NAME.shard.SHARD]",
            "pgweir's own log-in on one shard, where that differs.",
            vec![Box::new(backend::options::ServiceLogin::default())],
        ),
        ("[admin]", "Health and metrics over HTTP.", vec![Box::new(admin::Options::default())]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read(text: &str, around: &Surroundings) -> Result<Config, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgweir.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("secret"), "from a file\n").unwrap();
        let prefix = format!("{}/", folder.path().display());
        load(Some(&file), around)
            .map_err(|all| all.iter().map(|m| m.to_string().replace(&prefix, "")).collect())
    }

    pub(super) fn mistakes(text: &str) -> Vec<String> {
        read(text, &Surroundings::default()).expect_err("the file is wrong")
    }

    #[test]
    fn a_file_is_read() {
        let config = read(
            "[server]\nlisten = ['0.0.0.0:7000', '/tmp']\nstartup_timeout = '3s'\n\
             [auth]\nmethod = 'md5'\n\
             [[user]]\nname = 'app'\npassword = 'one'\n\
             [[user]]\nname = 'batch'\npassword_file = 'secret'\n\
             [database.shop]\nmap = 'maps/shop.toml'\ncheckout_timeout = '250ms'\n",
            &Surroundings::default(),
        )
        .unwrap();
        assert_eq!(config.server.listen, ["0.0.0.0:7000", "/tmp"]);
        assert_eq!(config.server.startup_timeout, Duration::from_secs(3));
        assert_eq!(config.auth.method, auth::Method::Md5);
        assert_eq!(config.users["batch"].password.as_ref().unwrap().reveal(), "from a file");
        assert_eq!(
            config.databases["shop"].place.map,
            config.file.unwrap().parent().unwrap().join("maps/shop.toml")
        );
        assert_eq!(config.databases["shop"].session.checkout_timeout, Duration::from_millis(250));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_lines() {
        let told = mistakes(
            "[server]\nlisten = 'here'\nmax_client = 5\n\n[tsl]\n[auth]\nmethod = 'scram'\n\
             [[user]]\npassword = 5\n[database.shop]\nmap = 'm'\nqueue = 1\n",
        );
        assert_eq!(
            told,
            [
                "pgweir.toml:2: listen = \"here\" is not possible; expected a list, each a string",
                "pgweir.toml:3: unknown key \"max_client\" in [server]; did you mean max_clients?",
                "pgweir.toml:5: unknown section \"tsl\"; did you mean [tls]?",
                "pgweir.toml:7: method = \"scram\" is not possible; expected one of \"scram-sha-256\", \"md5\", \"password\", \"cert\", \"peer\", \"trust\", \"reject\"",
                "pgweir.toml:9: password has a value of the wrong kind; expected a string (or use the same key with _file or _env behind it)",
                "pgweir.toml:8: a user without a name; add name = \"...\"",
                told[6].as_str(),
            ]
        );
        assert!(
            told[6].starts_with("pgweir.toml:12: unknown key \"queue\" in [database.shop]"),
            "{}",
            told[6]
        );
    }

    #[test]
    fn what_no_single_value_shows_is_told_too() {
        assert_eq!(
            mistakes(
                "[tls]\nmode = 'verify-full'\n[[user]]\nname = 'app'\n[database.shop]\n[server]\nlisten = ['a:b']"
            ),
            [
                "pgweir.toml: [server] listen: \"a:b\" has no valid port; write host:port, or a folder that begins with /",
                "pgweir.toml: [tls] mode verify-full needs a certificate; add cert = \"...\" and key = \"...\"",
                "pgweir.toml: [tls] mode verify-full needs client_ca; add client_ca = \"...\"",
                "pgweir.toml:5: database \"shop\" has no shard map; add map = \"file.toml\"",
                "pgweir.toml:3: user \"app\" could never log in; add password, password_file or password_env",
            ]
        );
        assert_eq!(
            mistakes("[[user]\n"),
            ["pgweir.toml:1: not TOML: unclosed array table, expected `]`"].map(String::from)
        );
    }

    #[test]
    fn environment_and_flags_come_after_the_file() {
        let around = Surroundings {
            variables: [
                ("PGWEIR_SERVER_MAX_CLIENTS", "7"),
                ("PGWEIR_SERVER_LISTEN", "a:1, b:2"),
                ("PGWEIR_DATABASE_MY_SHOP_CHECKOUT_TIMEOUT", "1s"),
                ("PGWEIR_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
                ("APP_PASSWORD", "from a variable"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            flags: vec!["server.max_clients=8".into()],
        };
        let config = read(
            "[server]\nmax_clients = 6\n[[user]]\nname='app'\npassword_env='APP_PASSWORD'\n[database.my-shop]\nmap='m'",
            &around,
        )
        .unwrap();
        assert_eq!(config.server.max_clients, 8);
        assert_eq!(config.server.listen, ["a:1", "b:2"]);
        assert_eq!(config.databases["my-shop"].session.checkout_timeout, Duration::from_secs(1));
        assert_eq!(config.users["app"].password.as_ref().unwrap().reveal(), "from a variable");
    }

    #[test]
    fn mistakes_in_variables_and_flags_name_them() {
        let around = Surroundings {
            variables: [("PGWEIR_SERVER_PORT".to_owned(), "tcp://10.0.0.1:6432".to_owned())].into(),
            flags: vec!["sever.port=1".into(), "port=1".into(), "server.prot=1".into()],
        };
        assert_eq!(
            read("[database.shop]\nmap = 'm'", &around).unwrap_err(),
            [
                "PGWEIR_SERVER_PORT: port = \"tcp://10.0.0.1:6432\" is not possible; expected an integer from 0 to 65535",
                "--set sever.port: unknown section \"sever\"; did you mean server?",
                "--set port: not a setting; write section.key=value, e.g. server.port=6432",
                "--set server.prot: unknown key \"prot\" in [server]; did you mean port?",
            ]
        );
    }

    #[test]
    fn secrets_are_not_told() {
        let text = "[[user]]\nname='a'\npassword=['hunter2']\n[[user]]\nname='b'\npassword='hunter2'\npassword_file='secret'\n";
        let told = mistakes(text).join("\n");
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("given twice"), "{told}");
    }

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Address::Tcp { host: host.into(), port });
        assert_eq!(parse_address("localhost", 1), tcp("localhost", 1));
        assert_eq!(parse_address("0.0.0.0:2", 1), tcp("0.0.0.0", 2));
        assert_eq!(parse_address("[::1]:3", 1), tcp("::1", 3));
        assert_eq!(parse_address("::1", 1), tcp("::1", 1));
        assert_eq!(parse_address("/tmp", 1), Ok(Address::Unix { folder: "/tmp".into(), port: 1 }));
        assert_eq!(parse_address("/tmp:9", 1), Ok(Address::Unix { folder: "/tmp".into(), port: 9 }));
        for wrong in ["", ":5", "a:x", "[::1", "[::1]x", "/tmp:x"] {
            assert!(parse_address(wrong, 1).is_err(), "{wrong}");
        }
    }

    /// The manual is generated; `PGWEIR_BLESS=1` writes it.
    #[test]
    fn the_manual_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        if std::env::var_os("PGWEIR_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, manual()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == manual(),
            "docs/configuration.md is out of date: PGWEIR_BLESS=1 cargo test --lib config::"
        );
    }
}
