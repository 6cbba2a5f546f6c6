//! Names taken apart by suffix, and the rules for which of them may be composed; all of it pure.

use crate::wire::name::{Name, is_any_case_of, is_at_or_under, labels};

/// Candidates inside the cluster: `B.svc.Z` and `B.Z`.
pub const CLUSTER_CANDIDATES: usize = 2;

/// The suffixes that clients search: the cluster's, and the host's own domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffixes {
    zone: Name,
    svc: Name,
    hosts: Vec<Name>,
}

impl Default for Suffixes {
    /// Those of a cluster whose zone is the root.
    fn default() -> Suffixes {
        let svc = Name::from_wire(b"\x03svc\0").unwrap_or(Name::ROOT);
        Suffixes { zone: Name::ROOT, svc, hosts: vec![] }
    }
}

/// Most domains of a host: glibc takes six, more since 2.26; kubelet allows 32 in all.
pub const MAX_HOST_DOMAINS: usize = 29;

/// A suffix's place in a client's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `NS.svc.Z`
    First,
    /// `svc.Z`
    Services,
    /// `Z`
    Zone,
    /// A domain of the host's own; which, and in what order, never matters.
    Host,
    /// No suffix.
    Bare,
}

impl Place {
    /// True where a search goes on from here to there.
    pub fn is_followed_by(self, next: Place) -> bool {
        match self {
            Place::First => next == Place::Services,
            Place::Services => next == Place::Zone,
            Place::Zone | Place::Host => matches!(next, Place::Host | Place::Bare),
            Place::Bare => false,
        }
    }
}

/// A name of the form `B.NS.svc.Z`.
#[derive(Clone, Copy, Debug)]
pub struct Step<'q> {
    qname: &'q [u8],
    base_len: usize,
    labels: usize,
    namespace: &'q [u8],
}

impl<'q> Step<'q> {
    /// The whole name as spelled, in wire form.
    pub fn qname(&self) -> &'q [u8] {
        self.qname
    }

    /// B, as labels without a root.
    pub fn base(&self) -> &'q [u8] {
        self.qname.get(..self.base_len).unwrap_or_default()
    }

    /// How many labels B has, at least one.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// NS without its length.
    pub fn namespace(&self) -> &'q [u8] {
        self.namespace
    }

    fn base_labels(&self) -> Vec<&'q [u8]> {
        // Without its root label the base ends where its octets do.
        labels(self.base()).collect()
    }

    /// The name of B's last label under the namespace.
    pub fn last_under_namespace(&self) -> Option<Name> {
        let mut at = 0;
        for _ in 1..self.labels {
            at += 1 + usize::from(*self.qname.get(at)?);
        }
        Name::from_wire(self.qname.get(at..)?)
    }

    /// The name of B's second label under the namespace, where B has two: what a pod of that service would be below.
    pub fn parent(&self) -> Option<Name> {
        (self.labels == 2).then(|| self.last_under_namespace()).flatten()
    }

    fn under(&self, suffix: &Name) -> Option<Name> {
        Name::from_wire(&[self.base(), suffix.as_wire()].concat()).map(Name::to_lower)
    }
}

/// Names that are nobody's outside (RFC 6762, RFC 7686, RFC 3172, RFC 6761).
const NEVER_UNDER: [&[u8]; 6] =
    [b"\x05local\0", b"\x05onion\0", b"\x04arpa\0", b"\x09localhost\0", b"\x07invalid\0", b"\x04test\0"];
/// Hosts that programs look for by themselves: whoever answers to them takes over a browser or a tunnel.
const NEVER_FIRST: [&[u8]; 2] = [b"wpad", b"isatap"];

impl Suffixes {
    /// The suffixes of a cluster's zone with the host's domains, those at or below the zone left out.
    ///
    /// Nothing where the zone's name is too long for a service to have a name under it.
    pub fn new(zone: Name, hosts: &[Name]) -> Option<Suffixes> {
        let zone = zone.to_lower();
        let svc = Name::from_wire(&[b"\x03svc", zone.as_wire()].concat())?;
        let foreign = |host: &&Name| !is_at_or_under(host.as_wire(), zone.as_wire()) && **host != Name::ROOT;
        let hosts = hosts.iter().filter(foreign).map(|host| host.to_lower()).collect();
        Some(Suffixes { zone, svc, hosts })
    }

