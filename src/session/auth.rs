//! How clients prove who they are: trust, clear text, md5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS.

use crate::options::Secret;

crate::choice! {
    /// What is asked of clients.
    pub enum Method {
        Scram = "scram-sha-256",
        Md5 = "md5",
        Password = "password",
        Trust = "trust",
    }
}

crate::options! {
    /// How clients prove who they are.
    pub struct Options {
        /// `password` sends it in clear text: only with TLS; `trust` asks for nothing, and takes users that are not listed
        method: Method = Method::Scram,
    }
}

crate::options! {
    /// A user.
    pub struct UserOptions {
        /// as clients give it
        name: String = String::new(),
        /// the password, or what pg_authid has of it: `SCRAM-SHA-256$...`, `md5...`
        password: Option<Secret> = None,
        /// the user's name towards servers, if it is another
        server_user: Option<String> = None,
        /// the password towards servers, if it is another, or if `password` is not in clear text
        server_password: Option<Secret> = None,
    }
}

/// What is known of a user's password.
#[derive(Debug, Clone)]
pub enum Stored {
    /// trust alone lets this user in
    Nothing,
    Plain(Secret),
    /// hex digest of password and user
    Md5(Secret),
    Scram(Secret),
}

impl Stored {
    /// Errors: what to write, when no client could ever log in.
    pub fn read(user: &UserOptions, method: Method) -> Result<Stored, String> {
        let Some(password) = &user.password else {
            return match method {
                Method::Trust => Ok(Stored::Nothing),
                _ => Err("add password, password_file or password_env".into()),
            };
        };
        let text = password.reveal();
        Ok(if text.starts_with("SCRAM-SHA-256$") {
            Stored::Scram(password.clone())
        } else if text.len() == 35
            && text.starts_with("md5")
            && text[3..].bytes().all(|b| b.is_ascii_hexdigit())
        {
            if method == Method::Scram {
                return Err("an md5 password cannot serve scram-sha-256: write the password itself or its SCRAM verifier".into());
            }
            Stored::Md5(password.clone())
        } else if text.is_empty() {
            return Err("an empty password is never accepted: write another".into());
        } else {
            Stored::Plain(password.clone())
        })
    }
}
