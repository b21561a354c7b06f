//! Who a client user is on the servers.

use crate::options::Secret;
use crate::wire::scram::Keys;
use std::collections::HashMap;
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
}

/// A user of the servers with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub proof: Proof,
}

/// Client user -> identity towards servers. A user that is not listed is the same user there, with the
/// secret that its own login left, or none.
#[derive(Debug, Default)]
pub struct Credentials {
    users: HashMap<Arc<str>, Identity>,
    learned: Mutex<HashMap<Arc<str>, Keys>>,
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

    /// A client has logged in with SCRAM: from now on its keys open links for it, unless it is listed.
    pub fn learn(&self, client: &str, keys: Keys) {
        if self.users.contains_key(client) {
            return;
        }
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).insert(client.into(), keys);
    }

    pub fn of(&self, client: &str) -> Identity {
        if let Some(listed) = self.users.get(client) {
            return listed.clone();
        }
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = learned.get(client).map_or(Proof::None, |keys| Proof::Scram(keys.clone()));
        Identity { user: client.into(), proof }
    }
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
        credentials.learn("app", keys.clone());
        credentials.learn("alice", keys.clone());
        assert_eq!(credentials.of("app").proof, Proof::Password(Secret::new("sesame")));
        assert_eq!(&*credentials.of("reader").user, "app_ro");
        assert_eq!(credentials.of("alice").proof, Proof::Scram(keys));
        assert_eq!(credentials.of("bob"), Identity { user: "bob".into(), proof: Proof::None });
        let printed = format!("{credentials:?}");
        assert!(!printed.contains("sesame") && !printed.contains('7'), "{printed}");
    }
}
