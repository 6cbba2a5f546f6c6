//! Searches cut short in front of a real authoritative server: what arrives there, and what must be left alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::clients::{Pod, Program};
use crate::harness::{Authority, Counter, Nodens, PATIENCE, Upstream, need, query, tcp, udp_from};

const NAMESPACES: [&str; 6] = ["shop", "prod", "dev", "alpha", "beta", "gamma"];

/// A zone's beginning, with denials that live for half a minute.
const HEAD: &str = "$TTL 300\n@ SOA ns admin 1 3600 600 86400 30\n  NS ns\nns A 192.0.2.53\n";

fn external() -> (&'static str, String) {
    let hosts = (0..30).map(|n| format!("host{n} A 192.0.2.{n}\nhost{n} AAAA 2001:db8::{n}\n"));
    let text = [HEAD.to_string(), "v4only A 192.0.2.200\nwww A 192.0.2.201\nwww AAAA 2001:db8::201\n".into()];
    ("example.com", text.into_iter().chain(hosts).collect())
}

fn cluster(more: &str) -> (&'static str, String) {
    ("cluster.local", format!("{HEAD}web.shop.svc A 10.96.0.4\n{more}"))
}

/// knotd for both zones, with a relay in front that counts.
fn authority(more: &str) -> (Authority, Counter) {
    let knotd = Authority::knotd(&[
        external(),
        cluster(more),
        ("ec2.internal", HEAD.into()),
        ("other.example", HEAD.into()),
    ]);
    let counter = Counter::before(knotd.addr);
    (knotd, counter)
}

