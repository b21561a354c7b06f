//! Users of the configuration, and what is kept of their passwords.

use crate::options::Secret;
use crate::session::auth::Method;
use crate::session::auth::rules::Rules;
use crate::session::database::PoolMode;
use crate::wire::md5;
use crate::wire::scram::{self, Keys, Verifier};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

crate::options! {
    /// A user.
    pub struct UserOptions {
        /// as clients give it
        name: String = String::new(),
        /// the password, or what pg_authid has of it: `SCRAM-SHA-256$...`, `md5...`; without one it is looked up by `auth_query`
        password: Option<Secret> = None,
        /// the user's name towards servers, if it is another
        server_user: Option<String> = None,
        /// the password towards servers, if it is another, or if `password` is not in clear text
        server_password: Option<Secret> = None,
        /// sessions that the user may have at once, on all databases together; 0: as many as `[server]` admits
        max_clients: usize = 0,
        /// links that the user may have at once, on all shards and databases together, instead of `[server] max_user_connections`.
        /// Users who are one user on the servers (`server_user`) count as that one
        max_user_connections: Option<usize> = None,
        /// instead of the databases' `replication`
        replication: Option<bool> = None,
        /// instead of the databases' `pool_mode`
        pool_mode: Option<PoolMode> = None,
    }
}

crate::options! {
    /// Who a user is on one shard, where that differs.
    pub struct ShardUser {
        /// the user's name towards this shard's servers
        server_user: Option<String> = None,
        /// the password towards this shard's servers
        server_password: Option<Secret> = None,
    }
}

/// What is known of a user's password. None of it is a password.
#[derive(Clone, Default)]
pub struct Stored {
    pub verifier: Option<Verifier>,
    /// as pg_authid has it: enough to log in with, so as secret as the password
    pub md5: Option<Secret>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored").field("verifier", &self.verifier).field("md5", &self.md5).finish()
    }
}

impl Stored {
    /// Checks what the file says of a user, without the work of making verifiers. `looked_up`: a user without a password
    /// may have one on a shard.
    ///
    /// Errors: what to write, when no client could ever log in.
    pub fn check(user: &UserOptions, rules: &Rules, looked_up: bool) -> Result<(), String> {
        let asks = |methods: &[Method]| methods.iter().any(|m| rules.ask_for(*m));
        let without = asks(&[Method::Trust, Method::Cert, Method::Peer]);
        let Some(password) = user.password.as_ref().map(Secret::reveal) else {
            return match without || looked_up {
                true => Ok(()),
                false => Err("add password, password_file or password_env".into()),
            };
        };
        if password.is_empty() {
            return Err("an empty password is never accepted: write another".into());
        }
        if password.starts_with("SCRAM-SHA-256$") && Verifier::parse(password).is_none() {
            return Err("its SCRAM verifier is damaged: copy rolpassword from pg_authid whole".into());
        }
        if md5::is_stored(password) && !without && !asks(&[Method::Md5, Method::Password]) {
            return Err(
                "an md5 password cannot serve scram-sha-256: write the password itself or its SCRAM verifier"
                    .into(),
            );
        }
        Ok(())
    }

    /// From what pg_authid has, or from a password in the clear, which costs a key derivation.
    pub fn from_text(user: &str, text: &Secret, salt: &[u8]) -> Stored {
        let plain = text.reveal();
        if let Some(verifier) = Verifier::parse(plain) {
            return Stored { verifier: Some(verifier), md5: None };
        }
        if md5::is_stored(plain) {
            return Stored { verifier: None, md5: Some(text.clone()) };
        }
        let digest = md5::stored(user.as_bytes(), plain.as_bytes());
        Stored {
            verifier: Some(Verifier::from_password(plain.as_bytes(), salt, scram::DEFAULT_ITERATIONS)),
            md5: Some(Secret::new(digest)),
        }
    }

    /// Whether a password in the clear is this user's, and what can be done with it towards servers.
    /// Costs a key derivation, whoever the user is: `made_up` is compared with where there is no verifier.
    pub fn accepts(&self, user: &str, password: &[u8], made_up: &Verifier) -> Option<Option<Keys>> {
        let keys = self.verifier.as_ref().unwrap_or(made_up).keys_of(password);
        if keys.is_some() {
            return Some(keys);
        }
        // the same question as in an md5 exchange, compared in constant time there
        let stored = self.md5.as_ref().map(Secret::reveal).unwrap_or_default();
        let answer = md5::answer(&md5::stored(user.as_bytes(), password), [0; 4]);
        (self.verifier.is_none() && md5::verify(stored, [0; 4], answer.as_bytes())).then_some(None)
    }
}

