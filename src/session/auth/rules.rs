//! Rules: who may log in from where, and how. The first rule that fits decides, as in pg_hba.conf, whose words these are.

use crate::error::{Error, Result, SqlState};
use crate::options::{Raw, Setting};
use crate::session::auth::Method;
use crate::session::auth::identity::{self, Groups, Maps, Mistake, Name};
use crate::session::auth::network::Network;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// One word or several: `"app"`, or `["app", "+staff"]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words(pub Vec<String>);

impl Setting for Words {
    fn expected() -> String {
        "a string, or a list of them".into()
    }
    fn read(raw: &Raw, base: &Path) -> Option<Self> {
        match raw {
            Raw::Text(word) => Some(Words(vec![word.clone()])),
            other => Vec::<String>::read(other, base).map(Words),
        }
    }
    fn show(&self) -> String {
        match &self.0[..] {
            [one] => format!("{one:?}"),
            several => format!("{several:?}"),
        }
    }
}

crate::choice! {
    /// How a client has connected.
    pub enum Connection {
        Any = "any",
        /// over a unix socket
        Local = "local",
        /// over TCP
        Host = "host",
        /// over TCP, with TLS
        HostSsl = "hostssl",
        /// over TCP, without TLS
        HostNoSsl = "hostnossl",
    }
}

crate::choice! {
    /// Whether a client must show a certificate, besides what the method asks for.
    pub enum ClientCert {
        No = "no",
        /// one that `client_ca` signed
        VerifyCa = "verify-ca",
        /// and whose name may be the user
        VerifyFull = "verify-full",
    }
}

crate::choice! {
    /// Which name of a certificate counts.
    pub enum ClientName {
        /// the common name
        Cn = "CN",
        /// the whole subject, as RFC 2253 writes it
        Dn = "DN",
        /// any of the alternative names: DNS, e-mail, URI
        San = "SAN",
    }
}

crate::options! {
    /// Who may log in from where, and how.
    pub struct Options {
        /// how the client has connected, in pg_hba.conf's words
        connection: Connection = Connection::Any,
        /// databases: names, `all`, `sameuser`, `samerole`, `/expression`
        database: Words = Words(vec!["all".into()]),
        /// users: names, `all`, `+group`, `/expression`
        user: Words = Words(vec!["all".into()]),
        /// where the client is: networks (`10.0.0.0/8`, `::1`), `samehost`, `samenet`, `all`; unix sockets have no address
        address: Words = Words(vec!["all".into()]),
        /// what is asked of it; required
        method: Option<Method> = None,
        /// with `cert`, `peer` and `clientcert`: the `[[ident]]` map from names outside to users; none: the names must be equal
        map: Option<String> = None,
        /// a certificate besides the method
        clientcert: ClientCert = ClientCert::No,
        /// which of the certificate's names counts
        clientname: ClientName = ClientName::Cn,
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// `None`: a unix socket
    pub address: Option<IpAddr>,
    pub tls: bool,
}

/// A rule that can be asked.
#[derive(Debug, Clone)]
pub struct Rule {
    connection: Connection,
    databases: Vec<Name>,
    users: Vec<Name>,
    networks: Vec<Network>,
    pub method: Method,
    pub map: Option<String>,
    pub clientcert: ClientCert,
    pub clientname: ClientName,
}

/// All of them, in order, with what they refer to.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    /// they were written; without any there is one that takes `[auth] method` for everybody
    configured: bool,
    pub groups: Groups,
    pub maps: Maps,
}

/// Which part of the configuration a mistake is in: its place in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Rule(usize),
    Ident(usize),
}

