//! In which encodings a session's texts come and are stored, and what may be concluded from their bytes.
//!
//! A hash or an order of texts is one of the bytes that the server stores. Those are the bytes that came only where
//! nothing is converted in between. Everything in ASCII is the same in all encodings, so questions are asked only of
//! texts with bytes above 127, and only of sessions that are not [`Encodings::is_plain`].

use crate::error::Error;
use crate::wire::encoding::Encoding;

/// client_encoding of a session, and server_encoding of all shards of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encodings {
    /// unknown: it may have changed, and no server has said to what
    pub client: Encoding,
    /// unknown: the shards differ
    pub server: Encoding,
}

impl Encodings {
    pub const UTF8: Encodings = Encodings { client: Encoding::UTF8, server: Encoding::UTF8 };

    /// Texts come in UTF-8 (or are refused by the server) and are stored as they came.
    #[inline]
    pub fn is_plain(self) -> bool {
        self.server == Encoding::UTF8 && self.is_utf8_text()
    }

    /// Texts come in UTF-8, or are refused by the server. SQL_ASCII means "whatever the server has".
    #[inline]
    pub fn is_utf8_text(self) -> bool {
        self.client == Encoding::UTF8 || (self.client == Encoding::SQL_ASCII && self.server == Encoding::UTF8)
    }

    /// What is stored are the bytes that came (pg_any_to_server, mbutils.c).
    pub fn as_sent(self) -> bool {
        if !self.client.is_known() || !self.server.is_known() {
            return false;
        }
        self.client == self.server
            || self.client == Encoding::SQL_ASCII
            || (self.server == Encoding::SQL_ASCII && self.client.is_ascii_safe())
    }

    /// Why something beyond ASCII is refused.
    #[cold]
    pub(super) fn refusal(self, what: &str) -> Error {
        let how = match (self.client.is_known(), self.server.is_known()) {
            (true, true) => format!(
                "client_encoding is {} and the shards store {}",
                self.client.name(),
                self.server.name()
            ),
            (_, false) => "the shards store different encodings".to_owned(),
            (false, true) => "what client_encoding is now is not known".to_owned(),
        };
        let hint = match (self.client.is_known(), self.server) {
            (_, Encoding::UTF8) => {
                "SET client_encoding = 'UTF8' in a message of its own, and send the statement in UTF-8."
            }
            (_, Encoding::UNKNOWN) => "pgweir check tells which shards differ.",
            _ => "Use ASCII characters only, or name the shard: /* pgweir: shard=... */.",
        };
        Error::unsupported(format!("{what} with characters beyond ASCII cannot be routed: {how}")).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_stored_as_they_came_where_nothing_is_converted() {
        let of = |client: &str, server: &str| {
            let e = Encodings { client: Encoding::named(client), server: Encoding::named(server) };
            (e.is_plain(), e.is_utf8_text(), e.as_sent())
        };
        assert_eq!(of("UTF8", "UTF8"), (true, true, true));
        assert_eq!(of("SQL_ASCII", "UTF8"), (true, true, true));
        assert_eq!(of("LATIN1", "UTF8"), (false, false, false));
        assert_eq!(of("UTF8", "LATIN1"), (false, true, false));
        assert_eq!(of("LATIN1", "LATIN1"), (false, false, true));
        assert_eq!(of("SQL_ASCII", "LATIN1"), (false, false, true));
        assert_eq!(of("LATIN1", "SQL_ASCII"), (false, false, true));
        assert_eq!(of("SJIS", "SQL_ASCII"), (false, false, false));
        assert_eq!(of("?", "UTF8"), (false, false, false));
        assert_eq!(of("UTF8", "?"), (false, true, false));
    }
}
