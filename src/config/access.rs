//! The lists about who may log in: `[[hba]]`, `[[ident]]`, `[groups]`, and what `[[user]]` and `[database.NAME]` say of single shards.

use super::{Config, Reader, refuse_kind};
use crate::options::{Raw, Section};
use crate::session::auth::rules::{self, Place, Rules};
use crate::session::auth::users::Stored;
use crate::session::auth::{self, identity};
use std::collections::BTreeMap;
use toml_edit::{InlineTable, Item, TableLike};

impl Config {
    /// The rules that decide how a client logs in. Errors: every mistake with its place; [`load`](super::load) has told
    /// them already.
    pub fn rules(&self) -> Result<Rules, Vec<(Place, identity::Mistake)>> {
        Rules::new(&self.hba, &self.ident, &self.groups, self.auth.method)
    }
}

impl Reader<'_> {
    pub(super) fn read_hba(&mut self, config: &mut Config, item: &Item, line: Option<usize>) {
        for (line, table) in self.list("hba", "rules", item, line) {
            let mut rule = rules::Options::default();
            self.fill("hba", table, &mut [&mut rule]);
            self.note(format!("hba.{}", config.hba.len()), line);
            config.hba.push(rule);
        }
    }

    pub(super) fn read_ident(&mut self, config: &mut Config, item: &Item, line: Option<usize>) {
        for (line, table) in self.list("ident", "entries of maps", item, line) {
            let mut entry = identity::Options::default();
            self.fill("ident", table, &mut [&mut entry]);
            self.note(format!("ident.{}", config.ident.len()), line);
            config.ident.push(entry);
        }
    }

    /// `[groups]` with `staff = ["alice", "bob"]`.
    pub(super) fn read_groups(&mut self, config: &mut Config, item: &Item, line: Option<usize>) {
        let Some(groups) = item.as_table_like() else {
            return self.mistake(line, "groups is a table", Some("write [groups]".into()));
        };
        for (name, item) in groups.iter() {
            let line = self.line(groups.key(name).and_then(|k| k.span()).or(item.span())).or(line);
            match super::raw(item) {
                Raw::List(members) => {
                    let names: Option<Vec<String>> = members
                        .into_iter()
                        .map(|m| if let Raw::Text(name) = m { Some(name) } else { None })
                        .collect();
                    match names {
                        Some(names) => drop(config.groups.insert(name.to_owned(), names)),
                        None => self.mistake(
                            line,
                            format!("group {name:?} has members that are no names"),
                            Some(format!("write {name} = [\"alice\", \"bob\"]")),
                        ),
                    }
                }
                other => self.mistake(
                    line,
                    refuse_kind(&format!("group {name:?}"), &other),
                    Some(format!("write {name} = [\"alice\", \"bob\"]")),
                ),
            }
        }
    }

    /// `[user.shard.NAME]` or `[database.NAME.shard.NAME]`: settings by shard.
    pub(super) fn read_shards<S: Section + Default>(
        &mut self,
        section: &str,
        table: &dyn TableLike,
    ) -> BTreeMap<String, S> {
        let mut found = BTreeMap::new();
        let Some(item) = table.get("shard") else { return found };
        let line = self.line(table.key("shard").and_then(|k| k.span()).or(item.span()));
        let instead = || Some(format!("write [{section}.shard.NAME]"));
        let Some(shards) = item.as_table_like() else {
            self.mistake(line, "shard is a table of shards", instead());
            return found;
        };
        for (name, item) in shards.iter() {
            let line = self.line(shards.key(name).and_then(|k| k.span()).or(item.span())).or(line);
            let Some(table) = item.as_table_like() else {
                self.mistake(line, format!("shard.{name} is a table"), instead());
                continue;
            };
            let mut own = S::default();
            self.fill(&format!("{section}.shard.{name}"), table, &mut [&mut own]);
            found.insert(name.to_owned(), own);
        }
        found
    }

    /// A secret that is elsewhere: `password = { file = "..." }` or `{ env = "..." }`.
    pub(super) fn secret_elsewhere(
        &mut self,
        name: &str,
        key: &str,
        table: &InlineTable,
        line: Option<usize>,
        sections: &mut [&mut dyn Section],
    ) {
        let mut entries = table.iter();
        match (entries.next(), entries.next()) {
            (Some(("file", path)), None) => {
                let raw = super::raw_value(path);
                self.secret_from_file(name, key, key, raw, line, sections);
            }
            (Some(("env", variable)), None) => {
                let raw = super::raw_value(variable);
                self.secret_from_variable(name, key, key, raw, line, sections);
            }
            _ => self.mistake(
                line,
                format!("{key} is a table that names no place"),
                Some(format!("write {key} = {{ file = \"...\" }} or {key} = {{ env = \"...\" }}")),
            ),
        }
    }

    /// What only all lists together show.
    pub(super) fn check_access(&mut self, config: &Config) {
        let rules = match config.rules() {
            Ok(rules) => rules,
            Err(mistakes) => {
                for (place, (message, instead)) in mistakes {
                    let key = match place {
                        Place::Rule(i) => format!("hba.{i}"),
                        Place::Ident(i) => format!("ident.{i}"),
                    };
                    let line = self.lines.get(&key).copied();
                    self.mistake(line, message, Some(instead));
                }
                return;
            }
        };
        let certificates = config.hba.iter().position(|rule| {
            rule.method == Some(auth::Method::Cert) || rule.clientcert != rules::ClientCert::No
        });
        if let Some(i) = certificates
            && config.tls.client_ca.as_os_str().is_empty()
        {
            let line = self.lines.get(&format!("hba.{i}")).copied();
            let message = "the rule asks for a certificate, and no authority is known that signs them";
            self.mistake(line, message, Some("add client_ca = \"...\" to [tls]".into()));
        }
        if config.hba.is_empty() && matches!(config.auth.method, auth::Method::Cert | auth::Method::Peer) {
            let message =
                format!("[auth] method = {:?} does not serve every client", config.auth.method.as_str());
            self.mistake(None, message, Some("write an [[hba]] rule for those that it does".into()));
        }
        for (name, database) in &config.databases {
            if !database.lookup.auth_query.is_empty() && !database.lookup.auth_query.contains("$1") {
                let line = self.lines.get(&format!("database.{name}")).copied();
                let instead =
                    "write SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin";
                self.mistake(line, "auth_query does not ask for $1, the user's name", Some(instead.into()));
            }
        }
        let lookup = &config.auth.lookup_database;
        if !lookup.is_empty() && config.databases.get(lookup).is_none_or(|d| d.lookup.auth_query.is_empty()) {
            let message = format!("[auth] lookup_database = {lookup:?} has no auth_query");
            self.mistake(None, message, Some("name a [database.NAME] that has one".into()));
        }
        let looked_up = config.databases.values().any(|d| !d.lookup.auth_query.is_empty());
        for (name, user) in &config.users {
            let line = self.lines.get(&format!("user.{name}")).copied();
            if let Err(instead) = Stored::check(user, &rules, looked_up) {
                self.mistake(line, format!("user {name:?} could never log in"), Some(instead));
            }
        }
    }

    /// The tables of a list, with their lines.
    fn list<'i>(
        &mut self,
        key: &str,
        what: &str,
        item: &'i Item,
        line: Option<usize>,
    ) -> Vec<(Option<usize>, &'i dyn TableLike)> {
        if let Some(tables) = item.as_array_of_tables() {
            let each = tables.iter().map(|t| (self.line(t.span()).or(line), t as &dyn TableLike));
            return each.collect();
        }
        let inline = item.as_array().map(|array| {
            let tables = array.iter().map(|v| Some((v.span(), v.as_inline_table()? as &dyn TableLike)));
            tables.collect::<Option<Vec<_>>>()
        });
        match inline {
            Some(Some(tables)) => {
                tables.into_iter().map(|(span, table)| (self.line(span).or(line), table)).collect()
            }
            Some(None) | None => {
                self.mistake(
                    line,
                    format!("{what} are a list of tables"),
                    Some(format!("write [[{key}]] for each")),
                );
                vec![]
            }
        }
    }

    fn note(&mut self, key: String, line: Option<usize>) {
        if let Some(line) = line {
            self.lines.insert(key, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Surroundings;
    use crate::config::tests::{mistakes, read};
    use crate::session::auth::Method;
    use crate::session::auth::rules::{ClientCert, ClientName, Connection};

    const DATABASE: &str = "[database.shop]\nmap = 'm'\n";

    fn with_database(text: &str) -> String {
        format!("{text}\n{DATABASE}")
    }

    #[test]
    fn rules_are_read_in_order() {
        let text = "[tls]\nmode = 'allow'\ncert = 'c'\nkey = 'k'\nclient_ca = 'ca'\n\
                    [[hba]]\nconnection = 'local'\nmethod = 'peer'\nmap = 'unix'\n\
                    [[hba]]\nconnection = 'hostssl'\ndatabase = 'shop'\nuser = ['+staff', '/^svc_']\n\
                    address = ['10.0.0.0/8', '::1']\nmethod = 'scram-sha-256'\nclientcert = 'verify-full'\nclientname = 'DN'\n\
                    [[ident]]\nmap = 'unix'\nname = 'postgres'\nuser = 'admin'\n\
                    [groups]\nstaff = ['alice', 'bob']\n";
        let config = read(&with_database(text), &Surroundings::default()).unwrap();
        let [local, staff] = &config.hba[..] else { panic!("{:?}", config.hba) };
        assert_eq!((local.connection, local.method), (Connection::Local, Some(Method::Peer)));
        assert_eq!(local.user.0, ["all"]);
        assert_eq!(staff.database.0, ["shop"]);
        assert_eq!(staff.user.0, ["+staff", "/^svc_"]);
        assert_eq!((staff.clientcert, staff.clientname), (ClientCert::VerifyFull, ClientName::Dn));
        assert_eq!(config.groups["staff"], ["alice", "bob"]);
        assert!(config.rules().is_ok());
        // the same, shorter
        let inline = "hba = [{ method = 'trust' }, { method = 'reject', user = 'eve' }]\n";
        let config = read(&with_database(inline), &Surroundings::default()).unwrap();
        assert_eq!(config.hba[1].method, Some(Method::Reject));
    }

    #[test]
    fn mistakes_in_rules_have_lines() {
        let text = "[[hba]]\nuser = 'app'\n\
                    [[hba]]\nmethod = 'scram'\n\
                    [[hba]]\nmethod = 'md5'\naddres = '::1'\n";
        assert_eq!(
            mistakes(&with_database(text)),
            [
                "pgweir.toml:4: method = \"scram\" is not possible; expected one of \"scram-sha-256\", \"md5\", \
                 \"password\", \"cert\", \"peer\", \"trust\", \"reject\"",
                "pgweir.toml:7: unknown key \"addres\" in [hba]; did you mean address?",
            ]
        );
        let text = "[[hba]]\nuser = 'app'\n\
                    [[hba]]\nmethod = 'md5'\naddress = ['10.0.0.0/8', '10.1.2.3/8']\n\
                    [[hba]]\nmethod = 'cert'\n\
                    [[hba]]\nmethod = 'trust'\nuser = '/('\ndatabase = '/'\n\
                    [[ident]]\nmap = 'm'\nname = 'x'\nuser = '\\1'\n";
        let told = mistakes(&with_database(text));
        for (i, start) in [
            "pgweir.toml:12: user = ",
            "pgweir.toml:1: a rule without a method; add method = one of",
            "pgweir.toml:3: address: \"10.1.2.3/8\" has bits behind its mask; write \"10.0.0.0/8\"",
            "pgweir.toml:8: database: \"/\" names nothing",
            "pgweir.toml:8: user: \"/(\" is no regular expression",
        ]
        .iter()
        .enumerate()
        {
            assert!(told[i].starts_with(start), "{start}: {told:#?}");
        }
        assert_eq!(told.len(), 5, "{told:#?}");
        assert_eq!(
            mistakes(&with_database("[[hba]]\nmethod = 'trust'\n[[hba]]\nmethod = 'cert'\n")),
            [
                "pgweir.toml:3: the rule asks for a certificate, and no authority is known that signs them; add client_ca = \"...\" to [tls]"
            ]
        );
        assert_eq!(
            mistakes(&with_database("hba = 'trust'\ngroups = 5\n")),
            [
                "pgweir.toml:1: rules are a list of tables; write [[hba]] for each",
                "pgweir.toml:2: groups is a table; write [groups]",
            ]
        );
        assert_eq!(
            mistakes(&with_database("[groups]\na = 'x'\nb = [1]\n")),
            [
                "pgweir.toml:2: group \"a\" = \"x\" is not possible; write a = [\"alice\", \"bob\"]",
                "pgweir.toml:3: group \"b\" has members that are no names; write b = [\"alice\", \"bob\"]",
            ]
        );
    }

    #[test]
    fn secrets_can_be_elsewhere() {
        let around = Surroundings {
            variables: [("APP_PASSWORD".to_owned(), "from a variable".to_owned())].into(),
            flags: vec![],
        };
        let text = "[[user]]\nname = 'a'\npassword = { file = 'secret' }\n\
                    [[user]]\nname = 'b'\npassword = { env = 'APP_PASSWORD' }\nserver_password = { file = 'secret' }\n\
                    [database.shop]\nmap = 'm'\nservice_password = { env = 'APP_PASSWORD' }\n";
        let config = read(text, &around).unwrap();
        assert_eq!(config.users["a"].password.as_ref().unwrap().reveal(), "from a file");
        assert_eq!(config.users["b"].password.as_ref().unwrap().reveal(), "from a variable");
        assert_eq!(config.users["b"].server_password.as_ref().unwrap().reveal(), "from a file");
        assert_eq!(
            config.databases["shop"].servers.service_password.as_ref().unwrap().reveal(),
            "from a variable"
        );
        let text = "[[user]]\nname = 'a'\npassword = { file = 'absent' }\n\
                    [[user]]\nname = 'b'\npassword = { env = 'ABSENT' }\n\
                    [[user]]\nname = 'c'\npassword = { vault = 'hunter2' }\n\
                    [[user]]\nname = 'd'\npassword = { env = 'A', file = 'hunter2' }\n";
        let told = mistakes(&with_database(text));
        assert_eq!(told.len(), 4, "{told:#?}");
        assert!(told[0].starts_with("pgweir.toml:3: password: "), "{told:#?}");
        assert_eq!(
            told[1],
            "pgweir.toml:6: password: variable ABSENT is not set; set it before pgweir starts"
        );
        assert!(told[2].contains("write password = { file = \"...\" } or password = { env = \"...\" }"));
        assert!(!told.concat().contains("hunter2"), "{told:#?}");
    }

    #[test]
    fn users_and_services_can_differ_by_shard() {
        let text = "[[user]]\nname = 'app'\npassword = 'one'\nserver_user = 'app_rw'\n\
                    [user.shard.s2]\nserver_password = 'two'\n\
                    [database.shop]\nmap = 'm'\n[database.shop.shard.s2]\nservice_user = 'pg'\nservice_password = 'three'\n";
        let config = read(text, &Surroundings::default()).unwrap();
        assert_eq!(config.user_shards["app"]["s2"].server_password.as_ref().unwrap().reveal(), "two");
        assert_eq!(config.databases["shop"].shards["s2"].service_user.as_deref(), Some("pg"));
        assert!(!format!("{config:?}").contains("three"));
        assert_eq!(
            mistakes(&with_database(
                "[[user]]\nname = 'app'\npassword = 'x'\n[user.shard.s2]\nserver_pasword = 'y'\n"
            )),
            [
                "pgweir.toml:5: unknown key \"server_pasword\" in [user.shard.s2]; did you mean server_password?"
            ]
        );
    }

    #[test]
    fn a_look_up_must_ask_for_the_user() {
        let told =
            mistakes("[database.shop]\nmap = 'm'\nauth_query = 'SELECT usename, passwd FROM pg_shadow'\n");
        assert!(told[0].starts_with("pgweir.toml:1: auth_query does not ask for $1"), "{told:?}");
        // users without a password may be found by it
        let text = "[[user]]\nname = 'app'\nserver_user = 'x'\n[database.shop]\nmap = 'm'\n\
                    auth_query = 'SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1'\n";
        read(text, &Surroundings::default()).unwrap();
    }
}