    /// Takes `B.NS.svc.Z` apart; nothing where the name has not this form.
    #[inline]
    pub fn step<'q>(&self, qname: &'q [u8]) -> Option<Step<'q>> {
        let suffix = self.svc.as_wire();
        let suffix_at = qname.len().checked_sub(suffix.len())?;
        if !is_any_case_of(qname.get(suffix_at..)?, suffix) {
            return None;
        }
        // The suffix counts only where a label begins.
        let (mut at, mut last, mut labels) = (0, 0, 0);
        while at < suffix_at {
            last = at;
            labels += 1;
            at += 1 + usize::from(*qname.get(at)?);
        }
        let namespace = qname.get(last + 1..suffix_at)?;
        (at == suffix_at && labels > 1).then_some(Step {
            qname,
            base_len: last,
            labels: labels - 1,
            namespace,
        })
    }

    /// The names that a client tries after this one, in its order: in the cluster, under each of the host's domains,
    /// by itself. Nothing in the place of one that would be longer than a name can be.
    pub fn candidates(&self, step: &Step<'_>) -> Vec<Option<Name>> {
        let cluster = [&self.svc, &self.zone].into_iter();
        cluster.chain(&self.hosts).chain([&Name::ROOT]).map(|suffix| step.under(suffix)).collect()
    }

    /// Where a suffix in wire form, in lower case, stands in the list of a namespace.
    pub fn place(&self, suffix: &[u8], namespace: &[u8]) -> Option<Place> {
        if suffix == Name::ROOT.as_wire() {
            return Some(Place::Bare);
        }
        if suffix == self.zone.as_wire() {
            return Some(Place::Zone);
        }
        if suffix == self.svc.as_wire() {
            return Some(Place::Services);
        }
        if self.hosts.iter().any(|host| host.as_wire() == suffix) {
            return Some(Place::Host);
        }
        let below = suffix.strip_suffix(self.svc.as_wire())?;
        let (len, label) = below.split_first()?;
        (usize::from(*len) == label.len() && label == namespace).then_some(Place::First)
    }

    /// True for a name at or below the zone of the cluster.
    #[inline]
    pub fn is_in_zone(&self, qname: &[u8]) -> bool {
        let at = qname.len().checked_sub(self.zone.as_wire().len());
        at.and_then(|at| qname.get(at..)).is_some_and(|tail| is_any_case_of(tail, self.zone.as_wire()))
    }

    /// The zone of the cluster.
    pub fn zone(&self) -> &Name {
        &self.zone
    }

    /// A client's whole list, which begins in this namespace.
    pub fn list(&self, namespace: &[u8]) -> Vec<Name> {
        let own = [&[namespace.len() as u8][..], namespace, self.svc.as_wire()].concat();
        let cluster = [Name::from_wire(&own), Some(self.svc), Some(self.zone)];
        cluster.into_iter().flatten().chain(self.hosts.iter().copied()).collect()
    }

    /// The host's own domains.
    pub fn hosts(&self) -> &[Name] {
        &self.hosts
    }

    /// True where nobody can have meant the name itself, as far as its letters tell.
    pub fn may_compose(&self, step: &Step<'_>) -> bool {
        let labels = step.base_labels();
        let Some(bare) = step.under(&Name::ROOT) else { return false };
        let forbidden = NEVER_UNDER.iter().any(|zone| is_at_or_under(bare.as_wire(), zone))
            && !is_at_or_under(bare.as_wire(), self.zone.as_wire());
        if forbidden || labels.iter().any(|label| label.starts_with(b"_")) {
            return false;
        }
        match labels[..] {
            [first, second] => !is_member(first) && is_delegated(second) && !is_taken(first),
            [first, _, _, ..] => !is_taken(first),
            _ => false,
        }
    }
}

fn is_taken(first: &[u8]) -> bool {
    NEVER_FIRST.iter().any(|name| first.eq_ignore_ascii_case(name))
}

/// True for `mysql-0`: the name of a stateful set's pod, which a service's name makes a host of.
fn is_member(label: &[u8]) -> bool {
    let digits = label.iter().rev().take_while(|octet| octet.is_ascii_digit()).count();
    digits > 0 && label.len().checked_sub(digits + 1).and_then(|at| label.get(at)) == Some(&b'-')
}

