//! What operators ask a running proxy: `/healthz`, `/readyz` and `/metrics` over HTTP, and a console that speaks SQL's protocol.
//!
//! The responder speaks just enough HTTP/1.1 for probes and scrapers: one GET per connection, no bodies in requests,
//! limits on what it reads and on how long. It runs beside the sessions on the same runtime and touches nothing of
//! theirs; numbers come from `metrics`, readiness from a closure that `server` passes in.
//!
//! May import metrics, options, error and (for a console) the registry. When a probe fails, `curl -v` it; when a
//! number is wrong, look where `metrics` declares the family.

pub mod console;
pub mod http;
pub mod proxy;

crate::options! {
    /// Health, metrics and the console.
    pub struct Options {
        /// address of the HTTP endpoint (`host:port`); empty: none. It has no authentication: keep it inside
        listen: String = String::new(),
        /// who may use the console: the virtual databases `pgweir` and `pgbouncer`
        users: Vec<String> = vec![],
        /// who may only SHOW there
        stats_users: Vec<String> = vec![],
    }
}