/// Six namespaces' pods, twenty names each, five times: 1,200 questions' worth of look-ups with glibc. Each pod has shown
/// its list with two other names before: how many it looks up until the learner has published is a matter of the machine.
#[test]
fn a_name_is_asked_once_however_many_namespaces_look_it_up() {
    let Some(program) = Program::c("cc", &[]).filter(|_| need("knotd")) else { return };
    let (_knotd, counter) = authority("");
    let pods: Vec<Pod> = NAMESPACES.map(Pod::of).into();
    let mut args: Vec<String> =
        vec!["--search".into(), "learn".into(), "--search-list".into(), "ec2.internal".into()];
    pods.iter().for_each(|pod| args.extend(["--listen".into(), pod.listen()]));
    let nodens = Nodens::before(counter.addr, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let queries = || nodens.metric("nodens_queries_total", &[]);
    for pod in &pods {
        pod.resolve(&program, &["host28.example.com", "host29.example.com"]);
    }
    let start = Instant::now();
    while nodens.metric("nodens_search_clients", &["proven"]) < 6 && start.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let shown = queries();
    assert_eq!(shown, 6 * 2 * 10, "a whole walk is five questions in two families");
    let names: Vec<String> = (0..20).map(|n| format!("host{n}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for _ in 0..5 {
        for pod in &pods {
            let said = pod.resolve(&program, &names);
            assert!(said.values().all(|addresses| addresses.len() == 2), "{said:?}");
        }
    }
    let bare: Vec<(u64, usize)> = names.iter().map(|name| counter.asked(name)).collect();
    assert!(bare.iter().all(|asked| *asked == (2, 2)), "{bare:?}");
    println!(
        "1,200 look-ups: {} questions from clients after {shown} that showed six lists, {} upstream, of these {} for the bare names",
        queries() - shown,
        counter.total(),
        bare.iter().map(|(count, _)| count).sum::<u64>()
    );
    assert_eq!(queries() - shown, 1200);
}

fn ask(nodens: &Nodens, name: &str, qtype: RecordType) -> Message {
    nodens.ask(name, qtype)
}

fn denied(nodens: &Nodens, name: &str) -> bool {
    let reply = ask(nodens, name, RecordType::A);
    reply.metadata.response_code == ResponseCode::NXDomain && reply.answers.is_empty()
}

const STATIC: [&str; 4] =
    ["--search", "static", "--search-list", "shop.svc.cluster.local,svc.cluster.local,cluster.local"];

#[test]
fn a_composed_answer_is_an_alias_and_what_is_behind_it() {
    if !need("knotd") {
        return;
    }
    let (_knotd, counter) = authority("");
    let nodens = Nodens::before(counter.addr, &STATIC);
    let step = "wWw.example.com.shop.svc.cluster.local";
    let reply = ask(&nodens, step, RecordType::AAAA);
    assert_eq!(reply.queries[0].name().to_ascii(), format!("{step}."));
    let texts: Vec<String> =
        reply.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(texts, [format!("{step}. www.example.com."), "www.example.com. 2001:db8::201".into()]);
    let reply = ask(&nodens, "v4only.example.com.shop.svc.cluster.local", RecordType::AAAA);
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 1));
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    let reply = ask(&nodens, "nx.example.com.shop.svc.cluster.local", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

/// A pod that is not ready is NXDOMAIN; its clients must never be sent to another host of the same name.
#[test]
fn a_pod_that_is_not_there_is_nobody_else() {
    if !need("knotd") {
        return;
    }
    for service in ["", "mysql.shop.svc A 10.96.9.1\n"] {
        let (_knotd, counter) =
            authority(&format!("mysql-0.mysql.svc A 10.96.0.9\napi.prod.svc A 10.96.0.5\n{service}"));
        let nodens = Nodens::before(counter.addr, &STATIC);
        for name in
            ["mysql-0.mysql", "web2", "a.prod", "_http._tcp.web2", "wpad.example.com", "printer.local"]
        {
            assert!(denied(&nodens, &format!("{name}.shop.svc.cluster.local")), "{name} {service}");
        }
    }
}

#[test]
fn a_later_step_of_another_search_is_literal() {
    if !need("knotd") {
        return;
    }
    let (_knotd, counter) = authority("");
    let nodens = Nodens::before(counter.addr, &STATIC);
    // A pod of dev asks for www.example.com.shop, in vain: its next step looks like the first one of a pod of shop.
    assert!(denied(&nodens, "www.example.com.shop.dev.svc.cluster.local"));
    assert!(denied(&nodens, "www.example.com.shop.svc.cluster.local"));
    assert_eq!(ask(&nodens, "host1.example.com.shop.svc.cluster.local", RecordType::A).answers.len(), 2);
}

/// One look-up as glibc makes it: both families at each step, on while both are denied; every question from a port of its own.
fn look_up(nodens: SocketAddr, from: IpAddr, base: &str, suffixes: &[&str]) -> usize {
    let steps = suffixes.iter().map(|suffix| format!("{base}.{suffix}")).chain([base.to_string()]);
    let mut asked = 0;
    for step in steps {
        asked += 2;
        let ask = |qtype| {
            let reply = udp_from(from, nodens, &query(&step, qtype)).expect("a reply");
            Message::from_vec(&reply).unwrap().metadata.response_code
        };
        if [ask(RecordType::A), ask(RecordType::AAAA)] != [ResponseCode::NXDomain; 2] {
            break;
        }
    }
    asked
}

/// A thousand addresses behind two workers: after two whole walks each, whose list is known?
#[test]
fn a_thousand_clients_are_learned_across_workers() {
    if !need("knotd") {
        return;
    }
    let (_knotd, counter) = authority("");
    let nodens = Nodens::before(
        counter.addr,
        &["--search", "learn", "--search-list", "ec2.internal", "--workers", "2"],
    );
    let list = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "ec2.internal"];
    let addresses: Vec<IpAddr> =
        (0..1000u32).map(|n| std::net::Ipv4Addr::from(0x7f01_0001 + n).into()).collect();
    for address in &addresses {
        for base in ["host1.example.com", "host2.example.com"] {
            assert_eq!(look_up(nodens.addr, *address, base, &list), 10);
        }
    }
    let start = Instant::now();
    let proven = || nodens.metric("nodens_search_clients", &["proven"]);
    while proven() < 1000 && start.elapsed() < PATIENCE / 4 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    println!("{} of 1,000 lists known after two walks each", proven());
    assert_eq!(proven(), 1000);
    let asked: usize =
        addresses.iter().map(|from| look_up(nodens.addr, *from, "host3.example.com", &list)).sum();
    assert_eq!(asked, 2000);
}

#[test]
fn an_address_that_passes_to_another_namespace_and_a_foreign_suffix_are_noticed() {
    if !need("knotd") {
        return;
    }
    let (_knotd, counter) = authority("");
    let nodens = Nodens::before(counter.addr, &["--search", "learn", "--search-list", "ec2.internal"]);
    let address: IpAddr = "127.0.5.1".parse().unwrap();
    let learn = |namespace: &str, bases: [&str; 2]| {
        let first = format!("{namespace}.svc.cluster.local");
        let list = [&first, "svc.cluster.local", "cluster.local", "ec2.internal"];
        for base in bases {
            assert_eq!(look_up(nodens.addr, address, base, &list), 10, "{namespace}: {base}");
        }
        // Until the learner has published: a name that nobody has asked for yet costs two questions then.
        let start = Instant::now();
        let mut fresh = (10..30).map(|n| format!("host{n}.example.com"));
        while look_up(nodens.addr, address, &fresh.next().unwrap(), &list) != 2 {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    learn("shop", ["host1.example.com", "host2.example.com"]);
    // The address goes to a pod of prod: nothing is composed for it before it has shown its own list.
    learn("prod", ["host3.example.com", "host4.example.com"]);
    // A pod with a suffix of its own: from its first whole walk on, nothing is composed there.
    let foreign = ["beta.svc.cluster.local", "svc.cluster.local", "cluster.local", "other.example"];
    for base in ["host5.example.com", "host6.example.com", "host7.example.com"] {
        assert_eq!(look_up(nodens.addr, address, base, &foreign), 10);
    }
}

/// An alias before a large answer would leave a client without TCP fewer addresses than its own search finds: it
/// searches by itself, and finds at the end as many whole records as fit beside TC, all of them over TCP.
#[test]
fn what_is_too_large_for_a_datagram_is_found_at_the_end_of_the_clients_own_search() {
    let nodens = Nodens::start(&["--lab"]);
    for suffix in ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"] {
        assert!(denied(&nodens, &format!("big.example.com.{suffix}")), "{suffix}");
    }
    let cut = ask(&nodens, "big.example.com", RecordType::A);
    assert!(cut.metadata.truncation && cut.answers.len() > 20, "{}", cut.answers.len());
    let packet = query("big.example.com", RecordType::A);
    let whole = Message::from_vec(&tcp(nodens.addr, &packet).unwrap()).unwrap();
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
}

/// What one address does says nothing about another.
#[test]
fn a_neighbour_cannot_teach_a_suffix() {
    if !need("knotd") {
        return;
    }
    let (_knotd, counter) = authority("");
    let nodens = Nodens::before(counter.addr, &["--search", "learn", "--search-list", "ec2.internal"]);
    let (own, neighbour): (IpAddr, IpAddr) = ("127.0.6.1".parse().unwrap(), "127.0.6.2".parse().unwrap());
    let list = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "ec2.internal"];
    let foreign = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "other.example"];
    for base in ["host1.example.com", "host2.example.com"] {
        look_up(nodens.addr, own, base, &list);
        look_up(nodens.addr, neighbour, base, &foreign);
    }
    let start = Instant::now();
    while nodens.metric("nodens_search_clients", &["proven"]) == 0 {
        assert!(start.elapsed() < PATIENCE);
    }
    for n in 3..8 {
        let base = format!("host{n}.example.com");
        assert_eq!(look_up(nodens.addr, neighbour, &base, &foreign), 10);
        assert_eq!(look_up(nodens.addr, own, &base, &list), 2);
    }
}

