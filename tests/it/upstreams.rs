//! Upstream servers that come, go and change while the program runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::clients::Pod;
use crate::harness::{Asked, Nodens, PATIENCE, Upstream, free_addr, need, query, udp_within};
use crate::lab::lab_by;
use crate::machine::unless_it_stands_still;

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

/// Waits until something is so.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The last octet of the one address of a name, if there is an answer.
fn last_octet(nodens: &Nodens, name: &str) -> Option<u8> {
    let own = if nodens.addr.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { Ipv6Addr::UNSPECIFIED.into() };
    let reply = udp_within(own, nodens.addr, &query(name, RecordType::A), PATIENCE)?;
    let reply = Message::from_vec(&reply).unwrap();
    match &reply.answers.first()?.data {
        RData::A(address) => Some(address.octets()[3]),
        _ => None,
    }
}

fn looks(nodens: &Nodens, outcome: &str) -> u64 {
    nodens.metric("nodens_upstream_sets_total", &[&format!("outcome=\"{outcome}\"")])
}

#[test]
fn the_hosts_nameservers_are_followed_and_a_broken_file_changes_nothing() {
    if !need("ip") {
        return;
    }
    let pod = Pod::of("shop");
    let (one, two) = (pod.node, pod.second_node());
    let server = |at: Ipv4Addr, last| {
        Upstream::at((at, 53).into(), true, move |asked| vec![(0, asked.address(300, last))])
    };
    let (first, second) = (server(one, 1), server(two, 2));
    pod.set_resolv_conf(&format!("nameserver {one}\nsearch a.internal\n"));
    let (listen, admin) = (format!("{}:53", pod.own), format!("{}:0", pod.own));
    let nodens = Nodens::spawn(pod.command(&["serve", "--listen", &listen, "--admin", &admin]));
    assert_eq!(last_octet(&nodens, "one.example.com"), Some(1));

    pod.set_resolv_conf(&format!("nameserver {two}\nsearch a.internal\n"));
    wait_for("the change is not seen", || looks(&nodens, "changed") == 1);
    let before = first.count();
    for n in 0..10 {
        assert_eq!(last_octet(&nodens, &format!("two{n}.example.com")), Some(2));
    }
    assert_eq!(first.count(), before, "one that left is asked nothing more");
    let number = nodens.metric("nodens_upstream_servers", &["zone=\".\""]);
    assert_eq!((number, second.count()), (1, 10));

    // Empty, cut off, and naming nobody but us: each is seen, said once, and changes nothing.
    let own = format!("nameserver {}\n", pod.own);
    for (step, text) in ["", "nameserver 198.", &own].into_iter().enumerate() {
        pod.set_resolv_conf(text);
        let before = looks(&nodens, "kept");
        wait_for("the broken file is not seen", || looks(&nodens, "kept") > before + 1);
        assert_eq!(last_octet(&nodens, &format!("three{step}.example.com")), Some(2), "{text:?}");
    }
    assert_eq!(nodens.said().matches("resolv.conf cannot be used").count(), 1, "{}", nodens.said());

    pod.set_resolv_conf(&format!("nameserver {one}\nnameserver {two}\nsearch a.internal\n"));
    wait_for("the good file is not seen", || nodens.metric("nodens_upstream_servers", &[]) == 2);
    wait_for("it is not said", || nodens.said().contains("/etc/resolv.conf can be used again"));
}

/// Pods of a headless Service on addresses of the loopback network, and the server that knows which are ready.
struct Service {
    port: u16,
    ready: Arc<Mutex<Vec<IpAddr>>>,
    bootstrap: Upstream,
    resorts: Arc<AtomicUsize>,
}

const SERVICE: &str = "dns.kube-system.svc.cluster.local.";

impl Service {
    fn start(ready: &[IpAddr]) -> Service {
        let ready = Arc::new(Mutex::new(ready.to_vec()));
        let resorts = Arc::new(AtomicUsize::new(0));
        let (of_the_script, counted) = (Arc::clone(&ready), Arc::clone(&resorts));
        let bootstrap = Upstream::simple(move |asked| {
            if asked.name() == SERVICE {
                return addresses(asked, &of_the_script.lock().unwrap());
            }
            counted.fetch_add(1, Ordering::Relaxed);
            asked.address(300, 99)
        });
        Service { port: free_addr().port(), ready, bootstrap, resorts }
    }

    fn url(&self) -> String {
        let name = SERVICE.trim_end_matches('.');
        format!("headless://{name}:{}?bootstrap={}", self.port, self.bootstrap.addr)
    }

    fn pod(&self, at: IpAddr) -> ServingPod {
        let is_silent = Arc::new(AtomicBool::new(false));
        let of_the_script = Arc::clone(&is_silent);
        let upstream = Upstream::at(SocketAddr::new(at, self.port), true, move |asked| {
            if of_the_script.load(Ordering::Relaxed) { vec![] } else { vec![(0, asked.address(300, 1))] }
        });
        ServingPod { at, is_silent, upstream }
    }
}

struct ServingPod {
    at: IpAddr,
    is_silent: Arc<AtomicBool>,
    upstream: Upstream,
}