/// True for a top-level domain of the root zone.
fn is_delegated(label: &[u8]) -> bool {
    std::str::from_utf8(label).is_ok_and(|text| tld::exist(&text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn suffixes() -> Suffixes {
        let hosts = [name("ec2.internal"), name("shop.svc.cluster.local"), Name::ROOT];
        Suffixes::new(name("Cluster.Local"), &hosts).unwrap()
    }

    fn with_step<T>(text: &str, see: impl FnOnce(&Suffixes, &Step<'_>) -> T) -> Option<T> {
        let (suffixes, name) = (suffixes(), name(text));
        suffixes.step(name.as_wire()).map(|step| see(&suffixes, &step))
    }

    #[test]
    fn a_step_has_a_base_and_a_namespace() {
        let parts = |text| with_step(text, |_, step| (step.labels(), step.namespace().to_vec()));
        assert_eq!(parts("www.example.com.shop.SVC.cluster.local"), Some((3, b"shop".to_vec())));
        assert_eq!(parts("web.shop.svc.cluster.local"), Some((1, b"shop".to_vec())));
        for other in [
            "shop.svc.cluster.local",
            "svc.cluster.local",
            "web.shop.pod.cluster.local",
            "www.example.com",
            "a.b.xsvc.cluster.local",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
        // A label that ends in the octets of the suffix is no suffix.
        let mut inside = vec![23];
        inside.extend_from_slice(b"webshop\x03svc\x07cluster\x05loca");
        assert!(suffixes().step(&[&inside[..], b"l\0"].concat()).is_none());
    }

    #[test]
    fn candidates_come_in_the_clients_order() {
        let texts = with_step("www.Example.com.shop.svc.cluster.local", |suffixes, step| {
            let texts = suffixes.candidates(step).into_iter().map(|name| name.unwrap().to_string());
            texts.collect::<Vec<_>>()
        });
        let wanted = [
            "www.example.com.svc.cluster.local.",
            "www.example.com.cluster.local.",
            "www.example.com.ec2.internal.",
            "www.example.com.",
        ];
        assert_eq!(texts.unwrap(), wanted);
    }

    #[test]
    fn a_candidate_that_would_be_too_long_is_none() {
        let suffixes = Suffixes::new(name("zone.local"), &[name(&"h".repeat(63))]).unwrap();
        let base = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(62));
        let qname = name(&format!("{base}.x.svc.zone.local"));
        let candidates = suffixes.candidates(&suffixes.step(qname.as_wire()).unwrap());
        let there: Vec<bool> = candidates.iter().map(Option::is_some).collect();
        assert_eq!(there, [true, true, false, true]);
    }

    #[test]
    fn only_names_that_nobody_can_have_meant_are_composed() {
        let may = |base: &str| {
            with_step(&format!("{base}.shop.svc.cluster.local"), |suffixes, step| suffixes.may_compose(step))
                .unwrap()
        };
        for yes in [
            "example.com",
            "Example.COM",
            "www.example.com",
            "a.b.c.d.example",
            "kubernetes.default.svc.cluster.local",
            "xn--bcher-kva.xn--p1ai",
        ] {
            assert!(may(yes), "{yes}");
        }
        for no in [
            "web",
            "web.backend",
            "mysql-0.mysql",
            "mysql-0.com",
            "host.internal",
            "_http._tcp.web",
            "_dmarc.example.com",
            "_sip.com",
            "printer.local",
            "a.b.local",
            "x.onion",
            "1.0.0.127.in-addr.arpa",
            "www.localhost",
            "a.b.invalid",
            "a.b.test",
            "wpad.example.com",
            "WPAD.com",
            "isatap.corp.example.com",
        ] {
            assert!(!may(no), "{no}");
        }
        assert!(may("web-1a.com") && may("10.com"), "no member of a set");
    }

    #[test]
    fn the_parent_of_two_labels_is_under_the_namespace() {
        let parent =
            |text: &str| with_step(text, |_, step| step.parent().map(|name| name.to_string())).unwrap();
        assert_eq!(parent("github.com.shop.svc.cluster.local"), Some("com.shop.svc.cluster.local.".into()));
        assert_eq!(parent("www.github.com.shop.svc.cluster.local"), None);
    }
}
