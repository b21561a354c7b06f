//! Names: what a rule's lists match, and which users a name from outside (of a certificate, of the operating system)
//! may log in as.

use regex::Regex;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A mistake, and what to write instead.
pub type Mistake = (String, String);

/// Longest regular expression when compiled, in bytes: a rule is no program.
const MAX_REGEX: usize = 1 << 20;

/// Groups of users: name to members.
#[derive(Debug, Clone, Default)]
pub struct Groups(HashMap<Box<str>, HashSet<Box<str>>>);

impl Groups {
    pub fn new(groups: &BTreeMap<String, Vec<String>>) -> Groups {
        let owned = |names: &Vec<String>| names.iter().map(|n| n.as_str().into()).collect();
        Groups(groups.iter().map(|(name, members)| (name.as_str().into(), owned(members))).collect())
    }

    /// As in Postgres a user is a member of the group that is called like it.
    fn has(&self, group: &str, user: &str) -> bool {
        group == user || self.0.get(group).is_some_and(|members| members.contains(user))
    }
}

/// One word of a rule's list.
#[derive(Debug, Clone)]
pub enum Name {
    All,
    Is(Box<str>),
    /// `/` in front: a regular expression that must be found somewhere in the name
    Like(Regex),
    /// `+` in front: members of a group
    In(Box<str>),
    /// of databases: `sameuser`, `samerole`, `replication`
    SameUser,
    SameRole,
    Replication,
}

impl Name {
    /// A word of a list of users.
    pub fn user(word: &str) -> Result<Name, Mistake> {
        match word {
            "all" => Ok(Name::All),
            _ => match (word.strip_prefix('+'), word.strip_prefix('/')) {
                (Some(""), _) | (_, Some("")) => Err(nothing(word)),
                (Some(group), _) => Ok(Name::In(group.into())),
                (_, Some(pattern)) => regex(pattern).map(Name::Like),
                _ => Ok(Name::Is(word.into())),
            },
        }
    }

    /// A word of a list of databases.
    pub fn database(word: &str) -> Result<Name, Mistake> {
        match word {
            "all" => Ok(Name::All),
            "sameuser" => Ok(Name::SameUser),
            "samerole" | "samegroup" => Ok(Name::SameRole),
            "replication" => Ok(Name::Replication),
            _ => match word.strip_prefix('/') {
                Some("") => Err(nothing(word)),
                Some(pattern) => regex(pattern).map(Name::Like),
                None => Ok(Name::Is(word.into())),
            },
        }
    }

    pub fn is_user(&self, user: &str, groups: &Groups) -> bool {
        match self {
            Name::All => true,
            Name::Is(name) => **name == *user,
            Name::Like(pattern) => pattern.is_match(user),
            Name::In(group) => groups.has(group, user),
            Name::SameUser | Name::SameRole | Name::Replication => false,
        }
    }

    /// `None` for a connection that replicates without a database, which only `replication` means.
    pub fn is_database(&self, database: Option<&str>, user: &str, groups: &Groups) -> bool {
        let Some(database) = database else { return matches!(self, Name::Replication) };
        match self {
            Name::All => true,
            Name::Is(name) => **name == *database,
            Name::Like(pattern) => pattern.is_match(database),
            Name::SameUser => database == user,
            Name::SameRole => groups.has(database, user),
            Name::In(_) | Name::Replication => false,
        }
    }
}

fn nothing(word: &str) -> Mistake {
    (format!("{word:?} names nothing"), format!("write a name behind {word:?}"))
}

/// Rust's regular expressions take time in proportion to the name, whoever has chosen it.
fn regex(pattern: &str) -> Result<Regex, Mistake> {
    regex::RegexBuilder::new(pattern).size_limit(MAX_REGEX).build().map_err(|e| {
        let why = e.to_string();
        // its message draws the pattern over several lines; the last one says what is wrong
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        (format!("\"/{pattern}\" is no regular expression: {why}"), "see docs/authentication.md".into())
    })
}

crate::options! {
    /// An entry of a map from names outside to users.
    pub struct Options {
        /// the map, as rules name it
        map: String = String::new(),
        /// the name outside: of a certificate or of the operating system; `/` in front makes it a regular expression
        name: String = String::new(),
        /// the user whom it may log in as; `\1` is what the expression's first group found; `all`, `+group` and `/expression` as in rules
        user: String = String::new(),
    }
}

#[derive(Debug, Clone)]
struct Entry {
    outside: Outside,
    user: Name,
    /// of the user, if it has a `\1`
    template: Option<Box<str>>,
}

#[derive(Debug, Clone)]
enum Outside {
    Is(Box<str>),
    Like(Regex),
}

/// Who may be whom, by name of the map.
#[derive(Debug, Clone, Default)]
pub struct Maps(HashMap<Box<str>, Vec<Entry>>);

