//! Names and numbers: node addresses, epochs, sequence numbers, incarnations.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits;

/// Where to reach a node: a host (name, IPv4 address, or IPv6 address in brackets) and a port from 1 to 65535.
///
/// The text `host:port` is also the node's name on the hash ring, so two spellings of one address are two nodes.
/// Cloning is cheap: the text is shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddr {
    text: Arc<str>,
}

/// Why a text is not a node address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// No `:` between host and port.
    #[error("an address is host:port")]
    NoPort,
    /// The port is not a decimal number from 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    BadPort,
    /// The host is empty, too long, or contains a character that is not allowed in a host.
    #[error(
        "a host is a name, an IPv4 address, or an IPv6 address in brackets, of at most {} bytes",
        limits::HOST_BYTES
    )]
    BadHost,
}

impl NodeAddr {
    /// The address of `port` on `host`. An IPv6 address may be given with or without brackets.
    ///
    /// # Errors
    /// [`AddrError`] when the host is malformed or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddrError> {
        if port == 0 {
            return Err(AddrError::BadPort);
        }
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if literal.contains(':') {
            literal.parse::<std::net::Ipv6Addr>().map_err(|_| AddrError::BadHost)?;
            return Ok(Self { text: format!("[{literal}]:{port}").into() });
        }
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > limits::HOST_BYTES || !host.chars().all(known) {
            return Err(AddrError::BadHost);
        }
        Ok(Self { text: format!("{host}:{port}").into() })
    }

    /// The address from two words of a request.
    ///
    /// # Errors
    /// As [`NodeAddr::new`]; a port with a sign, blanks or other text gives [`AddrError::BadPort`].
    pub fn from_words(host: &str, port: &str) -> Result<Self, AddrError> {
        if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddrError::BadPort);
        }
        Self::new(host, port.parse().map_err(|_| AddrError::BadPort)?)
    }

    /// The host; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.text.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default()
    }

    /// `host:port`, the name on the ring.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for NodeAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddrError::NoPort)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddrError::BadHost);
        }
        Self::from_words(host, port)
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One start of a node process. The coordinator assigns it and never assigns a number twice, so it identifies a node's
/// memory: data that an earlier incarnation at the same address held may be missing from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The base-2 logarithm of how many one start of a coordinator can assign. They stay below the limit of counters.
    pub const BITS: u32 = 16;

    /// Whether the same start of a coordinator assigned both.
    #[must_use]
    pub fn is_of_one_coordinator(self, other: Self) -> bool {
        self.0 >> Self::BITS == other.0 >> Self::BITS
    }

    /// Whether it was assigned before `other` by the same start of a coordinator. Those from different starts cannot be
    /// compared.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        self.is_of_one_coordinator(other) && self < other
    }
}

/// A term of one primary over one slot. Epochs of a slot only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// The position of a record in its slot's order: first by epoch, then by sequence number. It is the version of the key
/// that the record wrote. No clock is involved.
///
/// On the wire it is one word, `epoch-seq`; `0` precedes every record, and stands for an absent key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The epoch of the primary that ordered the record.
    pub epoch: Epoch,
    /// The record's number in its slot, counted from 1 across epochs.
    pub seq: u64,
}

impl Version {
    /// Precedes every record.
    pub const NONE: Self = Self { epoch: Epoch(0), seq: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("0");
        }
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Version {
    type Err = NotACounter;

    fn from_str(text: &str) -> Result<Self, NotACounter> {
        if text == "0" {
            return Ok(Self::NONE);
        }
        let (epoch, seq) = text.split_once('-').ok_or(NotACounter)?;
        Ok(Self { epoch: Epoch(counter(epoch)?), seq: counter(seq)? })
    }
}

/// The text is not a counter: it is not all decimal digits, or it is above [`limits::COUNTER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0 to {}", limits::COUNTER)]
pub struct NotACounter;

/// Reads a counter: decimal digits and nothing else, up to [`limits::COUNTER`].
///
/// # Errors
/// The text is not a counter.
pub fn counter(text: &str) -> Result<u64, NotACounter> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= limits::COUNTER).ok_or(NotACounter)
}

macro_rules! number_on_the_wire {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = NotACounter;

            fn from_str(text: &str) -> Result<Self, NotACounter> {
                counter(text).map(Self)
            }
        }
    )*};
}

number_on_the_wire!(Incarnation, Epoch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_spelling() {
        for text in ["127.0.0.1:5001", "kv-node.example:6000", "[::1]:7", "a_b:65535"] {
            let addr: NodeAddr = text.parse().unwrap();
            assert_eq!(addr.to_string(), text);
            assert_eq!(format!("{}:{}", addr.host(), addr.port()), text);
        }
        assert_eq!(NodeAddr::new("::1", 5001).unwrap().as_str(), "[::1]:5001");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "5001", "host:", ":5001", "host:0", "host:65536", "host:+80", "ho st:1", "::1:80", "h:1:2", "[x]:1"]
        {
            assert!(text.parse::<NodeAddr>().is_err(), "{text}");
        }
        assert!(NodeAddr::new(&"h".repeat(256), 1).is_err());
    }

    #[test]
    fn versions_order_by_epoch_then_sequence() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("1-9") < version("2-1"));
        assert!(version("2-1") < version("2-2"));
        assert_eq!(version("2-2").to_string(), "2-2");
        assert_eq!((version("0"), Version::NONE.to_string()), (Version::NONE, "0".to_owned()));
        for text in ["2", "2-", "-2", "+2-1", "2-1-1", "1-4611686018427387905", "99999999999999999999-1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
