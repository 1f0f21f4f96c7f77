//! Where a client is, as far as it can be held to: and how many of something one place has at once.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// An address that counts as one: of IPv6 the first 64 bits, for whoever has one has them all (RFC 6177 gives a site at
/// least so many). An IPv4 address that a socket for both shows inside IPv6 is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address(IpAddr);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// How many of something each address has at once.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    taken: Arc<Mutex<HashMap<Address, usize>>>,
    most: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    tally: Tally,
    address: Address,
}

impl Tally {
    /// At most so many for each.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// Takes one more, if the address may have it.
    pub(crate) fn take(&self, address: Address) -> Option<Taken> {
        // Each change is of one number: a panic elsewhere leaves the map sound.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Taken {
            tally: self.clone(),
            address,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let taken = &self.tally.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_of_ipv4_each_is_its_own() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:ffff:1:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn an_ipv4_address_inside_ipv6_is_not_the_whole_of_ipv4() {
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("::ffff:192.0.2.1"), address("::ffff:192.0.2.2"));
    }

    #[test]
    fn one_address_has_so_many_and_nothing_is_left_behind() {
        let tally = Tally::new(2);
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = tally.take(here).unwrap();
        let second = tally.take(here).unwrap();
        assert!(tally.take(here).is_none());
        assert!(tally.take(there).is_some());
        drop(first);
        assert!(tally.take(here).is_some());
        drop(second);
        assert!(tally.taken.lock().unwrap().is_empty());
    }
}