/// Makes up what is not there, always the same for the same name.
#[derive(Clone)]
pub struct Mock(pub [u8; 32]);

impl std::fmt::Debug for Mock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mock")
    }
}

impl Mock {
    /// From a text of any length.
    pub fn of(secret: &Secret) -> Mock {
        Mock(scram::Salted::new(secret.reveal().as_bytes(), b"mock", 1).keys().server_key)
    }

    /// A verifier that no proof fits.
    pub fn verifier(&self, user: &str, iterations: u32) -> Verifier {
        Verifier::mock(user.as_bytes(), &self.0, iterations)
    }

    /// Passwords in the clear get the salt that a stranger of that name would meet, so that nobody learns from a salt
    /// that changes, or stays, who is listed.
    pub fn salt(&self, user: &str) -> Vec<u8> {
        self.verifier(user, 1).salt
    }
}

/// The users that are listed. Swapped whole on reload.
pub struct Users {
    users: HashMap<Box<str>, Arc<Stored>>,
    pub mock: Mock,
    /// rounds of a verifier for somebody who is not listed: those of the users that there are
    pub iterations: u32,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

type Listed = BTreeMap<String, UserOptions>;

impl Users {
    /// Stretches passwords that are in the clear, on all cores; `before` spares it for those that have not changed.
    ///
    /// `mock` is kept over reloads: an unlisted user would otherwise be known by a salt that changes.
    pub fn new(listed: &Listed, mock: Mock, before: Option<(&Listed, &Users)>) -> Users {
        let kept = |name: &String, user: &UserOptions| {
            let (listed, users) = before?;
            let same = listed.get(name)?.password == user.password && users.mock.0 == mock.0;
            users.users.get(name.as_str()).filter(|_| same).cloned()
        };
        let with_password: Vec<(&String, &UserOptions, &Secret)> =
            listed.iter().filter_map(|(name, user)| Some((name, user, user.password.as_ref()?))).collect();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let share = with_password.len().div_ceil(cores).max(1);
        let make = |(name, user, password): &(&String, &UserOptions, &Secret)| {
            let stored = kept(name, user)
                .unwrap_or_else(|| Arc::new(Stored::from_text(name, password, &mock.salt(name))));
            (Box::from(name.as_str()), stored)
        };
        let users: HashMap<Box<str>, Arc<Stored>> = std::thread::scope(|threads| {
            let shares: Vec<_> = with_password
                .chunks(share)
                .map(|share| threads.spawn(move || share.iter().map(make).collect::<Vec<_>>()))
                .collect();
            // a thread that panicked would have panicked here as well
            shares
                .into_iter()
                .flat_map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
                .collect()
        });
        let iterations = users.values().filter_map(|u| Some(u.verifier.as_ref()?.iterations)).max();
        Users { users, mock, iterations: iterations.unwrap_or(scram::DEFAULT_ITERATIONS) }
    }

    /// What is listed of a user's password.
    pub fn find(&self, user: &str) -> Option<&Arc<Stored>> {
        self.users.get(user)
    }

