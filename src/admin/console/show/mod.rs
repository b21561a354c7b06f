//! SHOW: one file per table.

mod clients;
mod config;
mod databases;
mod help;
mod keyspaces;
mod lists;
mod mem;
mod plans;
mod pools;
mod servers;
mod shards;
mod sockets;
mod statements;
mod stats;
mod tables;
mod users;

use super::table::{Kind, Table};
use super::words::Word;
use crate::admin::proxy::Proxy;
use crate::session::registry::Entry;
use std::net::SocketAddr;
use std::time::SystemTime;

pub use help::TEXT as HELP;
pub use stats::{Averages, PERIOD};

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Help,
    Version,
    Clients,
    Servers,
    Pools,
    Stats,
    StatsTotals,
    StatsAverages,
    Totals,
    Databases,
    Users,
    Lists,
    Config,
    Mem,
    Shards,
    Keyspaces,
    Tables,
    Pins,
    Statements,
    Plans,
    Sockets,
    DnsHosts,
    DnsZones,
}

impl Show {
    pub fn parse(words: &[Word]) -> Option<Show> {
        let [one] = words else { return words.is_empty().then_some(Show::Help) };
        Some(match one.name()? {
            "help" => Show::Help,
            "version" => Show::Version,
            "clients" => Show::Clients,
            "servers" => Show::Servers,
            "pools" => Show::Pools,
            "stats" => Show::Stats,
            "stats_totals" => Show::StatsTotals,
            "stats_averages" => Show::StatsAverages,
            "totals" => Show::Totals,
            "databases" => Show::Databases,
            "users" => Show::Users,
            "lists" => Show::Lists,
            "config" => Show::Config,
            "mem" => Show::Mem,
            "shards" => Show::Shards,
            "keyspaces" => Show::Keyspaces,
            "tables" => Show::Tables,
            "pins" => Show::Pins,
            "statements" => Show::Statements,
            "plans" => Show::Plans,
            "sockets" | "active_sockets" => Show::Sockets,
            "dns_hosts" => Show::DnsHosts,
            "dns_zones" => Show::DnsZones,
            _ => return None,
        })
    }

    /// `None`: it is no table but a text for people.
    pub fn columns(self) -> Option<&'static [(&'static str, Kind)]> {
        Some(match self {
            Show::Help => return None,
            Show::Version => &[("version", Kind::Text)],
            Show::Clients | Show::Servers => clients::COLUMNS,
            Show::Pools => pools::COLUMNS,
            Show::Stats => stats::COLUMNS,
            Show::StatsTotals | Show::StatsAverages => stats::HALF,
            Show::Totals => stats::PAIRS,
            Show::Databases => databases::COLUMNS,
            Show::Users => users::COLUMNS,
            Show::Lists => lists::COLUMNS,
            Show::Config => config::COLUMNS,
            Show::Mem => mem::COLUMNS,
            Show::Shards => shards::COLUMNS,
            Show::Keyspaces => keyspaces::COLUMNS,
            Show::Tables => tables::COLUMNS,
            Show::Pins => clients::PINS,
            Show::Statements => statements::COLUMNS,
            Show::Plans => plans::COLUMNS,
            Show::Sockets => sockets::COLUMNS,
            Show::DnsHosts => sockets::DNS_HOSTS,
            Show::DnsZones => sockets::DNS_ZONES,
        })
    }

    /// The table as of now; `averages` are the figures of the last period.
    pub fn table(self, proxy: &dyn Proxy, averages: &Averages) -> Option<Table> {
        let mut table = Table::new(self.columns()?);
        match self {
            Show::Help => return None,
            Show::Version => table.row([concat!("pgweir ", env!("CARGO_PKG_VERSION")).into()]),
            Show::Clients => clients::fill(&mut table, proxy),
            Show::Servers => servers::fill(&mut table, proxy),
            Show::Pools => pools::fill(&mut table, proxy),
            Show::Stats => stats::fill(&mut table, proxy, averages),
            Show::StatsTotals => stats::totals(&mut table, proxy),
            Show::StatsAverages => stats::averages(&mut table, proxy, averages),
            Show::Totals => stats::sums(&mut table, proxy, averages),
            Show::Databases => databases::fill(&mut table, proxy),
            Show::Users => users::fill(&mut table, proxy),
            Show::Lists => lists::fill(&mut table, proxy),
            Show::Config => config::fill(&mut table, proxy),
            Show::Mem => mem::fill(&mut table, proxy),
            Show::Shards => shards::fill(&mut table, proxy),
            Show::Keyspaces => keyspaces::fill(&mut table, proxy),
            Show::Tables => tables::fill(&mut table, proxy),
            Show::Pins => clients::pins(&mut table, proxy),
            Show::Statements => statements::fill(&mut table, proxy),
            Show::Plans => plans::fill(&mut table, proxy),
            Show::Sockets => sockets::fill(&mut table, proxy),
            // names are looked up by the system, whenever a link is opened
            Show::DnsHosts | Show::DnsZones => {}
        }
        Some(table)
    }
}

/// A session's name in the columns `ptr` and `link`.
fn client_ptr(entry: &Entry) -> String {
    format!("client-{}", entry.pid)
}

/// A link's.
fn server_ptr(shard: &str, pid: i32) -> String {
    format!("{shard}-{pid}")
}

fn address(address: Option<SocketAddr>) -> (String, i64) {
    match address {
        Some(a) => (a.ip().to_canonical().to_string(), a.port().into()),
        None => ("unix".into(), 0),
    }
}

/// As pgbouncer writes an instant.
fn instant(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days since 0000-03-01, cut into cycles of 400 years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn instants_read_like_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(instant(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
