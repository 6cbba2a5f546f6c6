//! Upstream servers inside TLS: unbound and dnsdist with certificates of an authority of the test's own.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{
    Asked, Authority, Dir, Nodens, PATIENCE, Upstream, free_addr, need, query, read_framed, receive, tcp,
    tool, udp,
};

const NAME: &str = "dns.example";

/// An authority, and a certificate and a key by it.
struct Certificate {
    dir: Dir,
}

impl Certificate {
    fn of(name: &str) -> Certificate {
        Certificate::made(name, "30")
    }

    fn made(name: &str, days: &str) -> Certificate {
        let dir = Dir::new();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        dir.file("names", &format!("subjectAltName=DNS:{name}\n"));
        for step in [
            format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=authority-for-{name}"),
            format!("req {key} -keyout server.key -out request -subj /CN=server"),
            format!(
                "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile names -out server.pem"
            ),
        ] {
            let done = tool("openssl").args(step.split(' ')).current_dir(&dir.0).output().unwrap();
            assert!(done.status.success(), "openssl {step}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Certificate { dir }
    }

    fn path(&self, file: &str) -> String {
        self.dir.0.join(file).display().to_string()
    }

    fn authority(&self) -> String {
        self.path("ca.pem")
    }
}

/// A real server that forwards to a scripted one, and where it answers inside TLS.
struct Server {
    _authority: Authority,
    tls: SocketAddr,
    https: SocketAddr,
}

impl Server {
    fn unbound(certificate: &Certificate, upstream: SocketAddr) -> Server {
        Server::unbound_at([free_addr(), free_addr(), free_addr()], certificate, upstream)
    }

    fn unbound_at(addrs: [SocketAddr; 3], certificate: &Certificate, upstream: SocketAddr) -> Server {
        let [plain, tls, https] = addrs;
        let (pem, key) = (certificate.path("server.pem"), certificate.path("server.key"));
        let more = format!(
            "  interface: {}@{}\n  interface: {}@{}\n  tls-port: {}\n  https-port: {}\n  tls-service-pem: \"{pem}\"\n  tls-service-key: \"{key}\"\n  pad-responses: yes\n  incoming-num-tcp: 100\n",
            tls.ip(),
            tls.port(),
            https.ip(),
            https.port(),
            tls.port(),
            https.port()
        );
        let _authority = Authority::unbound_with(plain, &[(".", upstream)], &more);
        Server { _authority, tls, https }
    }

    fn dnsdist(certificate: &Certificate, upstream: SocketAddr) -> Server {
        let (plain, tls, https) = (free_addr(), free_addr(), free_addr());
        let (pem, key) = (certificate.path("server.pem"), certificate.path("server.key"));
        let more = format!(
            "addTLSLocal(\"{tls}\", \"{pem}\", \"{key}\")\naddDOHLocal(\"{https}\", \"{pem}\", \"{key}\", \"/dns-query\")"
        );
        Server { _authority: Authority::dnsdist(plain, upstream, &more), tls, https }
    }

    fn urls(&self, name: &str) -> [String; 2] {
        [format!("tls://{}#{name}", self.tls), format!("https://{}/dns-query#{name}", self.https)]
    }
}

fn nodens(url: &str, certificate: &Certificate) -> Nodens {
    Nodens::start(&["--workers", "1", "--upstream", url, "--ca-file", &certificate.authority()])
}

fn code(nodens: &Nodens, name: &str) -> ResponseCode {
    nodens.ask(name, RecordType::A).metadata.response_code
}

fn has_all() -> bool {
    ["openssl", "unbound", "dnsdist"].into_iter().all(need)
}

/// An SOA record of whatever was asked, whose names are the root.
const SOA: &[u8] = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x1e\x00\x16\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x05";

fn answers(asked: &Asked) -> Vec<u8> {
    match asked.message().queries[0].query_type() {
        RecordType::SOA => asked.raw(0, [1, 0, 0], SOA),
        _ => asked.address(300, 1),
    }
}

#[test]
fn unbound_and_dnsdist_answer_over_tls_and_https_on_few_connections() {
    if !has_all() {
        return;
    }
    let (certificate, upstream) = (Certificate::of(NAME), Upstream::simple(answers));
    for server in [Server::unbound(&certificate, upstream.addr), Server::dnsdist(&certificate, upstream.addr)]
    {
        for (url, proto) in server.urls(NAME).iter().zip(["tls", "https"]) {
            let nodens = nodens(url, &certificate);
            // The first question of all waits for the handshake, on a busy machine longer than a try does.
            assert_eq!(code(&nodens, "first.example.com"), ResponseCode::NoError, "{url}");
            let over = format!("proto=\"{proto}\"");
            let questions = |labels: &[&str]| nodens.metric("nodens_upstream_questions_total", labels);
            let connections = |labels: &[&str]| nodens.metric("nodens_upstream_connections_total", labels);
            let counts = || {
                let retries = nodens.metric("nodens_upstream_retries_total", &[]);
                [questions(&[&over]) - retries, questions(&[]) - retries, connections(&[])]
            };
            let [over_it, in_all, opened] = counts();
            assert!(over_it == in_all && (1..=2).contains(&connections(&["opened"])), "{url}");
            for n in 0..50 {
                assert_eq!(code(&nodens, &format!("{proto}{n}.example.com")), ResponseCode::NoError, "{url}");
            }
            assert_eq!(counts(), [over_it + 50, in_all + 50, opened], "{url}");
            assert!(nodens.metric("nodens_upstream_segments_total", &[]) >= 50);
        }
    }
}

#[test]
fn a_burst_is_answered_whole() {
    if !has_all() {
        return;
    }
    let (certificate, upstream) = (Certificate::of(NAME), Upstream::simple(answers));
    let server = Server::dnsdist(&certificate, upstream.addr);
    for url in server.urls(NAME) {
        let nodens = nodens(&url, &certificate);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for n in 0..200 {
            socket.send_to(&query(&format!("n{n}.example.com"), RecordType::A), nodens.addr).unwrap();
        }
        let mut buffer = [0; 512];
        for _ in 0..200 {
            let length = receive(&socket, &mut buffer).unwrap();
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(
                (reply.metadata.response_code, reply.answers.len()),
                (ResponseCode::NoError, 1),
                "{url}"
            );
        }
        assert!(nodens.metric("nodens_upstream_connections_total", &[]) <= 2);
        assert_eq!(nodens.metric("nodens_upstream_failures_total", &["unreachable"]), 0);
    }
}

#[test]
fn a_slow_name_does_not_hold_up_the_next_inside_tls() {
    if !has_all() {
        return;
    }
    let upstream = Upstream::start(|asked| {
        vec![(if asked.name().starts_with("slow") { 1000 } else { 0 }, asked.address(300, 1))]
    });
    let certificate = Certificate::of(NAME);
    let server = Server::dnsdist(&certificate, upstream.addr);
    for url in server.urls(NAME) {
        let nodens = nodens(&url, &certificate);
        assert_eq!(code(&nodens, "first.example.com"), ResponseCode::NoError);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(nodens.addr).unwrap();
        let (slow, quick) =
            (query("slow.example.com", RecordType::A), query("quick.example.com", RecordType::A));
        socket.send(&slow).unwrap();
        socket.send(&quick).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 512];
        receive(&socket, &mut buffer).unwrap();
        assert_eq!(buffer[..2], quick[..2], "{url}");
        receive(&socket, &mut buffer).unwrap();
        assert_eq!(buffer[..2], slow[..2], "{url}");
    }
}

/// Nothing is answered and the reason is told; in the clear nobody is asked.
fn is_refused(url: &str, certificate: &Certificate, reason: &str) {
    let nodens = nodens(url, certificate);
    for n in 0..2 {
        assert_eq!(code(&nodens, &format!("n{n}.example.com")), ResponseCode::ServFail, "{url}");
    }
    assert!(nodens.metric("nodens_upstream_connections_total", &["untrusted"]) > 0, "{url}");
    assert_eq!(nodens.metric("nodens_upstream_connections_total", &["opened"]), 0, "{url}");
    let said = nodens.said();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: upstream")).collect();
    assert_eq!(lines.len(), 1, "once: {said}");
    assert!(lines[0].contains(&format!("upstream {url} is not asked: ")), "{}", lines[0]);
    assert!(lines[0].contains(reason), "{}", lines[0]);
}

#[test]
fn a_server_that_does_not_prove_who_it_is_is_not_asked() {
    if !has_all() {
        return;
    }
    let upstream = Upstream::simple(answers);
    let (good, expired, other) =
        (Certificate::of(NAME), Certificate::made(NAME, "-1"), Certificate::of("other.example"));
    let server = Server::unbound(&good, upstream.addr);
    let before = upstream.count();
    for url in server.urls("wrong.example") {
        let reason = "certificate not valid for name \"wrong.example\"; certificate is only valid for DnsName(\"dns.example\")";
        is_refused(&url, &good, reason);
    }
    for url in server.urls(NAME) {
        is_refused(&url, &other, "its certificate is by none of the authorities of \"/");
        // The built-in authorities do not know ours either.
        let built_in = Nodens::start(&["--upstream", &url]);
        assert_eq!(code(&built_in, "www.example.com"), ResponseCode::ServFail);
        assert!(
            built_in.said().contains("none of the authorities of the built-in list"),
            "{}",
            built_in.said()
        );
    }
    for url in Server::unbound(&expired, upstream.addr).urls(NAME) {
        is_refused(&url, &expired, "its certificate has expired");
    }
    let names: Vec<String> = upstream.asked()[before..].iter().map(Asked::name).collect();
    assert!(!names.iter().any(|name| name.starts_with('n')), "{names:?}");
}

#[test]
fn a_server_without_tls_is_not_asked_in_the_clear() {
    if !has_all() {
        return;
    }
    let (certificate, upstream) = (Certificate::of(NAME), Upstream::simple(answers));
    for url in [format!("tls://{}#{NAME}", upstream.addr), format!("https://{}#{NAME}", upstream.addr)] {
        let nodens = nodens(&url, &certificate);
        assert_eq!(code(&nodens, "www.example.com"), ResponseCode::ServFail);
        assert_eq!(nodens.metric("nodens_upstream_connections_total", &["opened"]), 0);
    }
    assert_eq!(upstream.count(), 0, "neither over UDP nor over TCP");
}

/// Whatever a server says reaches the client as it would over UDP, octet by octet.
#[test]
fn answers_inside_tls_are_those_of_udp() {
    if !has_all() {
        return;
    }
    let ede = |code: u8, text: &str| {
        let length = (2 + text.len()) as u8;
        let option = [&[0, 15, 0, length, 0, code][..], text.as_bytes()].concat();
        [&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, option.len() as u8][..], &option].concat()
    };
    let upstream = Upstream::simple(move |asked| {
        let name = asked.name();
        match name.split('.').next().unwrap() {
            // A type that nobody knows, with octets that look like a pointer.
            "unknown" => asked.raw(
                0,
                [1, 0, 0],
                b"\xc0\x0c\xff\x10\x00\x01\x00\x00\x00\x3c\x00\x05\xc0\x0c\x00\xff\x01",
            ),
            "stale" => {
                let records = [
                    &b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x07"[..],
                    &ede(3, "stale"),
                ]
                .concat();
                asked.raw(0, [1, 0, 1], &records)
            }
            "denied" => asked.raw(3, [0, 1, 1], &[SOA, &ede(15, "blocked")].concat()),
            "failed" => asked.raw(2, [0, 0, 1], &ede(22, "no")),
            "refused" => asked.raw(5, [0, 0, 1], &ede(18, "")),
            "nodata" => asked.raw(0, [0, 1, 0], SOA),
            "big" => {
                let text = [&[255][..], &[b'x'; 255]].concat();
                let record = [&b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x01\x00"[..], &text].concat();
                if asked.tcp {
                    asked.raw(0, [100, 0, 0], &record.repeat(100))
                } else {
                    asked.raw(0x0200, [0; 3], &[])
                }
            }
            _ => answers(asked),
        }
    });
    let certificate = Certificate::of(NAME);
    let server = Server::dnsdist(&certificate, upstream.addr);
    let plain = Nodens::before(upstream.addr, &[]);
    for url in server.urls(NAME) {
        let nodens = nodens(&url, &certificate);
        for (name, qtype) in [
            ("unknown", RecordType::from(65_296)),
            ("Stale", RecordType::A),
            ("denied", RecordType::A),
            ("failed", RecordType::A),
            ("refused", RecordType::A),
            ("nodata", RecordType::AAAA),
        ] {
            let packet = query(&format!("{name}.example.com"), qtype);
            let (expected, found) = (udp(plain.addr, &packet), udp(nodens.addr, &packet));
            assert_eq!(found, expected, "{name} over {url}");
        }
        let packet = query("big.example.com", RecordType::TXT);
        let (expected, found) = (tcp(plain.addr, &packet).unwrap(), tcp(nodens.addr, &packet).unwrap());
        assert!(found == expected && found.len() > 26_000, "{} octets over {url}", found.len());
    }
}

#[test]
fn a_server_that_comes_back_is_asked_again() {
    if !has_all() {
        return;
    }
    let (certificate, upstream) = (Certificate::of(NAME), Upstream::simple(answers));
    let addrs = [free_addr(), free_addr(), free_addr()];
    let server = Server::unbound_at(addrs, &certificate, upstream.addr);
    let [tls, https] = server.urls(NAME).map(|url| nodens(&url, &certificate));
    for nodens in [&tls, &https] {
        assert_eq!(code(nodens, "before.example.com"), ResponseCode::NoError);
    }
    drop(server);
    for nodens in [&tls, &https] {
        assert_eq!(code(nodens, "meanwhile.example.com"), ResponseCode::ServFail);
        assert!(nodens.metric("nodens_upstream_connections_total", &["refused"]) > 0);
    }
    let _server = Server::unbound_at(addrs, &certificate, upstream.addr);
    for nodens in [&tls, &https] {
        let start = Instant::now();
        while code(nodens, &format!("after{}.example.com", start.elapsed().as_millis()))
            != ResponseCode::NoError
        {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(nodens.metric("nodens_upstream_connections_total", &["opened"]), 2);
    }
}

#[test]
fn an_http_error_is_no_answer_and_is_told() {
    if !has_all() {
        return;
    }
    let (certificate, upstream) = (Certificate::of(NAME), Upstream::simple(answers));
    let server = Server::dnsdist(&certificate, upstream.addr);
    let nodens = nodens(&format!("https://{}/nowhere#{NAME}", server.https), &certificate);
    for n in 0..3 {
        assert_eq!(code(&nodens, &format!("n{n}.example.com")), ResponseCode::ServFail);
    }
    let said = nodens.said();
    assert!(said.contains("gives no answer: http unsuccessful code: 404 Not Found"), "{said}");
    assert_eq!(said.matches("gives no answer").count(), 1, "once");
    let opened = nodens.metric("nodens_upstream_connections_total", &["opened"]);
    assert!(opened <= 2, "the connection is good: {opened}");
}

/// `openssl s_server`, whose one client at a time is answered by a script.
struct Scripted {
    child: Child,
    addr: SocketAddr,
}

impl Scripted {
    fn start(certificate: &Certificate, script: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> Scripted {
        let addr = free_addr();
        let files: Vec<PathBuf> =
            ["server.pem", "server.key"].iter().map(|file| certificate.dir.0.join(file)).collect();
        let mut child = tool("openssl")
            .args(["s_server", "-quiet", "-accept", &addr.to_string(), "-cert"])
            .arg(&files[0])
            .arg("-key")
            .arg(&files[1])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            while let Some(packet) = read_framed(&mut stdout) {
                let asked = Asked { packet, from: addr, tcp: true, at: std::time::Instant::now(), number: 0 };
                let reply = script(&asked);
                let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                if stdin.write_all(&framed).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        // It does not outlive a connection that says nothing: the kernel is asked instead whether it listens.
        let start = Instant::now();
        let listens = format!(":{:04X} 00000000:0000 0A", addr.port());
        while !std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&listens) {
            assert!(start.elapsed() < PATIENCE, "openssl does not listen");
        }
        Scripted { child, addr }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_answer_to_another_question_is_none_inside_tls_either() {
    if !has_all() {
        return;
    }
    let certificate = Certificate::of(NAME);
    let scripted = Scripted::start(&certificate, |asked| {
        let mut reply = asked.address(300, 66);
        if asked.name().starts_with("bad") {
            // The first letter of the question's name, under the right ID.
            reply[13] = b'g';
        }
        reply
    });
    let nodens = nodens(&format!("tls://{}#{NAME}", scripted.addr), &certificate);
    assert_eq!(code(&nodens, "good.example.com"), ResponseCode::NoError);
    assert_eq!(code(&nodens, "bad.example.com"), ResponseCode::ServFail);
    let start = Instant::now();
    while code(&nodens, &format!("good{}.example.com", start.elapsed().as_millis())) != ResponseCode::NoError
    {
        assert!(start.elapsed() < PATIENCE);
    }
}
