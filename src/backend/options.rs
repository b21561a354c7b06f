//! Settings of this room.

use crate::options::Secret;
use std::path::PathBuf;
use std::time::Duration;

crate::options! {
    /// Links to servers: how many, how long, how protected.
    pub struct Options {
        /// Links that one shard and one server user may have at most.
        pool_size: usize = 20,
        /// Links that are kept open for each shard and server user once it has been used, however long they are idle.
        min_pool_size: usize = 0,
        /// Links beyond `pool_size` that are opened for sessions that have waited for `reserve_pool_timeout`; they end
        /// when they have been idle for `idle_timeout`. 0: none.
        reserve_pool_size: usize = 0,
        /// How long a session waits for a link before one of the reserve is opened for it.
        reserve_pool_timeout: Duration = Duration::from_secs(5),
        /// Links that one shard may have at most, those of all users together; pgweir's own are not counted. An idle link of
        /// another user ends when somebody waits. 0: no limit.
        max_db_connections: usize = 0,
        /// Links of one shard and user that sessions may keep for what lives in a server session (temporary tables, advisory locks,
        /// cursors WITH HOLD ...); a statement that would keep one more is refused with 53400. 0: no limit. SHOW PINS tells them.
        max_pinned_links: usize = 0,
        /// A link that was idle for longer is asked, with an empty query, before it is lent; one that does not answer is
        /// replaced. 0: never asked.
        server_check_delay: Duration = Duration::from_secs(30),
        /// Time to open a socket to one address of a node.
        connect_timeout: Duration = Duration::from_secs(3),
        /// Time for TLS, authentication and start-up messages together, once the socket is open.
        login_timeout: Duration = Duration::from_secs(10),
        /// A link that nobody used for so long is closed.
        idle_timeout: Duration = Duration::from_secs(600),
        /// A link older than this is closed once it is free, up to a tenth earlier, so that links opened
        /// together do not end together.
        max_lifetime: Duration = Duration::from_secs(3600),
        /// After a failed attempt to open a link the next one waits this long, doubled with each further failure.
        backoff_min: Duration = Duration::from_millis(50),
        /// Longest such wait.
        backoff_max: Duration = Duration::from_secs(1),
        /// Time for passing on a client's request to cancel.
        cancel_timeout: Duration = Duration::from_secs(3),
        /// TCP keepalive: silence before the first probe.
        tcp_keepalive: Duration = Duration::from_secs(30),
        /// Data that a server's machine does not acknowledge for so long ends the link.
        tcp_user_timeout: Duration = Duration::from_secs(30),
        /// TLS towards servers, with libpq's meaning of the modes. Unix sockets are never encrypted.
        tls: TlsMode = TlsMode::Prefer,
        /// PEM file with the authorities that sign the servers' certificates; the system's when not given.
        tls_ca: Option<PathBuf> = None,
        /// PEM file with pgweir's own certificate chain, for servers that ask for one.
        tls_cert: Option<PathBuf> = None,
        /// PEM file with the key of `tls_cert`.
        tls_key: Option<PathBuf> = None,
        /// Server user for what pgweir asks on its own account: catalogs, directory tables, checks.
        service_user: String = "postgres".into(),
        /// Password of `service_user`.
        service_password: Option<Secret> = None,
        /// While changes of a directory table cannot be heard (its listener is down), an entry is
        /// trusted for at most so long.
        directory_stale: Duration = Duration::from_secs(1),
        /// Time for one look-up in a directory table.
        directory_timeout: Duration = Duration::from_secs(5),
    }
}

crate::options! {
    /// pgweir's own log-in on one shard.
    pub struct ServiceLogin {
        /// server user for what pgweir asks of this shard on its own account
        service_user: Option<String> = None,
        /// its password there
        service_password: Option<Secret> = None,
    }
}

crate::choice! {
    /// TLS towards servers, as libpq's `sslmode`.
    pub enum TlsMode {
        /// never
        Disable = "disable",
        /// when the server offers it; the certificate is verified only when `tls_ca` is given
        Prefer = "prefer",
        /// or fail; the certificate is verified only when `tls_ca` is given, as libpq does
        Require = "require",
        /// and the certificate must be signed by a trusted authority
        VerifyCa = "verify-ca",
        /// and be made out to the host that was asked for
        VerifyFull = "verify-full",
    }
}

/// "0s" switches a limit off: a century is as good.
pub(crate) fn limit(setting: Duration) -> Duration {
    if setting.is_zero() { Duration::from_secs(100 * 365 * 86_400) } else { setting }
}
