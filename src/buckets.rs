//! Buckets of client addresses: a fixed table in which what clients hold or await is counted.
//!
//! Addresses of one range have buckets of their own: as many as there are buckets, one after the other, begin at a multiple
//! of that number. A node's pods come from such a range, so no two of them share a bucket. Where ranges lie on
//! each other is chance, drawn at start, so that nobody outside a range can choose whose bucket to share.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::quality::RandomState;

/// How many: far more than the pods of a node.
pub const BUCKETS: usize = 4096;

/// Gives each address its bucket.
#[derive(Debug, Default)]
pub struct Buckets(RandomState);

impl Buckets {
    /// The bucket of an address, below [`BUCKETS`]. An IPv4 address is the same one in the form that IPv6 sockets show.
    pub fn of(&self, client: IpAddr) -> usize {
        let bits = match client.to_canonical() {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let (range, within) = (bits / BUCKETS as u128, (bits % BUCKETS as u128) as usize);
        (self.0.hash_one(range) as usize).wrapping_add(within) % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn count(addresses: impl Iterator<Item = IpAddr>) -> usize {
        let buckets = Buckets::default();
        addresses.map(|address| buckets.of(address)).collect::<HashSet<_>>().len()
    }

    #[test]
    fn addresses_of_one_range_share_no_bucket() {
        let (v4, v6) = (u32::from(Ipv4Addr::new(10, 244, 16, 0)), u128::from(Ipv6Addr::LOCALHOST) - 1);
        assert_eq!(count((0..4096).map(|n| Ipv4Addr::from(v4 + n).into())), BUCKETS);
        assert_eq!(count((0..4096).map(|n| Ipv6Addr::from(v6 + n).into())), BUCKETS);
    }

    #[test]
    fn the_first_of_each_range_are_spread_by_chance() {
        let spread = count((0..4096).map(|n: u32| Ipv4Addr::from(n << 12).into()));
        // As many balls as boxes: 1 - 1/e of the boxes are hit, 2589 of them, with a standard deviation of 20.
        assert!((2400..2800).contains(&spread), "{spread}");
    }

    #[test]
    fn an_address_is_the_same_in_both_forms() {
        let (buckets, address) = (Buckets::default(), Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(buckets.of(address.into()), buckets.of(address.to_ipv6_mapped().into()));
    }
}
