//! Errors as a person should meet them: SQLSTATE, what happened, on which shard, what to do.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The five characters of a SQLSTATE (PostgreSQL manual, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
    pub const CONNECTION_FAILURE: SqlState = SqlState(*b"08006");
    pub const CANNOT_CONNECT: SqlState = SqlState(*b"08001");
    pub const TRANSACTION_RESOLUTION_UNKNOWN: SqlState = SqlState(*b"08007");
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    pub const NOT_NULL_VIOLATION: SqlState = SqlState(*b"23502");
    pub const STRING_DATA_RIGHT_TRUNCATION: SqlState = SqlState(*b"22001");
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
    pub const INVALID_TEXT_REPRESENTATION: SqlState = SqlState(*b"22P02");
    pub const NUMERIC_VALUE_OUT_OF_RANGE: SqlState = SqlState(*b"22003");
    pub const BAD_COPY_FILE_FORMAT: SqlState = SqlState(*b"22P04");
    pub const INVALID_BINARY_REPRESENTATION: SqlState = SqlState(*b"22P03");
    pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25001");
    pub const NO_ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25P01");
    pub const IN_FAILED_SQL_TRANSACTION: SqlState = SqlState(*b"25P02");
    pub const INVALID_SQL_STATEMENT_NAME: SqlState = SqlState(*b"26000");
    pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    pub const INVALID_CURSOR_NAME: SqlState = SqlState(*b"34000");
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    pub const SERIALIZATION_FAILURE: SqlState = SqlState(*b"40001");
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    pub const UNDEFINED_TABLE: SqlState = SqlState(*b"42P01");
    pub const UNDEFINED_PARAMETER: SqlState = SqlState(*b"42P02");
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    pub const DUPLICATE_PREPARED_STATEMENT: SqlState = SqlState(*b"42P05");
    pub const DUPLICATE_CURSOR: SqlState = SqlState(*b"42P03");
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    pub const OUT_OF_MEMORY: SqlState = SqlState(*b"53200");
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
    pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState(*b"54001");
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    pub const LOCK_NOT_AVAILABLE: SqlState = SqlState(*b"55P03");
    pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    pub const CRASH_SHUTDOWN: SqlState = SqlState(*b"57P02");
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    pub const IDLE_SESSION_TIMEOUT: SqlState = SqlState(*b"57P05");
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: SqlState = SqlState(*b"25P03");
    pub const CONFIG_FILE_ERROR: SqlState = SqlState(*b"F0000");
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who is at fault. Decides the log level and whether the session can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client sent something that cannot be served.
    Client,
    /// A file or a flag is wrong.
    Config,
    /// A server did not answer, or answered nonsense.
    Shard,
    /// A limit of pgweir's own was reached.
    Limit,
    /// A bug of ours.
    Internal,
}

/// Whether the same request may succeed when it is sent again. Marked at the origin, never matched from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    No,
    /// Nothing was done; the same request can be sent again.
    Safe,
}

/// An error with everything a client may see. One pointer wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    source: Source,
    sqlstate: SqlState,
    retry: Retry,
    fatal: bool,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    shard: Option<String>,
    /// 1-based, in characters, as in the protocol's field P.
    position: Option<u32>,
}

impl Error {
    pub fn new(source: Source, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            source,
            sqlstate,
            retry: Retry::No,
            fatal: false,
            message: message.into(),
            detail: None,
            hint: None,
            shard: None,
            position: None,
        }))
    }
    /// The client asked for something that cannot be done.
    pub fn client(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Source::Client, sqlstate, message)
    }
    /// 0A000: correct SQL that pgweir does not serve; give it a hint.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Source::Client, SqlState::FEATURE_NOT_SUPPORTED, message)
    }
    /// 08P01: the peer broke the protocol; the connection ends.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(Source::Client, SqlState::PROTOCOL_VIOLATION, message).fatal()
    }
    pub fn shard(sqlstate: SqlState, shard: impl Into<String>, message: impl Into<String>) -> Self {
        let mut e = Self::new(Source::Shard, sqlstate, message);
        e.0.shard = Some(shard.into());
        e
    }
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Source::Config, SqlState::CONFIG_FILE_ERROR, message)
    }
    pub fn limit(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Source::Limit, sqlstate, message)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Source::Internal, SqlState::INTERNAL_ERROR, message)
    }
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
    pub fn position(mut self, characters: u32) -> Self {
        self.0.position = Some(characters);
        self
    }
    pub fn retryable(mut self) -> Self {
        self.0.retry = Retry::Safe;
        self
    }
    /// The session cannot go on after this error (severity FATAL).
    pub fn fatal(mut self) -> Self {
        self.0.fatal = true;
        self
    }
    /// The same in words that every client_encoding has: what is not ASCII becomes a question mark.
    pub fn in_ascii(mut self) -> Self {
        let inner = &mut *self.0;
        let texts = [&mut inner.detail, &mut inner.hint, &mut inner.shard];
        for text in texts.into_iter().flatten().chain([&mut inner.message]) {
            if !text.is_ascii() {
                *text = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
            }
        }
        self
    }
    pub fn source(&self) -> Source {
        self.0.source
    }
    pub fn sqlstate(&self) -> SqlState {
        self.0.sqlstate
    }
    pub fn retry(&self) -> Retry {
        self.0.retry
    }
    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }
    pub fn message(&self) -> &str {
        &self.0.message
    }
    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    pub fn shard_name(&self) -> Option<&str> {
        self.0.shard.as_deref()
    }
    pub fn position_chars(&self) -> Option<u32> {
        self.0.position
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.sqlstate.as_str(), self.0.message)?;
        if let Some(shard) = &self.0.shard {
            write!(f, " (shard {shard})")?;
        }
        if let Some(detail) = &self.0.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
