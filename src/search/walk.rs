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
    /// The search ends here: the name exists.
    Found,
    /// Nobody can say: a client may stay here, fail here or go on.
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
pub fn fate(known: Known) -> Fate {
    match known {
        [Some(Kind::NxDomain), Some(Kind::NxDomain)] => Fate::PassedOver,
        known if known.iter().any(|kind| matches!(kind, Some(Kind::Data | Kind::NoData))) => Fate::Found,
        _ => Fate::Undecided,
    }
}

/// Decides from the candidates known so far, the first two in the cluster, the last the bare name; `None` where more
/// must be asked.
pub fn decide(known: &[Known], candidates: usize) -> Option<Decision> {
    for (index, candidate) in known.iter().enumerate() {
        match fate(*candidate) {
            Fate::PassedOver => {}
            Fate::Undecided => return Some(Decision::Undecided),
            Fate::Found if index < CLUSTER_CANDIDATES || index + 1 == candidates => {
                return Some(Decision::Compose(index));
            }
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
        assert_eq!(fate(NX), Fate::PassedOver);
        for found in [BOTH, NO_DATA, ONE, HALF_FAILED, [Some(Kind::NoData), Some(Kind::NxDomain)]] {
            assert_eq!(fate(found), Fate::Found, "{found:?}");
        }
        for undecided in [HALF, FAILED, [None, None], [Some(Kind::Failure); 2]] {
            assert_eq!(fate(undecided), Fate::Undecided, "{undecided:?}");
        }
    }

    #[test]
    fn the_first_that_exists_decides_and_nothing_before_it_may_be_open() {
        // Cluster, cluster, one host domain, the bare name.
        let decide = |known: &[Known]| decide(known, 4);
        assert_eq!(decide(&[NX, NX]), None);
        assert_eq!(decide(&[BOTH, HALF]), Some(Decision::Compose(0)));
        assert_eq!(decide(&[NX, NO_DATA]), Some(Decision::Compose(1)));
        assert_eq!(decide(&[HALF, BOTH]), Some(Decision::Undecided));
        assert_eq!(decide(&[NX, NX, NX, BOTH]), Some(Decision::Compose(3)));
        assert_eq!(decide(&[NX, NX, BOTH, BOTH]), Some(Decision::HostDomain));
        assert_eq!(decide(&[NX, NX, FAILED, BOTH]), Some(Decision::Undecided));
        assert_eq!(decide(&[NX, NX, NX, NX]), Some(Decision::NoneFound));
    }
}
