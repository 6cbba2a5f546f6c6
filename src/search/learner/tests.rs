//! What proves a list and what does not, question by question.

use super::*;
use crate::wire::name::Name;

const A: u16 = 1;
const STEP_US: u64 = 200;

struct Class {
    learner: Learner,
    suffixes: Suffixes,
    now_us: u64,
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn class() -> Class {
    let suffixes = Suffixes::new(name("cluster.local"), &[name("ec2.internal"), name("corp")]).unwrap();
    Class { learner: Learner::default(), suffixes, now_us: 1_000_000 }
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

impl Class {
    fn note(&mut self, from: u8, text: &str, denied: bool) -> Option<View> {
        self.now_us += STEP_US;
        let wire = name(text);
        let note =
            Note::new(wire.as_wire(), A, denied, address(from), self.now_us, self.now_us + STEP_US / 2);
        self.learner.take(&note, &self.suffixes)
    }

    /// One look-up that ends with the bare name; tells the last change.
    fn walk(&mut self, from: u8, base: &str, suffixes: &[&str]) -> Option<View> {
        let mut last = None;
        for suffix in suffixes {
            last = self.note(from, &format!("{base}.{suffix}"), true).or(last);
        }
        self.note(from, base, false).or(last)
    }

    /// True where this look-up has proved something.
    fn proves(&mut self, from: u8, base: &str, suffixes: &[&str]) -> bool {
        let view = self.walk(from, base, suffixes).unwrap_or_default();
        let now = Moment(self.now_us / 1000);
        view.lists.iter().any(|list| list.standing(now) == Standing::Proven)
    }

    fn pass(&mut self, seconds: u64) {
        self.now_us += seconds * 1_000_000;
    }

    fn standing(&self, view: &View, namespace: &str) -> Standing {
        view.standing(namespace.as_bytes(), Moment(self.now_us / 1000))
    }
}

const SHOP: [&str; 4] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "ec2.internal"];

#[test]
fn two_whole_walks_of_different_bases_prove_a_list() {
    let mut class = class();
    assert!(class.walk(1, "www.example.com", &SHOP).is_none());
    assert!(class.walk(1, "www.example.com", &SHOP).is_none(), "the same base");
    let view = class.walk(1, "api.example.com", &SHOP).unwrap();
    assert_eq!(class.standing(&view, "shop"), Standing::Proven);
    assert_eq!(class.standing(&view, "prod"), Standing::Unknown);
    assert!(class.walk(2, "www.example.com", &SHOP).is_none(), "another address");
}

#[test]
fn host_domains_may_come_in_any_number_and_order() {
    for hosts in [&[][..], &["corp"], &["corp", "ec2.internal"], &["ec2.internal", "corp"]] {
        let mut class = class();
        let list = [&SHOP[..3], hosts].concat();
        class.walk(1, "www.example.com", &list);
        assert!(class.walk(1, "api.example.com", &list).is_some(), "{hosts:?}");
    }
}

#[test]
fn a_walk_with_a_step_left_out_or_out_of_order_proves_nothing() {
    for list in [
        &["shop.svc.cluster.local", "cluster.local"][..],
        &["shop.svc.cluster.local", "svc.cluster.local"],
        &["svc.cluster.local", "cluster.local"],
        &["shop.svc.cluster.local", "cluster.local", "svc.cluster.local"],
        &["shop.svc.cluster.local", "svc.cluster.local", "ec2.internal", "cluster.local"],
    ] {
        let mut class = class();
        for base in ["one.example.com", "two.example.com", "three.example.com"] {
            assert!(!class.proves(1, base, list), "{list:?}");
        }
    }
}

#[test]
fn a_step_that_was_not_denied_ends_the_walk() {
    let mut class = class();
    for base in ["one.example.com", "two.example.com"] {
        class.note(1, &format!("{base}.shop.svc.cluster.local"), true);
        class.note(1, &format!("{base}.svc.cluster.local"), false);
        class.note(1, &format!("{base}.cluster.local"), true);
        assert!(class.note(1, base, false).is_none());
    }
}

#[test]
fn a_step_asked_before_the_one_before_was_answered_is_none() {
    let mut class = class();
    for base in ["one.example.com", "two.example.com"] {
        let mut at = class.now_us;
        let names = SHOP.map(|suffix| format!("{base}.{suffix}")).into_iter().chain([base.to_string()]);
        for text in names {
            at += 10;
            let wire = name(&text);
            let note = Note::new(wire.as_wire(), A, true, address(1), at, at + 1000);
            assert!(class.learner.take(&note, &class.suffixes).is_none());
        }
        class.pass(1);
    }
}

#[test]
fn a_walk_takes_no_longer_than_a_look_up() {
    let mut class = class();
    for base in ["one.example.com", "two.example.com"] {
        class.note(1, &format!("{base}.shop.svc.cluster.local"), true);
        class.pass(31);
        let rest = SHOP[1..].to_vec();
        assert!(!class.proves(1, base, &rest));
    }
}

#[test]
fn a_foreign_suffix_makes_the_list_literal() {
    let mut class = class();
    class.walk(1, "one.example.com", &SHOP);
    let proven = class.walk(1, "two.example.com", &SHOP).unwrap();
    assert_eq!(class.standing(&proven, "shop"), Standing::Proven);
    let foreign = [&SHOP[..3], &["other.example"]].concat();
    let view = class.walk(1, "three.example.com", &foreign).unwrap();
    assert_eq!(class.standing(&view, "shop"), Standing::Literal);
    assert!(class.walk(1, "four.example.com", &SHOP).is_none(), "not for ten minutes");
    class.pass(601);
    assert_eq!(class.standing(&view, "shop"), Standing::Unknown);
    class.walk(1, "five.example.com", &SHOP);
    assert!(class.walk(1, "six.example.com", &SHOP).is_some());
}

/// `www.amazon.com.br` from a pod in `shop`, and a namespace `br`.
#[test]
fn what_may_be_a_later_step_of_another_walk_begins_none() {
    let mut class = class();
    for base in ["www.amazon.com", "api.amazon.com"] {
        // The pod's own look-up of the name under br, and then of the bare one, as a pod of br would end its.
        class.note(1, &format!("{base}.br.shop.svc.cluster.local"), true);
        class.note(1, &format!("{base}.br.svc.cluster.local"), true);
        assert!(!class.proves(1, base, &SHOP[1..]));
    }
}

#[test]
fn a_ninth_namespace_makes_an_address_shared() {
    let mut class = class();
    let mut last = None;
    for namespace in 0..9 {
        let first = format!("ns{namespace}.svc.cluster.local");
        let list = [first.as_str(), "svc.cluster.local", "cluster.local"];
        class.walk(1, "one.example.com", &list);
        last = class.walk(1, "two.example.com", &list);
        let view = last.clone().unwrap();
        assert_eq!(view.shared, namespace == 8);
    }
    let view = last.unwrap();
    assert_eq!(class.standing(&view, "ns0"), Standing::Literal);
    assert!(class.walk(1, "three.example.com", &SHOP).is_none());
}

#[test]
fn a_proof_that_is_due_is_renewed_by_one_walk_and_one_that_is_over_by_two() {
    let mut class = class();
    class.walk(1, "one.example.com", &SHOP);
    class.walk(1, "two.example.com", &SHOP);
    class.pass(605);
    let view = class.walk(1, "one.example.com", &SHOP).unwrap();
    assert_eq!(class.standing(&view, "shop"), Standing::Proven);
    class.pass(605 + 120);
    assert!(class.walk(1, "three.example.com", &SHOP).is_none());
    assert!(class.walk(1, "four.example.com", &SHOP).is_some());
}

#[test]
fn lost_notes_prove_nothing() {
    let mut class = class();
    class.walk(1, "one.example.com", &SHOP);
    class.note(1, "two.example.com.shop.svc.cluster.local", true);
    class.learner.lost_some();
    assert!(!class.proves(1, "two.example.com", &SHOP[1..]));
}

#[test]
fn a_hundred_thousand_addresses_are_bounded_and_go() {
    let mut class = class();
    for n in 0..100_000u32 {
        let wire = name("www.example.com.shop.svc.cluster.local");
        let address = IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n));
        let note = Note::new(wire.as_wire(), A, true, address, class.now_us, class.now_us);
        class.learner.take(&note, &class.suffixes);
    }
    assert_eq!(class.learner.addresses.len(), MAX_ADDRESSES);
    class.pass(61);
    assert_eq!(class.learner.sweep(Moment(class.now_us / 1000)).len(), MAX_ADDRESSES);
    assert!(class.learner.addresses.is_empty());
}
