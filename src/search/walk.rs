//! What a walk ends with: a pure decision from what is known of each candidate, in the order a client tries them.

use super::list::CLUSTER_CANDIDATES;
use crate::wire::answer::Kind;

/// What is known of a candidate's addresses, A and AAAA; nothing where it was refused, is late or was never asked.
pub type Known = [Option<Kind>; 2];

/// What a candidate is for a client that comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client goes on: the name does not exist, in either family.
    PassedOver,
    /// The search ends here, for every client.
    Found,
    /// A client may end here, fail here or go on.
    Undecided,
}

/// What a walk ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This candidate is what the client's search ends with.
    Compose(usize),
    /// A domain of the host's own has the name: the client finds it by itself.
    HostDomain,
    /// No candidate exists.
    NoneFound,
    /// A candidate that decides is not known.
    Undecided,
}

/// What a candidate is: it is passed over only if both families deny the name.
///
/// A name that exists without an address ends the search of some stub resolvers (musl) and not of others (glibc, Go,
/// c-ares): only at the last candidate do all of them end alike, and only where neither family is open: of one that
/// fails nobody can say that there is no address.
pub fn fate(known: Known, is_last: bool) -> Fate {
    let any = |kind| known.contains(&Some(kind));
    let is_open = known.iter().any(|kind| matches!(kind, None | Some(Kind::Failure)));
    match known {
        [Some(Kind::NxDomain), Some(Kind::NxDomain)] => Fate::PassedOver,
        _ if any(Kind::Data) || is_last && any(Kind::NoData) && !is_open => Fate::Found,
        _ => Fate::Undecided,
    }
}

/// Decides from the candidates known so far, the first two in the cluster, the last the bare name; `None` where more
/// must be asked.
pub fn decide(known: &[Known], candidates: usize) -> Option<Decision> {
    for (index, candidate) in known.iter().enumerate() {
        let is_last = index + 1 == candidates;
        match fate(*candidate, is_last) {
            Fate::PassedOver => {}
            Fate::Undecided => return Some(Decision::Undecided),
            Fate::Found if index < CLUSTER_CANDIDATES || is_last => return Some(Decision::Compose(index)),
            Fate::Found => return Some(Decision::HostDomain),
        }
    }
    (known.len() == candidates).then_some(Decision::NoneFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NX: Known = [Some(Kind::NxDomain); 2];
    const BOTH: Known = [Some(Kind::Data); 2];
    const NO_DATA: Known = [Some(Kind::NoData); 2];
    const ONE: Known = [Some(Kind::NxDomain), Some(Kind::Data)];
    const HALF: Known = [Some(Kind::NxDomain), None];
    const FAILED: Known = [Some(Kind::Failure), Some(Kind::NxDomain)];
    const HALF_FAILED: Known = [Some(Kind::Data), Some(Kind::Failure)];

    #[test]
    fn a_candidate_is_passed_over_only_if_both_families_deny_it() {
        assert_eq!([fate(NX, false), fate(NX, true)], [Fate::PassedOver; 2]);
        for found in [BOTH, ONE, HALF_FAILED] {
            assert_eq!([fate(found, false), fate(found, true)], [Fate::Found; 2], "{found:?}");
        }
        let half_open = [Some(Kind::NoData), Some(Kind::Failure)];
        for undecided in [HALF, FAILED, [None, None], [Some(Kind::Failure); 2], half_open] {
            assert_eq!(
                [fate(undecided, false), fate(undecided, true)],
                [Fate::Undecided; 2],
                "{undecided:?}"
            );
        }
    }

    #[test]
    fn a_name_without_an_address_decides_only_where_all_searches_end() {
        for nothing in [NO_DATA, [Some(Kind::NoData), Some(Kind::NxDomain)]] {
            assert_eq!([fate(nothing, false), fate(nothing, true)], [Fate::Undecided, Fate::Found]);
        }
    }

    #[test]
    fn the_first_that_exists_decides_and_nothing_before_it_may_be_open() {
        // Cluster, cluster, one host domain, the bare name.
        let decide = |known: &[Known]| decide(known, 4);
        assert_eq!(decide(&[NX, NX]), None);
        assert_eq!(decide(&[BOTH, HALF]), Some(Decision::Compose(0)));
        assert_eq!(decide(&[NX, ONE]), Some(Decision::Compose(1)));
        assert_eq!(decide(&[NX, NO_DATA]), Some(Decision::Undecided));
        assert_eq!(decide(&[NX, NX, NX, NO_DATA]), Some(Decision::Compose(3)));
        assert_eq!(decide(&[HALF, BOTH]), Some(Decision::Undecided));
        assert_eq!(decide(&[NX, NX, NX, BOTH]), Some(Decision::Compose(3)));
        assert_eq!(decide(&[NX, NX, BOTH, BOTH]), Some(Decision::HostDomain));
        assert_eq!(decide(&[NX, NX, FAILED, BOTH]), Some(Decision::Undecided));
        assert_eq!(decide(&[NX, NX, NX, NX]), Some(Decision::NoneFound));
    }
}
