//! Addresses of clients, and the networks that rules name.

use std::ffi::CStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// every address, and unix sockets
    All,
    /// an address of this machine
    SameHost,
    /// an address of a network that this machine is in
    SameNet,
    /// bits that must be equal, and how many
    Block(IpAddr, u8),
}

impl Network {
    /// Reads `all`, `samehost`, `samenet`, `10.0.0.0/8`, `::1`.
    ///
    /// Errors: what is wrong with it, and what to write.
    pub fn read(text: &str) -> Result<Network, (String, String)> {
        match text {
            "all" => return Ok(Network::All),
            "samehost" => return Ok(Network::SameHost),
            "samenet" => return Ok(Network::SameNet),
            _ => {}
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err((
                format!("{text:?} is no address"),
                "write \"10.0.0.0/8\", \"::1\", \"samehost\", \"samenet\" or \"all\"; host names are not looked up"
                    .into(),
            ));
        };
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => match bits.parse() {
                Ok(bits) if bits <= most => bits,
                _ => {
                    return Err((
                        format!("{text:?} has no valid number of bits"),
                        format!("write 0 to {most} behind the slash"),
                    ));
                }
            },
        };
        let block = Network::Block(masked(address, bits), bits);
        if masked(address, bits) != address {
            return Err((format!("{text:?} has bits behind its mask"), format!("write \"{block}\"")));
        }
        Ok(block)
    }

    /// Whether a client comes from there; `None` is a unix socket.
    pub fn has(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address.map(|a| a.to_canonical()) else { return *self == Network::All };
        match self {
            Network::All => true,
            Network::Block(network, bits) => within(address, *network, *bits),
            Network::SameHost => interfaces().iter().any(|(own, _)| *own == address),
            Network::SameNet => interfaces().iter().any(|(own, bits)| within(address, *own, *bits)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::All => f.write_str("all"),
            Network::SameHost => f.write_str("samehost"),
            Network::SameNet => f.write_str("samenet"),
            Network::Block(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    address.is_ipv4() == network.is_ipv4() && masked(address, bits) == masked(network, bits)
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// This machine's addresses with the lengths of their networks, as they are now: interfaces come and go.
fn interfaces() -> Vec<(IpAddr, u8)> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: it only fills in the pointer, to a list that is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        tracing::error!("the machine's addresses cannot be read: {}", std::io::Error::last_os_error());
        return vec![];
    }
    let mut found = vec![];
    let mut next = first;
    // SAFETY: each entry of the list is valid, or null at its end, until the list is freed.
    while let Some(interface) = unsafe { next.as_ref() } {
        // SAFETY: both pointers are null, or addresses of the family that they name.
        let (address, mask) = unsafe { (ip(interface.ifa_addr), ip(interface.ifa_netmask)) };
        if let (Some(address), Some(mask)) = (address, mask) {
            let bits = match mask {
                IpAddr::V4(v4) => v4.to_bits().leading_ones(),
                IpAddr::V6(v6) => v6.to_bits().leading_ones(),
            };
            found.push((address, bits as u8));
        }
        next = interface.ifa_next;
    }
    // SAFETY: the list came from getifaddrs, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// # Safety
///
/// `address` is null or points to an address as large as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    match i32::from(unsafe { address.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: the caller's promise.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the caller's promise.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The name of a user of the operating system.
pub fn system_user(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 * 1024];
    let mut result = std::ptr::null_mut();
    // SAFETY: passwd is plain data for which zero bytes are valid (null pointers, zero numbers).
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let code = unsafe { libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut result) };
    if code != 0 || result.is_null() {
        return None;
    }
    // SAFETY: on success the name is a C string inside the buffer.
    unsafe { CStr::from_ptr(entry.pw_name) }.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(network: &str, address: &str) -> bool {
        Network::read(network).unwrap().has(Some(address.parse().unwrap()))
    }

    #[test]
    fn blocks() {
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("10.1.2.3", "10.1.2.3") && !has("10.1.2.3", "10.1.2.4"));
        assert!(has("0.0.0.0/0", "255.1.2.3") && !has("0.0.0.0/0", "::1"));
        assert!(has("::/0", "fe80::1") && !has("::/0", "127.0.0.1"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::") && !has("2001:db8::/33", "2001:db8:8000::"));
        // a listener on :: sees IPv4 clients so
        assert!(has("10.0.0.0/8", "::ffff:10.1.1.1") && !has("::/0", "::ffff:10.1.1.1"));
        assert!(has("all", "::1") && Network::All.has(None));
        assert!(!Network::read("0.0.0.0/0").unwrap().has(None), "a unix socket has no address");
        assert!(!Network::SameHost.has(None));
    }

    #[test]
    fn this_machine() {
        assert!(has("samehost", "127.0.0.1") && has("samenet", "127.99.0.1"));
        assert!(!has("samehost", "127.99.0.1"), "only what an interface has");
        assert!(!has("samenet", "::ffff:0:1"));
    }

    #[test]
    fn what_is_no_network() {
        for (text, told, instead) in [
            ("localhost", "\"localhost\" is no address", "host names are not looked up"),
            ("10.0.0.0/33", "valid number of bits", "0 to 32"),
            ("::/129", "valid number of bits", "0 to 128"),
            ("10.0.0.0/", "valid number of bits", "0 to 32"),
            ("10.0.0.1/8", "bits behind its mask", "10.0.0.0/8"),
            ("", "is no address", "samehost"),
        ] {
            let (message, hint) = Network::read(text).unwrap_err();
            assert!(message.contains(told) && hint.contains(instead), "{text}: {message}; {hint}");
        }
    }

    #[test]
    fn users_of_the_system_have_names() {
        assert_eq!(system_user(0).as_deref(), Some("root"));
        assert_eq!(system_user(u32::MAX - 7), None);
    }
}