    /// Somebody who is not known is asked for what most of those who are known would be asked for.
    pub fn mostly_md5(&self) -> bool {
        self.users.is_empty() || self.users.values().any(|u| u.md5.is_some())
    }
}

/// Whether a configured password is a verifier or a digest instead of the password itself.
pub fn is_derived(password: &str) -> bool {
    md5::is_stored(password) || Verifier::parse(password).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::auth::rules;

    fn user(password: Option<&str>) -> UserOptions {
        UserOptions { name: "app".into(), password: password.map(Secret::new), ..UserOptions::default() }
    }

    fn listed(password: &str) -> Listed {
        [("app".to_owned(), user(Some(password)))].into()
    }

    fn rules(method: Method) -> Rules {
        Rules::new(&[], &[], &BTreeMap::new(), method).unwrap()
    }

    #[test]
    fn passwords_that_could_never_work_are_told() {
        let verifier = Verifier::from_password(b"x", b"salt", 4096).to_string();
        let digest = md5::stored(b"app", b"x");
        for method in [Method::Scram, Method::Md5, Method::Password] {
            let rules = rules(method);
            assert!(Stored::check(&user(None), &rules, false).is_err());
            assert_eq!(Stored::check(&user(None), &rules, true), Ok(()));
            assert!(Stored::check(&user(Some("")), &rules, true).is_err());
            assert!(Stored::check(&user(Some("SCRAM-SHA-256$4096:oops")), &rules, false).is_err());
            assert_eq!(Stored::check(&user(Some(&verifier)), &rules, false), Ok(()));
            assert_eq!(Stored::check(&user(Some(&digest)), &rules, false).is_err(), method == Method::Scram);
        }
        for method in [Method::Trust, Method::Cert] {
            assert_eq!(Stored::check(&user(None), &rules(method), false), Ok(()));
        }
        let both = [Method::Scram, Method::Md5]
            .map(|method| rules::Options { method: Some(method), ..rules::Options::default() });
        let both = Rules::new(&both, &[], &BTreeMap::new(), Method::Scram).unwrap();
        assert_eq!(Stored::check(&user(Some(&digest)), &both, false), Ok(()));
    }

    #[test]
    fn who_is_not_listed_looks_like_the_others() {
        let scram = Users::new(
            &listed(&Verifier::from_password(b"x", b"s", 10_000).to_string()),
            Mock([1; 32]),
            None,
        );
        assert!(!scram.mostly_md5());
        assert_eq!(scram.iterations, 10_000);
        let made_up = |name| scram.mock.verifier(name, scram.iterations);
        assert_eq!(made_up("nobody"), made_up("nobody"));
        assert_ne!(made_up("nobody"), made_up("nobody else"));
        assert_ne!(made_up("nobody").salt, Mock([2; 32]).salt("nobody"));
        // a password in the clear has the salt that the name would have had without it
        let plain = Users::new(&listed("x"), Mock([1; 32]), None);
        let salt = &plain.find("app").unwrap().verifier.as_ref().unwrap().salt;
        assert_eq!(*salt, plain.mock.salt("app"));
        assert!(plain.mostly_md5());
    }

    #[test]
    fn a_reload_stretches_only_what_has_changed() {
        let one = Users::new(&listed("one"), Mock([1; 32]), None);
        let same = Users::new(&listed("one"), Mock([1; 32]), Some((&listed("one"), &one)));
        assert!(Arc::ptr_eq(one.find("app").unwrap(), same.find("app").unwrap()));
        let two = Users::new(&listed("two"), Mock([1; 32]), Some((&listed("one"), &one)));
        assert!(!Arc::ptr_eq(one.find("app").unwrap(), two.find("app").unwrap()));
        let many: Listed = (0..5).map(|i| (format!("u{i}"), user(Some(&format!("p{i}"))))).collect();
        let many = Users::new(&many, Mock([1; 32]), None);
        let made_up = Mock([1; 32]).verifier("x", 4096);
        for i in 0..5 {
            let (name, password) = (format!("u{i}"), format!("p{i}"));
            assert!(many.find(&name).unwrap().accepts(&name, password.as_bytes(), &made_up).is_some());
        }
    }

    #[test]
    fn a_password_in_the_clear_fits_or_not() {
        let made_up = Mock([1; 32]).verifier("app", 4096);
        let accepts = |stored: &str, password: &[u8]| {
            Stored::from_text("app", &Secret::new(stored), b"salt").accepts("app", password, &made_up)
        };
        let verifier = Verifier::from_password(b"x", b"salt", 4096).to_string();
        for stored in ["x", &verifier] {
            let keys = accepts(stored, b"x").unwrap().unwrap();
            assert_eq!(keys, scram::Salted::new(b"x", b"salt", 4096).keys());
            assert!(accepts(stored, b"y").is_none());
        }
        let digest = md5::stored(b"app", b"x");
        assert_eq!(accepts(&digest, b"x"), Some(None));
        assert!(accepts(&digest, b"y").is_none());
        assert!(Stored::default().accepts("app", b"x", &made_up).is_none());
        assert!(Stored::default().accepts("app", b"", &made_up).is_none());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let stored = Stored::from_text("app", &Secret::new("sesame"), b"salt");
        let users = Users::new(&listed("sesame"), Mock([77; 32]), None);
        let printed = format!("{stored:?} {users:?} {:?}", user(Some("sesame")));
        assert!(!printed.contains("sesame") && !printed.contains("77"), "{printed}");
        assert!(!printed.contains(stored.md5.unwrap().reveal()), "{printed}");
    }
}
