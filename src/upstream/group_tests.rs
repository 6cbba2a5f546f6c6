//! Turns as tasks see them, under virtual time.

use super::*;
use crate::wire::name::Name;

#[test]
fn names_share_their_last_labels() {
    let parent = |text: &str| {
        let name = Name::from_text(text).unwrap().to_lower();
        Name::from_wire(parent_domain(name.as_wire())).unwrap().to_string()
    };
    assert_eq!(parent("a.b.www.example.com"), "example.com.");
    assert_eq!(parent("example.com"), "example.com.");
    assert_eq!(parent("www.example.co.uk"), "example.co.uk.");
    assert_eq!(parent("www.amazon.com.br"), "amazon.com.br.");
    assert_eq!(parent("co.uk"), "co.uk.");
    assert_eq!(parent("www.example.de"), "example.de.");
    assert_eq!(parent("web.shop.svc.cluster.local"), "cluster.local.");
    assert_eq!(parent("localhost"), "localhost.");
    assert_eq!(parent("."), ".");
}
