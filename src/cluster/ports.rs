//! Ports that nobody else will take.
//!
//! They lie below the range from which systems choose ports of outgoing connections, and a lock file
//! keeps other test processes away from them while a server is down between a kill and a restart. Other
//! programs can still be quicker: starting a server tries again with another port when that happens.

use crate::error::{Error, Result};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// Where free ports are looked for, unless the caller says where.
const RANGE: std::ops::Range<u16> = 15000..32000;

/// A port, kept from other clusters of this user while this value lives.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _lock: Option<File>,
}

impl Port {
    /// A free port on loopback: the first from `from` on, else one by chance.
    pub fn claim(from: Option<u16>) -> Result<Port> {
        let (start, span) = match from {
            Some(first) => (first, u16::MAX - first),
            None => {
                let mut random = [0; 2];
                getrandom::fill(&mut random).map_err(|e| Error::internal(e.to_string()))?;
                let span = RANGE.end - RANGE.start;
                (RANGE.start + u16::from_ne_bytes(random) % span, span)
            }
        };
        (0..span)
            .map(|i| match from {
                Some(first) => first + i,
                None => RANGE.start + (start - RANGE.start + i) % span,
            })
            .find_map(Port::exactly)
            .ok_or_else(|| Error::config("no free port on 127.0.0.1"))
    }

    /// That port, if it is free now.
    pub fn exactly(number: u16) -> Option<Port> {
        let lock = lock(number)?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Port { number, _lock: lock })
    }

    /// A port that a server of an earlier command has; nothing is checked.
    pub fn known(number: u16) -> Port {
        Port { number, _lock: None }
    }
}

/// `None`: somebody has it. `Some(None)`: there is no place for locks, go on without.
fn lock(number: u16) -> Option<Option<File>> {
    let dir = locks();
    let Ok(()) = std::fs::create_dir_all(&dir) else { return Some(None) };
    let Ok(file) = File::create(dir.join(number.to_string())) else { return Some(None) };
    match file.try_lock() {
        Ok(()) => Some(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => None,
        Err(std::fs::TryLockError::Error(_)) => Some(None),
    }
}

fn locks() -> PathBuf {
    // SAFETY: returns a number and cannot fail.
    let uid = unsafe { libc::geteuid() };
    std::env::temp_dir().join(format!("pgweir-ports-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_ports_differ_and_can_be_had_again() {
        let ports: Vec<Port> = (0..20).map(|_| Port::claim(None).unwrap()).collect();
        let numbers: std::collections::HashSet<u16> = ports.iter().map(|p| p.number).collect();
        assert_eq!(numbers.len(), 20);
        assert!(numbers.iter().all(|n| RANGE.contains(n)));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let taken = Port::claim(None).unwrap();
        let next = Port::claim(Some(taken.number)).unwrap();
        assert!(next.number > taken.number);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(Port::exactly(listener.local_addr().unwrap().port()).is_none());
    }
}
