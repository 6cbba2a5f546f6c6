//! Upstream servers that come, go and change while the program runs.

use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::clients::Pod;
use crate::harness::{Nodens, PATIENCE, need};
use crate::lab::lab_by;

fn answered(nodens: &Nodens, name: &str) -> bool {
    !nodens.ask(name, RecordType::A).answers.is_empty()
}

#[test]
fn a_peer_that_is_gone_ends_its_connection() {
    if !need("ip") {
        return;
    }
    let pod = Pod::of("shop");
    let (_lab, internet, _) = lab_by(pod.command(&[]), pod.own, &[]);
    let nodens = Nodens::start(&["--workers", "1", "--upstream", &format!("tcp://{internet}")]);
    assert!(answered(&nodens, "one.example.com"));
    let opened = || nodens.metric("nodens_upstream_connections_total", &["opened"]);
    assert_eq!(opened(), 1);
    pod.set_link("down");
    assert!(!answered(&nodens, "two.example.com"));
    // What was sent then is not acknowledged; left to itself TCP would try again for minutes.
    std::thread::sleep(Duration::from_secs(5));
    pod.set_link("up");
    let start = Instant::now();
    while !answered(&nodens, &format!("n{}.example.com", start.elapsed().as_millis())) {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(opened(), 2);
}
