//! The lab, by itself and inside the server: a newcomer's first minute.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, PATIENCE, nodens, query, tcp, udp};

#[test]
fn a_newcomer_needs_nothing_else() {
    let nodens = Nodens::start(&["--lab"]);
    let answers = |name: &str, qtype| nodens.ask(name, qtype).answers.len();
    assert_eq!(
        (answers("www.example.com", RecordType::A), answers("www.example.com", RecordType::AAAA)),
        (1, 1)
    );
    assert_eq!(answers("a.default.svc.cluster.local", RecordType::A), 1);
    assert_eq!(answers("_mysql._tcp.mysql.default.svc.cluster.local", RecordType::SRV), 2);
    assert_eq!(answers("3.0.96.10.in-addr.arpa", RecordType::PTR), 1);
    assert_eq!(answers("cname.example.com", RecordType::A), 4);
    let denied = nodens.ask("nx.example.com", RecordType::A);
    assert_eq!((denied.metadata.response_code, denied.authorities.len()), (ResponseCode::NXDomain, 1));
    let big = nodens.ask("big.example.com", RecordType::TXT);
    assert!(big.metadata.truncation && !big.answers.is_empty());
    let whole =
        Message::from_vec(&tcp(nodens.addr, &query("big.example.com", RecordType::TXT)).unwrap()).unwrap();
    assert_eq!(whole.answers.len(), 15);
    assert_eq!(nodens.metric("nodens_queries_total", &["proto=\"tcp\"", "TXT"]), 1);
    let (hits, misses) =
        (nodens.metric("nodens_cache_hits_total", &[]), nodens.metric("nodens_cache_misses_total", &[]));
    assert_eq!((hits, misses), (1, 8));
}

/// The lab's process and its cluster DNS's address.
pub struct Lab(std::process::Child, pub std::net::SocketAddr);

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lab's process, its internet's address and its counts' address.
pub fn lab(args: &[&str]) -> (Lab, std::net::SocketAddr, String) {
    lab_by(nodens(), std::net::Ipv4Addr::LOCALHOST, args)
}

/// The same by a command of its own, on this address.
pub fn lab_by(
    mut command: Command,
    own: std::net::Ipv4Addr,
    args: &[&str],
) -> (Lab, std::net::SocketAddr, String) {
    let own = format!("{own}:0");
    command.args(["lab", "--cluster", &own, "--internet", &own, "--admin", "127.0.0.1:0"]).args(args);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let after =
        |mark: &str| line.split_once(mark).unwrap().1.split([',', '\n', '/']).next().unwrap().to_string();
    let lab = Lab(child, after("cluster DNS is on ").parse().unwrap());
    (lab, after("internet on ").parse().unwrap(), after("counts on http://"))
}

#[test]
fn it_counts_what_it_is_asked() {
    let (mut lab, internet, _) = lab(&["--json"]);
    (0..3).for_each(|n| drop(udp(internet, &query(&format!("n{n}.example.com"), RecordType::A))));
    udp(internet, &query("nx.example.com", RecordType::AAAA));
    let _ = Command::new("kill").arg(lab.0.id().to_string()).status();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut lab.0.stdout.take().unwrap(), &mut text).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let zone = &json["internet"]["example.com."];
    assert_eq!(
        (&zone["by_type"]["A"], &zone["by_type"]["AAAA"], &zone["nxdomain"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert!(lab.0.wait().unwrap().success());
}

#[test]
fn its_faults_can_be_lived_with() {
    let (_slow, internet, _) = lab(&["--latency", "20ms", "--jitter", "10ms", "--loss", "0.05"]);
    let nodens = Nodens::before(internet, &[]);
    let good = (0..100)
        .filter(|n| nodens.ask(&format!("n{n}.example.com"), RecordType::A).answers.len() == 1)
        .count();
    assert!(good >= 99, "{good}");
    let (_cut, internet, _) = lab(&["--truncate"]);
    let nodens = Nodens::before(internet, &[]);
    assert_eq!(nodens.ask("www.example.com", RecordType::A).answers.len(), 1, "by TCP");
    let (_broken, internet, _) = lab(&["--servfail", "1"]);
    let nodens = Nodens::before(internet, &[]);
    assert_eq!(nodens.ask("www.example.com", RecordType::A).metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn its_limit_drops_what_is_over_it() {
    let (_lab, internet, admin) = lab(&["--rate-limit", "100"]);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let mut over = 0;
    // A socket's buffer holds some 250 datagrams of this size: each fifty are counted before the next.
    for sent in (50..=300).step_by(50) {
        for n in sent - 50..sent {
            socket.send_to(&query(&format!("n{n}.example.com"), RecordType::A), internet).unwrap();
        }
        over = loop {
            let counts = counts(&admin);
            let zone = &counts["internet"]["example.com."];
            let count = |what: &str| zone[what].as_u64().unwrap_or(0);
            if count("answered") + count("over_limit") == sent {
                break count("over_limit");
            }
            assert!(start.elapsed() < PATIENCE, "{zone} of {sent}");
        };
    }
    // Five at once, and a hundred a second.
    let most = 5.0 + 100.0 * start.elapsed().as_secs_f64();
    assert!((300 - over) as f64 <= most, "{over} of 300 were over the limit in {:?}", start.elapsed());
}

fn counts(admin: &str) -> serde_json::Value {
    let mut stream = crate::harness::connect(admin.parse().unwrap());
    std::io::Write::write_all(&mut stream, b"GET /counts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut text);
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}