impl Maps {
    /// Adds an entry. Errors: what is wrong with it.
    pub fn add(&mut self, options: &Options) -> Result<(), Mistake> {
        for (value, key) in [(&options.map, "map"), (&options.name, "name"), (&options.user, "user")] {
            if value.is_empty() {
                return Err((format!("an entry of a map without {key}"), format!("add {key} = \"...\"")));
            }
        }
        let outside = match options.name.strip_prefix('/') {
            None => Outside::Is(options.name.as_str().into()),
            Some(pattern) => Outside::Like(regex(pattern)?),
        };
        let template = (options.user.contains(r"\1")).then(|| options.user.as_str().into());
        if template.is_some() {
            let groups = match &outside {
                Outside::Like(pattern) => pattern.captures_len(),
                Outside::Is(_) => 0,
            };
            if groups < 2 {
                return Err((
                    format!(
                        "user = {:?} refers to a group that name = {:?} does not have",
                        options.user, options.name
                    ),
                    r#"write name = "/^(.*)@example\\.com$", or a user without \1"#.into(),
                ));
            }
        }
        let user = if template.is_some() { Name::All } else { Name::user(&options.user)? };
        self.0.entry(options.map.as_str().into()).or_default().push(Entry { outside, user, template });
        Ok(())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    pub fn has(&self, map: &str) -> bool {
        self.0.contains_key(map)
    }

    /// Whether one of these names outside may log in as `user`. Without a map the names must be equal.
    pub fn allow(&self, map: Option<&str>, outside: &[String], user: &str, groups: &Groups) -> bool {
        let Some(map) = map else { return outside.iter().any(|name| name == user) };
        let entries = self.0.get(map).map(Vec::as_slice).unwrap_or_default();
        entries.iter().any(|entry| outside.iter().any(|name| entry.allows(name, user, groups)))
    }
}

impl Entry {
    fn allows(&self, outside: &str, user: &str, groups: &Groups) -> bool {
        let found = match &self.outside {
            Outside::Is(name) => return **name == *outside && self.user.is_user(user, groups),
            Outside::Like(pattern) => pattern.captures(outside),
        };
        match (found, &self.template) {
            (None, _) => false,
            (Some(_), None) => self.user.is_user(user, groups),
            (Some(found), Some(template)) => {
                // a group that took no part has found nothing, as in Postgres
                let part = found.get(1).map_or("", |m| m.as_str());
                template.replacen(r"\1", part, 1) == user
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Groups {
        Groups::new(&[("staff".to_owned(), vec!["alice".to_owned(), "bob".to_owned()])].into())
    }

    fn maps(entries: &[(&str, &str, &str)]) -> Maps {
        let mut maps = Maps::default();
        for (map, name, user) in entries {
            maps.add(&Options { map: (*map).into(), name: (*name).into(), user: (*user).into() }).unwrap();
        }
        maps
    }

    #[test]
    fn words_mean_what_they_mean_in_pg_hba() {
        let user = |word: &str, user: &str| Name::user(word).unwrap().is_user(user, &groups());
        assert!(user("all", "x") && user("x", "x") && !user("x", "X"));
        assert!(user("+staff", "alice") && user("+staff", "staff") && !user("+staff", "eve"));
        assert!(!user("+nobody", "alice"));
        assert!(user("/^svc_", "svc_a") && !user("/^svc_", "a_svc_") && user("/svc", "a_svc_b"));
        let database = |word: &str, database: Option<&str>, user: &str| {
            Name::database(word).unwrap().is_database(database, user, &groups())
        };
        assert!(database("all", Some("shop"), "x") && database("shop", Some("shop"), "x"));
        assert!(database("sameuser", Some("x"), "x") && !database("sameuser", Some("shop"), "x"));
        assert!(database("samerole", Some("staff"), "bob") && !database("samerole", Some("staff"), "eve"));
        assert!(database("/^shop_[0-9]+$", Some("shop_7"), "x"));
        // replication without a database is meant by nothing but its own word
        assert!(database("replication", None, "x") && !database("all", None, "x"));
        assert!(!database("replication", Some("replication"), "x"));
        for wrong in ["+", "/", "/("] {
            assert!(Name::user(wrong).is_err(), "{wrong}");
        }
        let (message, _) = Name::user("/(").unwrap_err();
        assert!(message.contains("\"/(\" is no regular expression: unclosed group"), "{message}");
    }

    #[test]
    fn maps_say_who_may_be_whom() {
        let maps = maps(&[
            ("certs", "ops.example.com", "admin"),
            ("certs", r"/^(.*)@example\.com$", r"\1"),
            ("certs", "batch", "+staff"),
            ("wide", "/.*", "all"),
        ]);
        let may = |map, outside: &str, user| maps.allow(map, &[outside.to_owned()], user, &groups());
        assert!(
            may(Some("certs"), "ops.example.com", "admin") && !may(Some("certs"), "ops.example.com", "root")
        );
        assert!(
            may(Some("certs"), "alice@example.com", "alice")
                && !may(Some("certs"), "alice@example.com", "bob")
        );
        assert!(!may(Some("certs"), "alice@example.com.evil", "alice"));
        assert!(may(Some("certs"), "batch", "bob") && !may(Some("certs"), "batch", "eve"));
        assert!(may(Some("wide"), "anything", "anybody"));
        assert!(!may(Some("absent"), "x", "x"));
        assert!(may(None, "x", "x") && !may(None, "x", "X"));
        assert!(!maps.allow(None, &[], "", &groups()), "no name is nobody");
    }

    #[test]
    fn entries_that_mean_nothing_are_refused() {
        for (name, user, told) in [
            ("", "x", "without name"),
            ("x", "", "without user"),
            ("x", r"\1", "refers to a group"),
            ("/x", r"\1", "refers to a group"),
            ("/(", "x", "no regular expression"),
        ] {
            let options = Options { map: "m".into(), name: name.into(), user: user.into() };
            let (message, _) = Maps::default().add(&options).unwrap_err();
            assert!(message.contains(told), "{message}");
        }
    }
}