impl Rules {
    /// Errors: every mistake, with its place.
    pub fn new(
        rules: &[Options],
        idents: &[identity::Options],
        groups: &BTreeMap<String, Vec<String>>,
        otherwise: Method,
    ) -> Result<Rules, Vec<(Place, Mistake)>> {
        let mut wrong = Vec::new();
        let mut maps = Maps::default();
        for (i, ident) in idents.iter().enumerate() {
            if let Err(mistake) = maps.add(ident) {
                wrong.push((Place::Ident(i), mistake));
            }
        }
        let mut made = Vec::new();
        for (i, options) in rules.iter().enumerate() {
            match Rule::new(options, idents) {
                Ok(rule) => made.push(rule),
                Err(mistakes) => wrong.extend(mistakes.into_iter().map(|m| (Place::Rule(i), m))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if rules.is_empty() {
            made.push(Rule::everybody(otherwise));
        }
        Ok(Rules { rules: made, configured: !rules.is_empty(), groups: Groups::new(groups), maps })
    }

    /// Whether some rule asks for this.
    pub fn ask_for(&self, method: Method) -> bool {
        self.rules.iter().any(|r| r.method == method)
    }

    /// The rule for this log-in. `database`: none for a connection that replicates without one.
    ///
    /// Errors: 28000 when there is none, in the words of Postgres as far as they fit.
    pub fn find(&self, origin: &Origin, database: Option<&str>, user: &str) -> Result<&Rule> {
        let found = self.rules.iter().find(|rule| rule.is_for(origin, database, user, &self.groups));
        match found {
            Some(rule) if rule.method != Method::Reject => Ok(rule),
            Some(_) => {
                let message =
                    format!("an [[hba]] rule rejects connection for {}", told(origin, database, user));
                Err(Error::client(SqlState::INVALID_AUTHORIZATION, message))
            }
            None => {
                debug_assert!(self.configured, "the rule for everybody is for everybody");
                let message = format!("no [[hba]] rule for {}", told(origin, database, user));
                Err(Error::client(SqlState::INVALID_AUTHORIZATION, message))
            }
        }
    }
}

fn told(origin: &Origin, database: Option<&str>, user: &str) -> String {
    let host = origin.address.map_or_else(|| "[local]".to_owned(), |a| a.to_canonical().to_string());
    let what = match database {
        Some(database) => format!("user \"{user}\", database \"{database}\""),
        None => format!("user \"{user}\", replication"),
    };
    let encryption = if origin.tls { "SSL encryption" } else { "no encryption" };
    format!("host \"{host}\", {what}, {encryption}")
}

impl Rule {
    fn everybody(method: Method) -> Rule {
        Rule {
            connection: Connection::Any,
            // `all` leaves out who replicates a whole server
            databases: vec![Name::All, Name::Replication],
            users: vec![Name::All],
            networks: vec![Network::All],
            method,
            map: None,
            clientcert: ClientCert::No,
            clientname: ClientName::Cn,
        }
    }

    fn new(options: &Options, idents: &[identity::Options]) -> Result<Rule, Vec<Mistake>> {
        let mut wrong = Vec::new();
        let mut tell = |message: &str, instead: &str| wrong.push((message.to_owned(), instead.to_owned()));
        let local = options.connection == Connection::Local;
        let unencrypted = matches!(options.connection, Connection::Local | Connection::HostNoSsl);
        match options.method {
            None => tell("a rule without a method", &format!("add method = {}", Method::expected())),
            Some(Method::Peer) if !local => tell(
                "method \"peer\" asks the operating system, which knows only clients of unix sockets",
                "add connection = \"local\"",
            ),
            Some(Method::Cert) if unencrypted => {
                tell("method \"cert\" needs TLS", "write connection = \"hostssl\"");
            }
            Some(_) => {}
        }
        if options.clientcert != ClientCert::No && unencrypted {
            tell("clientcert needs TLS", "write connection = \"hostssl\"");
        }
        if local && options.address.0 != ["all"] {
            tell("clients of unix sockets have no address", "remove address, or write connection = \"host\"");
        }
        let named = matches!(options.method, Some(Method::Cert | Method::Peer))
            || options.clientcert == ClientCert::VerifyFull;
        if let Some(map) = &options.map {
            if !named {
                tell(
                    "a map is of use only where a name comes from outside",
                    "remove it, or write method = \"cert\" or \"peer\", or clientcert = \"verify-full\"",
                );
            }
            if !idents.iter().any(|entry| entry.map == *map) {
                tell(
                    &format!("there is no map {map:?}"),
                    &format!("add [[ident]] with map = {map:?}, name = \"...\", user = \"...\""),
                );
            }
        }
        let mut databases = Vec::new();
        let mut users = Vec::new();
        let mut networks = Vec::new();
        read(&options.database, "database", Name::database, &mut databases, &mut wrong);
        read(&options.user, "user", Name::user, &mut users, &mut wrong);
        read(&options.address, "address", Network::read, &mut networks, &mut wrong);
        match options.method {
            Some(method) if wrong.is_empty() => Ok(Rule {
                connection: options.connection,
                databases,
                users,
                networks,
                method,
                map: options.map.clone(),
                clientcert: options.clientcert,
                clientname: options.clientname,
            }),
            _ => Err(wrong),
        }
    }

    fn is_for(&self, origin: &Origin, database: Option<&str>, user: &str, groups: &Groups) -> bool {
        let connected = match self.connection {
            Connection::Any => true,
            Connection::Local => origin.address.is_none(),
            Connection::Host => origin.address.is_some(),
            Connection::HostSsl => origin.address.is_some() && origin.tls,
            Connection::HostNoSsl => origin.address.is_some() && !origin.tls,
        };
        connected
            && self.users.iter().any(|name| name.is_user(user, groups))
            && self.databases.iter().any(|name| name.is_database(database, user, groups))
            && self.networks.iter().any(|network| network.has(origin.address))
    }

    /// Whether a client must show a certificate.
    pub fn wants_certificate(&self) -> bool {
        self.method == Method::Cert || self.clientcert != ClientCert::No
    }
}

/// Reads each word of a list.
fn read<T>(
    words: &Words,
    key: &str,
    one: impl Fn(&str) -> Result<T, Mistake>,
    into: &mut Vec<T>,
    wrong: &mut Vec<Mistake>,
) {
    if words.0.is_empty() {
        wrong.push((format!("{key} = [] fits nobody"), format!("write {key} = \"all\", or remove it")));
    }
    for word in &words.0 {
        match one(word) {
            Ok(read) => into.push(read),
            Err((message, instead)) => wrong.push((format!("{key}: {message}"), instead)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Words {
        Words(words.iter().map(|w| (*w).to_owned()).collect())
    }

    fn rules(options: &[Options]) -> Result<Rules, Vec<(Place, Mistake)>> {
        let idents = [identity::Options { map: "certs".into(), name: "batch".into(), user: "app".into() }];
        let groups = [("staff".to_owned(), vec!["alice".to_owned()])].into();
        Rules::new(options, &idents, &groups, Method::Scram)
    }

    fn from(address: &str, tls: bool) -> Origin {
        Origin { address: (!address.is_empty()).then(|| address.parse().unwrap()), tls }
    }

    fn asked(rules: &Rules, origin: &Origin, database: &str, user: &str) -> Result<Method, String> {
        rules.find(origin, Some(database), user).map(|r| r.method).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(&[
            Options { connection: Connection::Local, method: Some(Method::Peer), ..Options::default() },
            Options { user: words(&["eve"]), method: Some(Method::Reject), ..Options::default() },
            Options {
                connection: Connection::HostSsl,
                user: words(&["+staff"]),
                address: words(&["10.0.0.0/8"]),
                method: Some(Method::Cert),
                map: Some("certs".into()),
                ..Options::default()
            },
            Options {
                connection: Connection::HostNoSsl,
                database: words(&["shop"]),
                address: words(&["10.0.0.0/8", "::1"]),
                method: Some(Method::Md5),
                ..Options::default()
            },
            Options {
                connection: Connection::Host,
                database: words(&["sameuser"]),
                method: Some(Method::Trust),
                ..Options::default()
            },
        ])
        .unwrap();
        assert_eq!(asked(&rules, &from("", false), "shop", "eve"), Ok(Method::Peer));
        assert_eq!(asked(&rules, &from("10.1.1.1", true), "shop", "alice"), Ok(Method::Cert));
        assert_eq!(asked(&rules, &from("10.1.1.1", false), "shop", "alice"), Ok(Method::Md5));
        assert_eq!(asked(&rules, &from("::1", false), "shop", "bob"), Ok(Method::Md5));
        assert_eq!(asked(&rules, &from("192.0.2.1", true), "bob", "bob"), Ok(Method::Trust));
        assert_eq!(
            asked(&rules, &from("192.0.2.1", true), "shop", "eve").unwrap_err(),
            "an [[hba]] rule rejects connection for host \"192.0.2.1\", user \"eve\", database \"shop\", SSL encryption"
        );
        assert_eq!(
            asked(&rules, &from("::ffff:192.0.2.1", false), "shop", "bob").unwrap_err(),
            "no [[hba]] rule for host \"192.0.2.1\", user \"bob\", database \"shop\", no encryption"
        );
        let replicating = rules.find(&from("10.1.1.1", false), None, "bob").unwrap_err();
        assert_eq!(replicating.sqlstate(), SqlState::INVALID_AUTHORIZATION);
        assert_eq!(
            replicating.message(),
            "no [[hba]] rule for host \"10.1.1.1\", user \"bob\", replication, no encryption"
        );
    }

    #[test]
    fn without_rules_the_method_of_auth_is_for_everybody() {
        let rules = rules(&[]).unwrap();
        for origin in [from("", false), from("::1", true), from("192.0.2.1", false)] {
            assert_eq!(asked(&rules, &origin, "shop", "app"), Ok(Method::Scram));
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_told() {
        let scram = || Options { method: Some(Method::Scram), ..Options::default() };
        for (wrong, told) in [
            (Options::default(), "a rule without a method"),
            (Options { method: Some(Method::Peer), ..Options::default() }, "unix sockets"),
            (
                Options { method: Some(Method::Cert), connection: Connection::Local, ..Options::default() },
                "method \"cert\" needs TLS",
            ),
            (
                Options { clientcert: ClientCert::VerifyCa, connection: Connection::HostNoSsl, ..scram() },
                "clientcert needs TLS",
            ),
            (
                Options { connection: Connection::Local, address: words(&["::1"]), ..scram() },
                "clients of unix sockets have no address",
            ),
            (Options { map: Some("certs".into()), ..scram() }, "a map is of use only where"),
            (
                Options { map: Some("certificates".into()), clientcert: ClientCert::VerifyFull, ..scram() },
                "there is no map \"certificates\"",
            ),
            (Options { user: words(&[]), ..scram() }, "user = [] fits nobody"),
            (Options { user: words(&["app", "/["]), ..scram() }, "user: \"/[\" is no regular expression"),
            (Options { database: words(&["/"]), ..scram() }, "database: \"/\" names nothing"),
            (Options { address: words(&["db1"]), ..scram() }, "address: \"db1\" is no address"),
        ] {
            let found = rules(&[scram(), wrong]).unwrap_err();
            assert_eq!(found.len(), 1, "{told}: {found:?}");
            assert_eq!(found[0].0, Place::Rule(1));
            assert!(found[0].1.0.contains(told), "{told}: {found:?}");
        }
    }
}
