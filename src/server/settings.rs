//! The configuration as operators see and change it on the console: every key of the file, and the names that pgbouncer has for some.

use crate::admin::proxy::{Reach, Setting};
use crate::backend::options::ServiceLogin;
use crate::config::{Config, Database};
use crate::error::{Error, Result, SqlState};
use crate::options::{Described, Raw, Section, Setting as _};
use crate::session::auth::{ShardUser, UserOptions, identity, rules};
use std::path::Path;
use std::time::Duration;

/// What pgbouncer calls a setting that is called otherwise here; `*` stands for every database.
const PGBOUNCERS: [(&str, &str); 26] = [
    ("admin_users", "admin.users"),
    ("auth_query", "database.*.auth_query"),
    ("auth_type", "auth.method"),
    ("client_idle_timeout", "database.*.client_idle_timeout"),
    ("client_login_timeout", "server.startup_timeout"),
    ("client_tls_sslmode", "tls.mode"),
    ("default_pool_size", "database.*.pool_size"),
    ("idle_transaction_timeout", "database.*.idle_transaction_timeout"),
    ("listen_backlog", "server.backlog"),
    ("listen_port", "server.port"),
    ("max_client_conn", "server.max_clients"),
    ("max_db_connections", "database.*.max_db_connections"),
    ("max_user_connections", "server.max_user_connections"),
    ("min_pool_size", "database.*.min_pool_size"),
    ("pool_mode", "database.*.pool_mode"),
    ("query_timeout", "database.*.query_timeout"),
    ("query_wait_timeout", "database.*.checkout_timeout"),
    ("reserve_pool_size", "database.*.reserve_pool_size"),
    ("reserve_pool_timeout", "database.*.reserve_pool_timeout"),
    ("server_check_delay", "database.*.server_check_delay"),
    ("server_connect_timeout", "database.*.connect_timeout"),
    ("server_idle_timeout", "database.*.idle_timeout"),
    ("server_lifetime", "database.*.max_lifetime"),
    ("server_login_retry", "database.*.backoff_max"),
    ("so_reuseport", "server.reuse_port"),
    ("stats_users", "admin.stats_users"),
];

/// Settings that a reload cannot change.
const FIXED: [&str; 12] = [
    "admin.listen",
    "server.listen",
    "server.port",
    "server.reuse_port",
    "server.run_dir",
    "server.workers",
    "server.stack",
    "server.backlog",
    "server.max_clients",
    "server.max_startups",
    "server.log",
    "server.log_format",
];

/// Every setting as it is now: by its key in the file, then by pgbouncer's names.
pub fn all(config: &Config) -> Vec<Setting> {
    let mut all = ours(config);
    let theirs: Vec<Setting> = PGBOUNCERS
        .iter()
        .filter_map(|(name, key)| {
            let first = all.iter().find(|s| stands_for(key, &s.key))?;
            let (value, default) = (in_seconds(&first.value), in_seconds(&first.default));
            Some(Setting { key: (*name).into(), value, default, ..first.clone() })
        })
        .collect();
    all.extend(theirs);
    all
}

/// `section.key=value` for what an operator sets, by the whole key, by its last part if that is enough, or by pgbouncer's name, which means
/// every database, as it does there.
///
/// Errors: there is none of that name, or it is changed elsewhere.
pub fn flags(config: &Config, key: &str, value: &str) -> Result<Vec<String>> {
    let known = ours(config);
    let whole = known.iter().filter(|s| s.key == key);
    let mut meant: Vec<&Setting> = whole.collect();
    if meant.is_empty() {
        let theirs = PGBOUNCERS.iter().find(|(name, _)| *name == key);
        let end = format!(".{key}");
        let by_name = |s: &&Setting| match theirs {
            Some((_, ours)) => stands_for(ours, &s.key),
            None => s.reach == Reach::Name && s.key.ends_with(&end),
        };
        meant.extend(known.iter().filter(by_name));
        if let ([one, other, ..], None) = (&meant[..], theirs) {
            let message = format!("\"{key}\" is ambiguous");
            let hint = format!("Write the whole key, such as \"{}\" or \"{}\".", one.key, other.key);
            return Err(Error::client(SqlState::INVALID_PARAMETER_VALUE, message).hint(hint));
        }
    }
    if meant.is_empty() {
        let message = format!("unrecognized configuration parameter \"{key}\"");
        return Err(Error::client(SqlState::UNDEFINED_OBJECT, message).hint("SHOW CONFIG lists all of them."));
    }
    for setting in &meant {
        if !setting.changeable {
            let message =
                format!("parameter \"{}\" cannot be changed without restarting pgweir", setting.key);
            return Err(Error::client(SqlState(*b"55P02"), message));
        }
        if setting.reach == Reach::File {
            let message = format!("\"{}\" is changed in the configuration file", setting.key);
            return Err(Error::client(SqlState(*b"55P02"), message).hint("Change it there, then RELOAD."));
        }
    }
    // pgbouncer counts time in seconds
    let seconds = |s: &&Setting| {
        let number = value.parse::<f64>().is_ok_and(|n| (0.0..1e9).contains(&n));
        number && is_time(&s.default)
    };
    let written = |s: &&Setting| match seconds(s) {
        true => format!("{}={:.0}ms", s.key, value.parse::<f64>().unwrap_or_default() * 1e3),
        false => format!("{}={value}", s.key),
    };
    Ok(meant.iter().map(written).collect())
}

/// Whether a name of the list above means this key.
fn stands_for(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == key,
        // behind the database's name, which may have dots, stands one word
        Some((front, back)) => key
            .strip_prefix(front)
            .and_then(|rest| rest.strip_suffix(back))
            .is_some_and(|name| !name.is_empty() && !name.contains(".shard.")),
    }
}

