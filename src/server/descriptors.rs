//! Open files: each client and each link is one, and systems let a process have few unless it asks for more.

use crate::config::Config;
use std::io;

/// What the process has open besides clients and links: log, listeners, the reactor, files that are read.
const OWN: u64 = 64;

/// Raises the process's limit to the highest that it may have, and says so when that is too low for the configuration.
pub(super) fn raise(config: &Config) {
    let wanted = wanted(config);
    match raised() {
        Ok(limit) if limit < wanted => tracing::warn!(
            "{limit} files may be open, and {} clients with their links need {wanted}: beyond that clients wait unanswered. \
             HINT: raise the hard limit (ulimit -Hn, LimitNOFILE= of the service) or lower [server] max_clients.",
            config.server.max_clients
        ),
        Ok(limit) => tracing::debug!("{limit} files may be open"),
        Err(e) => tracing::warn!("how many files may be open is not known: {e}"),
    }
}

/// Files that are open when there are as many clients as may be; each database has the links of one user.
fn wanted(config: &Config) -> u64 {
    let links: usize =
        config.databases.values().map(|d| d.servers.pool_size + d.servers.reserve_pool_size).sum();
    let server = &config.server;
    [server.max_clients, server.max_startups, links].iter().fold(OWN, |sum, n| sum.saturating_add(*n as u64))
}

/// The limit, once it is as high as it may be.
fn raised() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is valid for the call, which fills it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the struct is valid for the call, which reads it.
    if before < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        // some systems say "unlimited" and take less
        limit.rlim_cur = before;
    }
    #[allow(clippy::useless_conversion, reason = "the type differs between systems")]
    Ok(limit.rlim_cur.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let first = raised().unwrap();
        assert!(first > 0);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
        assert_eq!((limit.rlim_cur, limit.rlim_max), (first, limit.rlim_max));
        assert_eq!(raised().unwrap(), first, "it stays");
    }
}