/// The program in a namespace whose resolv.conf changes.
#[test]
fn the_hosts_own_domains_are_followed() {
    if !need("ip") {
        return;
    }
    let pod = Pod::of("shop");
    let nodens =
        Nodens::spawn(pod.command(&["serve", "--listen", "127.0.0.1:1053", "--upstream", "udp://192.0.2.1"]));
    pod.set_domains("shop.svc.cluster.local one.internal two.internal");
    let start = Instant::now();
    while !nodens.said().contains("own domains are now: one.internal. two.internal.\n") {
        assert!(start.elapsed() < PATIENCE, "{}", nodens.said());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A service that comes into being while somebody waits for it, behind a denial that lives for half a minute.
#[test]
fn a_new_service_is_seen_by_who_waits_for_it() {
    let since = Instant::now();
    let upstream = Upstream::simple(move |asked| match since.elapsed().as_secs() {
        0..5 => {
            let soa =
                [&b"\x00\x00\x06\x00\x01\x00\x00\x00\x1e\x00\x16\x00\x00"[..], &[0; 16], &[0, 0, 0, 30]]
                    .concat();
            asked.raw(3, [0, 1, 0], &soa)
        }
        _ => asked.address(5, 7),
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let name = "new.shop.svc.cluster.local";
    assert!(denied(&nodens, name));
    let seen = loop {
        if !denied(&nodens, name) {
            break since.elapsed();
        }
        assert!(since.elapsed() < PATIENCE, "{} questions", upstream.count());
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    println!("seen {:.1} s after it began, after {} questions", seen.as_secs_f64() - 5.0, upstream.count());
    assert!(nodens.metric("nodens_asked_again_total", &[]) >= 1);
    assert!(upstream.count() <= 8);
}