fn time(shown: &str) -> Option<Duration> {
    Duration::read(&Raw::Text(shown.to_owned()), Path::new(""))
}

fn is_time(shown: &str) -> bool {
    time(shown).is_some()
}

fn in_seconds(shown: &str) -> String {
    match time(shown) {
        Some(time) if time.subsec_millis() == 0 => time.as_secs().to_string(),
        Some(time) => time.as_secs_f64().to_string(),
        None => shown.to_owned(),
    }
}

fn ours(config: &Config) -> Vec<Setting> {
    let defaults = Config::default();
    let mut all = Vec::new();
    section(&mut all, "server", Reach::Name, &config.server, &defaults.server);
    section(&mut all, "tls", Reach::Name, &config.tls, &defaults.tls);
    section(&mut all, "auth", Reach::Name, &config.auth, &defaults.auth);
    section(&mut all, "admin", Reach::Name, &config.admin, &defaults.admin);
    for (name, database) in &config.databases {
        let default = Database::default();
        let name = format!("database.{name}");
        section(&mut all, &name, Reach::Name, &database.place, &default.place);
        section(&mut all, &name, Reach::Name, &database.session, &default.session);
        section(&mut all, &name, Reach::Name, &database.lookup, &default.lookup);
        section(&mut all, &name, Reach::Name, &database.servers, &default.servers);
        for (shard, login) in &database.shards {
            let name = format!("{name}.shard.{shard}");
            section(&mut all, &name, Reach::File, login, &ServiceLogin::default());
        }
    }
    for (i, rule) in config.hba.iter().enumerate() {
        section(&mut all, &format!("hba.{}", i + 1), Reach::File, rule, &rules::Options::default());
    }
    for (i, entry) in config.ident.iter().enumerate() {
        section(&mut all, &format!("ident.{}", i + 1), Reach::File, entry, &identity::Options::default());
    }
    for (name, members) in &config.groups {
        all.push(Setting {
            key: format!("groups.{name}"),
            value: members.show(),
            default: String::new(),
            changeable: true,
            reach: Reach::File,
        });
    }
    for (name, user) in &config.users {
        section(&mut all, &format!("user.{name}"), Reach::Key, user, &UserOptions::default());
        for (shard, own) in config.user_shards.get(name).into_iter().flatten() {
            let name = format!("user.{name}.shard.{shard}");
            section(&mut all, &name, Reach::File, own, &ShardUser::default());
        }
    }
    all
}

fn section(all: &mut Vec<Setting>, name: &str, reach: Reach, now: &dyn Section, default: &dyn Section) {
    for (now, default) in now.settings().into_iter().zip(default.settings()) {
        let key = format!("{name}.{}", now.key);
        // `Described::default` is the value of the section that is asked
        let shown =
            |d: &Described| if d.secret { String::new() } else { d.default.trim_matches('"').to_owned() };
        let changeable = !FIXED.contains(&&*key);
        all.push(Setting { value: shown(&now), default: shown(&default), changeable, reach, key });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        for name in ["shop", "old.shop"] {
            config.databases.insert(name.into(), Database::default());
        }
        config.hba = vec![rules::Options { map: Some("m".into()), ..Default::default() }];
        config.groups.insert("staff".into(), vec!["alice".into()]);
        let secret = Some(crate::options::Secret::new("hush"));
        config.users.insert("app".into(), UserOptions { password: secret, ..Default::default() });
        config
    }

    #[test]
    fn every_key_is_shown_and_no_secret() {
        let all = all(&config());
        let value = |key: &str| {
            let found = all.iter().find(|s| s.key == key);
            found.unwrap_or_else(|| panic!("no {key}")).value.clone()
        };
        assert_eq!(value("hba.1.map"), "m");
        assert_eq!(value("hba.1.connection"), "any");
        assert_eq!(value("groups.staff"), "[\"alice\"]");
        assert_eq!(value("user.app.password"), "");
        assert_eq!(value("user.app.max_clients"), "0");
        assert_eq!(value("database.shop.auth_ttl"), "1min");
        assert_eq!(value("server_lifetime"), "3600");
        assert_eq!(value("default_pool_size"), "20");
        assert_eq!(value("max_client_conn"), "10000");
        assert!(!format!("{all:?}").contains("hush"));
        let mut keys: Vec<_> = all.iter().map(|s| &s.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all.len(), "a key stands twice");
    }

    #[test]
    fn what_is_set_is_found_by_either_name() {
        let config = config();
        let set =
            |key: &str, value: &str| flags(&config, key, value).map_err(|e| e.sqlstate().as_str().to_owned());
        assert_eq!(set("server.max_memory", "1MiB").unwrap(), ["server.max_memory=1MiB"]);
        assert_eq!(set("max_memory", "1MiB").unwrap(), ["server.max_memory=1MiB"]);
        assert_eq!(
            set("default_pool_size", "5").unwrap(),
            ["database.old.shop.pool_size=5", "database.shop.pool_size=5"]
        );
        assert_eq!(set("client_login_timeout", "2.5").unwrap(), ["server.startup_timeout=2500ms"]);
        assert_eq!(set("startup_timeout", "3").unwrap(), ["server.startup_timeout=3000ms"]);
        assert_eq!(set("query_timeout", "1min").unwrap().len(), 2);
        assert_eq!(set("user.app.max_clients", "3").unwrap(), ["user.app.max_clients=3"]);
        assert_eq!(set("max_clients", "3").unwrap_err(), "55P02", "not the user's");
        assert_eq!(set("pool_size", "3").unwrap_err(), "22023");
        assert_eq!(set("hba.1.method", "trust").unwrap_err(), "55P02");
        assert_eq!(set("nothing", "3").unwrap_err(), "42704");
    }
}
