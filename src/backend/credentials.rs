//! Who a client user is on the servers.

use crate::backend::options::{Options, ServiceLogin};
use crate::options::Secret;
use crate::wire::scram::Keys;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What proves an identity to a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proof {
    /// enough for servers that trust, or that look at the client certificate
    #[default]
    None,
    Password(Secret),
    /// what a client's own SCRAM login left: enough for SCRAM on servers with the identical verifier
    Scram(Keys),
    /// what pg_authid has of an md5 password: enough for md5 on servers where the user is called the same
    Md5(Secret),
}

impl From<Keys> for Proof {
    fn from(keys: Keys) -> Proof {
        Proof::Scram(keys)
    }
}

/// A user of the servers with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub proof: Proof,
}

/// Stands for pgweir itself among client users; no client can be called so, because names hold no NUL.
pub(super) const SERVICE: &str = "\0service";

/// Most users whose keys are kept. A name gets there by a log-in that succeeded.
const MAX_LEARNED: usize = 100_000;

/// Client user -> identity towards servers. A user that is not listed is the same user there, with the
/// secret that its own login left, or none.
#[derive(Debug, Default)]
pub struct Credentials {
    users: HashMap<Arc<str>, Identity>,
    /// by client user, then by shard: where they are somebody else
    on_shards: HashMap<Arc<str>, HashMap<Arc<str>, Identity>>,
    learned: Mutex<HashMap<Arc<str>, Proof>>,
}

impl Credentials {
    /// `client` is the same user on the servers, with this password.
    pub fn password(mut self, client: &str, password: Secret) -> Self {
        let user: Arc<str> = client.into();
        self.users.insert(user.clone(), Identity { user, proof: Proof::Password(password) });
        self
    }

    /// `client` is somebody else on the servers.
    pub fn identity(mut self, client: &str, identity: Identity) -> Self {
        self.users.insert(client.into(), identity);
        self
    }

    /// `client` is this on one shard, whoever it is on the others.
    pub fn on_shard(mut self, client: &str, shard: &str, identity: Identity) -> Self {
        self.on_shards.entry(client.into()).or_default().insert(shard.into(), identity);
        self
    }

    /// A client has logged in: from now on what that left opens links for it, unless it is listed. A log-in
    /// that left nothing changes nothing.
    pub fn learn(&self, client: &str, proof: Proof) {
        if self.users.contains_key(client) || proof == Proof::None {
            return;
        }
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= MAX_LEARNED && !learned.contains_key(client) {
            learned.clear();
        }
        learned.insert(client.into(), proof);
    }

    /// Who a client user is on a shard.
    pub fn of(&self, client: &str, shard: &str) -> Identity {
        let there = self.on_shards.get(client).and_then(|shards| shards.get(shard));
        if let Some(listed) = there.or_else(|| self.users.get(client)) {
            return listed.clone();
        }
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = learned.get(client).cloned().unwrap_or_default();
        Identity { user: client.into(), proof }
    }
}

/// What pgweir itself is on single shards, where that differs from the options.
pub fn services(options: &Options, by_shard: &BTreeMap<String, ServiceLogin>) -> Credentials {
    by_shard.iter().fold(Credentials::default(), |credentials, (shard, own)| {
        let user = own.service_user.as_deref().unwrap_or(&options.service_user);
        let password = own.service_password.as_ref().or(options.service_password.as_ref());
        let proof = password.cloned().map_or(Proof::None, Proof::Password);
        credentials.on_shard(SERVICE, shard, Identity { user: user.into(), proof })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_users_win_over_learned_keys_and_secrets_do_not_print() {
        let keys = Keys { client_key: [7; 32], server_key: [9; 32] };
        let credentials = Credentials::default().password("app", Secret::new("sesame")).identity(
            "reader",
            Identity { user: "app_ro".into(), proof: Proof::Password(Secret::new("open")) },
        );
        credentials.learn("app", keys.clone().into());
        credentials.learn("alice", keys.clone().into());
        credentials.learn("alice", Proof::None);
        assert_eq!(credentials.of("app", "s1").proof, Proof::Password(Secret::new("sesame")));
        assert_eq!(&*credentials.of("reader", "s1").user, "app_ro");
        assert_eq!(credentials.of("alice", "s1").proof, Proof::Scram(keys));
        assert_eq!(credentials.of("bob", "s1"), Identity { user: "bob".into(), proof: Proof::None });
        let printed = format!("{credentials:?}");
        assert!(!printed.contains("sesame") && !printed.contains('7'), "{printed}");
    }

    #[test]
    fn a_user_can_be_somebody_else_on_one_shard() {
        let other = Identity { user: "app2".into(), proof: Proof::Password(Secret::new("two")) };
        let credentials = Credentials::default()
            .password("app", Secret::new("one"))
            .on_shard("app", "s2", other.clone())
            .on_shard("alice", "s2", other.clone());
        assert_eq!(credentials.of("app", "s1").proof, Proof::Password(Secret::new("one")));
        assert_eq!(credentials.of("app", "s2"), other);
        // and is what its own log-in left on the others
        let keys = Keys { client_key: [7; 32], server_key: [9; 32] };
        credentials.learn("alice", keys.clone().into());
        assert_eq!(credentials.of("alice", "s2"), other);
        assert_eq!(credentials.of("alice", "s1").proof, Proof::Scram(keys));
    }
}