/// The ready pods of the asked family with the TTL that a cluster DNS gives; NXDOMAIN where there are none at all.
fn addresses(asked: &Asked, ready: &[IpAddr]) -> Vec<u8> {
    let qtype = asked.message().queries[0].query_type();
    let record = |ip: &IpAddr| {
        let (rtype, octets) = match ip {
            IpAddr::V4(ip) => (RecordType::A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (RecordType::AAAA, ip.octets().to_vec()),
        };
        let head =
            [&[0xc0, 12][..], &u16::from(rtype).to_be_bytes(), &[0, 1, 0, 0, 0, 5, 0, octets.len() as u8]];
        (rtype == qtype).then(|| [&head.concat()[..], &octets].concat())
    };
    let records: Vec<Vec<u8>> = ready.iter().filter_map(record).collect();
    let code = if ready.is_empty() { 3 } else { 0 };
    asked.raw(code, [records.len() as u16, 0, 0], &records.concat())
}

#[test]
fn pods_are_rolled_without_a_failed_question() {
    unless_it_stands_still(rolled_pods);
}

fn rolled_pods() {
    let at = |last: u8| IpAddr::from([127, 77, 0, last]);
    let service = Service::start(&[at(1), at(2), Ipv6Addr::LOCALHOST.into()]);
    let mut pods: Vec<ServingPod> =
        [at(1), at(2), Ipv6Addr::LOCALHOST.into()].map(|ip| service.pod(ip)).into();
    let nodens = Nodens::start(&["--upstream", &service.url()]);
    wait_for("the members are not known", || nodens.metric("nodens_upstream_servers", &[]) == 3);

    let (stop, failed, asked) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut gone = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (nodens, stop, failed, asked) = (&nodens, &stop, &failed, &asked);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let reply = nodens.ask(&format!("n{n}.c{client}.example.com"), RecordType::A);
                    failed.fetch_add(
                        usize::from(reply.metadata.response_code != ResponseCode::NoError),
                        Ordering::Relaxed,
                    );
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        for last in 10..14 {
            let changes = looks(&nodens, "changed");
            pods.push(service.pod(at(last)));
            let leaves = pods.remove(0);
            *service.ready.lock().unwrap() = pods.iter().map(|pod| pod.at).collect();
            std::thread::sleep(Duration::from_secs(1));
            leaves.is_silent.store(true, Ordering::Relaxed);
            wait_for("the change is not seen", || looks(&nodens, "changed") > changes);
            gone.push((leaves.upstream.count(), leaves));
        }
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
    });
    let (failed, asked) = (failed.into_inner(), asked.into_inner());
    println!("{failed} of {asked} questions failed while 4 pods were replaced");
    assert_eq!(failed, 0, "of {asked}");
    assert!(asked > 200, "{asked}");
    for (when_seen, pod) in &gone {
        // What was on its way when the change was seen from outside may have been sent just before.
        let later = pod.upstream.count() - when_seen;
        assert!(later <= 4, "{} was asked {later} questions after it had left", pod.at);
    }
    assert!(pods.iter().all(|pod| pod.upstream.count() > 0), "the new ones share the questions");
    let names: Vec<String> = service.bootstrap.asked().iter().map(Asked::name).collect();
    let looks = names.iter().filter(|name| *name == SERVICE).count();
    println!(
        "{looks} questions for the Service, {} as the last resort",
        service.resorts.load(Ordering::Relaxed)
    );
}

#[test]
fn where_all_pods_are_gone_the_last_resort_answers() {
    unless_it_stands_still(no_pods_left);
}

fn no_pods_left() {
    let at = |last: u8| IpAddr::from([127, 77, 1, last]);
    let service = Service::start(&[at(1), at(2)]);
    let pods = [at(1), at(2)].map(|ip| service.pod(ip));
    let nodens = Nodens::start(&["--workers", "1", "--upstream", &service.url()]);
    wait_for("the members are not known", || nodens.metric("nodens_upstream_servers", &[]) == 2);
    assert_eq!(last_octet(&nodens, "one.example.com"), Some(1));
    // The Service has no ready pod: its name does not exist, the last set stays.
    service.ready.lock().unwrap().clear();
    wait_for("the denial is not seen", || looks(&nodens, "kept") > 0);
    assert_eq!(nodens.metric("nodens_upstream_servers", &[]), 2);
    assert_eq!(last_octet(&nodens, "two.example.com"), Some(1), "they still serve");
    pods.iter().for_each(|pod| pod.is_silent.store(true, Ordering::Relaxed));
    for n in 0..10 {
        assert_eq!(last_octet(&nodens, &format!("three{n}.example.com")), Some(99));
    }
}

#[test]
fn the_name_is_never_asked_of_zones_or_cache() {
    let service = Service::start(&[IpAddr::from([127, 77, 2, 1])]);
    let pod = service.pod(IpAddr::from([127, 77, 2, 1]));
    let elsewhere = Upstream::simple(|asked| asked.address(300, 66));
    let forward = format!("cluster.local=udp://{}", elsewhere.addr);
    let nodens = Nodens::start(&["--upstream", &service.url(), "--forward", &forward]);
    // A client may ask for the name: what it is told is no member.
    assert_eq!(last_octet(&nodens, SERVICE), Some(66));
    wait_for("the members are not asked for", || looks(&nodens, "same") > 0);
    assert_eq!(last_octet(&nodens, "one.example.com"), Some(1));
    assert_eq!((elsewhere.count(), pod.upstream.count()), (1, 1));
}
