//! Upstreams that let through only so much: knotd in a network namespace behind the kernel's own limiter, and what arrives there.

use std::net::UdpSocket;
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, query, udp_from};
use crate::limits_lab::{Crowd, Limited, Traffic, can_limit, measure, on_a_host_with};
use crate::machine::under_load;

/// Packets a second that a VPC resolver of AWS takes from an interface.
const LIMIT: f64 = 1024.0;

/// 3,000 new names a second before a limit of 1,024 packets a second, nothing configured: the rate is found, hot names do not notice.
#[test]
fn the_limit_of_a_resolver_is_found_and_kept_to() {
    under_load(limit_of_a_resolver);
}

fn limit_of_a_resolver() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 1024/second burst 20 packets", "");
    let nodens = on_a_host_with(limited.addr());
    let hot = || {
        udp_from([127, 0, 5, 2].into(), nodens.addr, &query("hot.example.com", RecordType::A)).unwrap()[3]
            & 15
    };
    assert_eq!(hot(), 0);
    let crowd = Crowd::start([127, 0, 5, 1].into(), nodens.addr, "n#.example.com", 3000);
    std::thread::sleep(Duration::from_secs(3));
    let traffic = measure(&limited, &crowd, Duration::from_secs(6));
    assert!((0..100).all(|_| hot() == 0));
    let retries = nodens.metric("nodens_upstream_retries_total", &["resolv.conf"]);
    let packets = nodens.metric("nodens_upstream_packets_total", &["resolv.conf"]);
    let rate = nodens.metric("nodens_upstream_rate", &["resolv.conf"]);
    let waiting = nodens.metric("nodens_upstream_waiting", &["client"]);
    crowd.stop();
    let said = format!("{traffic}; {rate}/s now");
    println!("{said}");
    let Traffic { came, dropped, answered, longest, shortest } = traffic;
    assert!(came <= 1.03 * LIMIT * longest, "{said}");
    // Turns that come while a worker waits for its core are gone; what is used of a limit is held to 95 % in simulated time.
    assert!(came - dropped >= 0.6 * LIMIT * shortest && answered >= 0.6 * LIMIT * shortest, "{said}");
    assert!(dropped <= 0.1 * came, "{said}");
    assert!(retries * 10 <= packets && waiting > 0, "{retries} retries of {packets} packets, {waiting} wait");
    assert!((0.9 * LIMIT..=1.1 * LIMIT).contains(&(rate as f64)), "{said}");
}

/// With the budget that is that of the limit nothing is sent that would be dropped, also at the start.
#[test]
fn a_fixed_budget_loses_nothing_to_a_limiter() {
    under_load(fixed_budget);
}

fn fixed_budget() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 1024/second burst 100 packets", "");
    let upstream = format!("udp://{}", limited.addr());
    let nodens = Nodens::start(&["--upstream", &upstream, "--upstream-budget", "aws", "--workers", "2"]);
    let crowd = Crowd::start([127, 0, 5, 3].into(), nodens.addr, "f#.example.com", 3000);
    let polite = Crowd::start([127, 0, 5, 4].into(), nodens.addr, "p#.example.com", 50);
    let traffic = measure(&limited, &crowd, Duration::from_secs(5));
    let (asked, failed) = polite.stop();
    crowd.stop();
    let said = format!("{traffic}; {failed} of {asked} failed");
    println!("{said}");
    let Traffic { came, dropped, answered, longest, shortest } = traffic;
    assert!(came <= LIMIT * longest + 5.0, "{said}");
    // Packets that had their turn in time leave late, and then together, where a worker has to wait for its core.
    assert!(dropped <= 0.02 * came, "{said}");
    assert!(answered >= 0.6 * LIMIT * shortest, "{said}");
    assert!(failed * 100 <= asked, "{failed} of {asked} failed beside a flood");
    let refused = nodens.metric("nodens_upstream_refused_total", &["aws"]);
    let bounded = nodens.metric("nodens_limit_reached_total", &["client_waiting"]);
    assert!(refused + bounded > 0, "what cannot wait is told so");
}

/// So many of a hundred packets are lost each way; the parts that must be answered in time, and packets a question.
fn loss_is_no_limit(
    lost: u32,
    own: u8,
    (seconds, per_second): (usize, u32),
    well: f64,
    packets: std::ops::Range<f64>,
) {
    if !can_limit() {
        return;
    }
    let rule = format!("numgen random mod 100 < {lost}");
    let limited = Limited::new(&format!("udp dport 53 {rule}"), &format!("udp sport 53 {rule}"));
    let nodens = on_a_host_with(limited.addr());
    let crowd = Crowd::start([127, 0, 5, own].into(), nodens.addr, "l#.example.com", per_second);
    let mut rates = Vec::new();
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        rates.push(nodens.metric("nodens_upstream_rate", &["resolv.conf"]));
    }
    let (questions, failed) = crowd.stop();
    let tries = limited.packets().0 as f64 / questions as f64;
    println!("{lost} % lost: {failed} of {questions} failed, {tries:.2} packets each; rates {rates:?}");
    assert!(failed as f64 <= (1.0 - well) * questions as f64, "{failed} of {questions}");
    assert!(rates.iter().all(|rate| *rate >= 1000), "{rates:?}");
    assert!(packets.contains(&tries), "{tries} packets a question");
}

#[test]
fn a_loss_of_one_in_a_hundred_is_not_seen() {
    // Five tries leave three in a thousand million.
    under_load(|| loss_is_no_limit(1, 7, (6, 400), 0.9995, 1.0..1.15));
}

/// A tenth of the packets is lost each way: clients hardly notice, and that is no limit.
#[test]
fn loss_is_not_taken_for_a_limit() {
    // Five tries leave 2.5 in 10,000; of 4,800 questions hardly ever ten.
    under_load(|| loss_is_no_limit(10, 5, (12, 400), 0.998, 1.05..1.5));
}

/// Half of the tries fail; five leave 3.5 of a hundred, and where the rate is looked into there are fewer for some.
#[test]
fn a_loss_of_three_tenths_is_no_limit_either() {
    under_load(|| loss_is_no_limit(30, 6, (6, 200), 0.9, 1.5..2.5));
}

/// nftables is there and does what the tests above rest on.
#[test]
fn the_limiter_limits() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 100/second burst 5 packets", "");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for number in 0..100 {
        socket.send_to(&query(&format!("x{number}.example.com"), RecordType::A), limited.addr()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let (came, dropped) = limited.packets();
    assert!(came >= 100 && (50..=95).contains(&dropped), "{came} came, {dropped} dropped");
}
