//! What the tests share: the program as a child, packets, scripted upstream servers, knotd and nsd.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::{Name, RecordType};

pub use crate::ports::free_addr;

/// A guard, not a measurement: long enough for a loaded machine, and for a virtual one that stands still for a while.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A stub resolver asks again after so long: a host may lose a datagram. Longer than any question waits for its answer.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Where a tool is: on the path, the administrator's path, or where `.ci/run` puts what Debian has not.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let more = ["/usr/sbin".into(), fetched.join("ziglang"), fetched.join("go/bin")];
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(tool)).find(|path| path.is_file())
}

/// True where a tool is there; without it a test says so and passes, but for CI, where it fails.
pub fn need(tool: &str) -> bool {
    let found = find(tool).is_some();
    assert!(found || std::env::var_os("NODENS_CI").is_none(), "{tool} is missing");
    if !found {
        eprintln!("skipped: {tool} is missing");
    }
    found
}

/// The program's command with an environment of its own.
pub fn nodens() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodens"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODENS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Output {
    nodens().args(args).output().unwrap()
}

/// A serving child.
pub struct Nodens {
    child: Child,
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    stderr: Arc<Mutex<String>>,
}

impl Nodens {
    /// Starts it on free ports with these arguments more.
    pub fn start(args: &[&str]) -> Nodens {
        let mut command = nodens();
        command
            .stdin(Stdio::null())
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(args);
        Nodens::spawn(command)
    }

    /// Starts it in front of one upstream.
    pub fn before(upstream: SocketAddr, args: &[&str]) -> Nodens {
        let url = format!("udp://{upstream}");
        Nodens::start(&[&["--upstream", &url], args].concat())
    }

    /// Starts any command that becomes the program, and waits until it says where it is.
    pub fn spawn(mut command: Command) -> Nodens {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let stderr = Arc::new(Mutex::new(String::new()));
        let announced = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                panic!("it ended: {} {}", child.wait().unwrap(), stderr.lock().unwrap());
            }
            stderr.lock().unwrap().push_str(&line);
            if line.contains(" answers on ") {
                break line;
            }
        };
        let kept = Arc::clone(&stderr);
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                kept.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        let after = |mark: &str| {
            announced.split_once(mark).unwrap().1.split([',', ' ', ';']).next().unwrap().to_string()
        };
        let addr = after(" answers on ").parse().unwrap();
        let admin = after("admin http://").parse().unwrap();
        Nodens { child, addr, admin, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: i32) {
        let _ = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
    }

    /// Sends SIGTERM and tells the exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal(15);
        self.wait()
    }

    pub fn wait(&mut self) -> i32 {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }

    /// The admin page's status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap()
    }

    fn try_get(&self, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default()))
    }

    /// The sum of a metric's series that have all these labels.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        sum_of(&self.get("/metrics").1, name, labels)
    }

    /// Questions that its upstream servers have been sent, retries left out, once all that were sent have `arrived`. A reply that a busy
    /// machine holds up is asked for again, which is no second question.
    pub fn first_tries(&self, arrived: impl Fn() -> usize) -> usize {
        let counted = || {
            let page = self.get("/metrics").1;
            ["nodens_upstream_questions_total", "nodens_upstream_retries_total"]
                .map(|counter| sum_of(&page, counter, &[]) as usize)
        };
        let start = Instant::now();
        loop {
            let ([sent, retries], there) = (counted(), arrived());
            if there == sent && counted() == [sent, retries] {
                return there - retries;
            }
            assert!(start.elapsed() < PATIENCE, "{there} of {sent} have arrived; {}", self.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn ask(&self, name: &str, qtype: RecordType) -> Message {
        let packet = query(name, qtype);
        let reply = udp_within(loopback(self.addr), self.addr, &packet, ASK_AGAIN).unwrap_or_else(|| {
            self.has_answered_what_came(&format!("no reply to {name} {qtype}"));
            udp(self.addr, &packet)
        });
        Message::from_vec(&reply).unwrap()
    }

    /// What the host lost has not come here; what has come here is answered, once others that ask at the same time have theirs.
    fn has_answered_what_came(&self, what: &str) {
        let start = Instant::now();
        loop {
            let page = self.try_get("/metrics").map(|(_, page)| page).unwrap_or_default();
            let count = |counter| sum_of(&page, counter, &[]);
            let (asked, answered) = (count("nodens_queries_total"), count("nodens_responses_total"));
            assert_eq!(count("nodens_unsent_total"), 0, "{what}; {}", self.state());
            if !page.is_empty() && answered >= asked {
                return;
            }
            let is_patient = !page.is_empty() && start.elapsed() < PATIENCE;
            assert!(is_patient, "{what}: {answered} of {asked} are answered; {}", self.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What can be known of it when it did what it must not.
    fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The name in brackets may hold anything; Z is one that nobody has waited for.
        let runs = stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']));
        let counted = match self.try_get("/metrics") {
            Ok((_, page)) => page
                .lines()
                .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
                .collect::<Vec<_>>()
                .join("\n"),
            Err(error) => format!("nothing that can be had: {error}"),
        };
        let network = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
        format!(
            "it said\n{}and {}, and counted\n{counted}\non a host with\n{network}",
            self.said(),
            if runs { "still runs" } else { "has ended" }
        )
    }
}

/// The sum of a metric's series on a page that have all these labels.
fn sum_of(page: &str, name: &str, labels: &[&str]) -> u64 {
    let fits = |line: &&str| {
        let (series, _) = line.rsplit_once(' ').unwrap_or_default();
        series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
    };
    page.lines().filter(fits).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

impl Drop for Nodens {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// A plain query with RD, a random ID and EDNS.
pub fn query(name_text: &str, qtype: RecordType) -> Vec<u8> {
    with_edns(name_text, qtype, Some(1232), false)
}

/// A query with or without EDNS of this size.
pub fn with_edns(name_text: &str, qtype: RecordType, size: Option<u16>, dnssec_ok: bool) -> Vec<u8> {
    let mut message = Message::new(next_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(name_text), qtype));
    if let Some(size) = size {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns.set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn next_id() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) as u16
}

fn loopback(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Sends a packet and waits for the reply with its ID.
pub fn udp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    udp_from(loopback(server), server, packet).expect("a reply")
}

/// The same from another address of the loopback network; nothing where no reply comes. It asks as a stub resolver does, so it tells
/// nothing of single datagrams.
pub fn udp_from(own: IpAddr, server: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    udp_repeated(own, server, packet, ASK_AGAIN, PATIENCE.div_duration_f32(ASK_AGAIN) as u32)
}

/// Sends a packet once and waits for the reply with its ID.
pub fn udp_within(own: IpAddr, server: SocketAddr, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    udp_repeated(own, server, packet, patience, 1)
}

fn udp_repeated(
    own: IpAddr,
    server: SocketAddr,
    packet: &[u8],
    patience: Duration,
    times: u32,
) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 65_535];
    for _ in 0..times {
        socket.send(packet).unwrap();
        let error = loop {
            match receive(&socket, &mut buffer) {
                Ok(length) if length < 2 || packet.len() < 2 || buffer[..2] == packet[..2] => {
                    return Some(buffer[..length].to_vec());
                }
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        eprintln!("no reply from {server} to {}: {error}", socket.local_addr().unwrap());
    }
    None
}

/// Gives a socket a buffer for all that comes while its thread waits for its core; by default it holds some 250 small datagrams.
pub fn with_room(socket: &UdpSocket) {
    socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).unwrap();
}

/// Receives a datagram. A process that is stopped and continued meanwhile, or frozen with its machine, is interrupted in whatever it
/// waits for with a time limit (signal(7)).
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    uninterrupted(|| socket.recv(buffer))
}

/// Reads what comes next from a stream, as [`receive`] does.
pub fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    uninterrupted(|| stream.read(buffer))
}

fn uninterrupted(mut wait: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

/// Sends a packet over a connection of its own.
pub fn tcp(server: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let mut stream = connect(server);
    send_framed(&mut stream, packet);
    read_framed(&mut stream)
}

pub fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn send_framed(stream: &mut TcpStream, packet: &[u8]) {
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).unwrap();
}

pub fn read_framed(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// A question as a scripted upstream sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub packet: Vec<u8>,
    pub from: SocketAddr,
    pub tcp: bool,
    pub at: Instant,
    /// How many questions came before it.
    pub number: usize,
}

impl Asked {
    pub fn message(&self) -> Message {
        Message::from_vec(&self.packet).unwrap()
    }

    /// The QNAME in lower case.
    pub fn name(&self) -> String {
        self.message().queries[0].name().to_lowercase().to_ascii()
    }

    /// The question section's octets.
    pub fn question(&self) -> &[u8] {
        let mut end = 12;
        while self.packet[end] != 0 {
            end += 1 + usize::from(self.packet[end]);
        }
        &self.packet[12..end + 5]
    }

    /// Header and question of a reply, then these octets; the counts are answer, authority, additional.
    pub fn raw(&self, flags: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
        let mut out = self.packet[..2].to_vec();
        out.extend_from_slice(&(0x8180 | flags).to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        out.extend_from_slice(self.question());
        out.extend_from_slice(records);
        out
    }

    /// A reply with one address for whatever was asked: 192.0.2.last or 2001:db8::last.
    pub fn address(&self, ttl: u32, last: u8) -> Vec<u8> {
        let qtype = self.message().queries[0].query_type();
        let mut record = vec![0xc0, 12];
        if qtype == RecordType::AAAA {
            record.extend_from_slice(&[0, 28, 0, 1]);
            record.extend_from_slice(&ttl.to_be_bytes());
            record.extend_from_slice(&[0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        } else {
            record.extend_from_slice(&[0, 1, 0, 1]);
            record.extend_from_slice(&ttl.to_be_bytes());
            record.extend_from_slice(&[0, 4, 192, 0, 2, last]);
        }
        self.raw(0, [1, 0, 0], &record)
    }
}

/// A server whose replies a test makes; each comes after its time, over UDP from the server's own socket.
pub struct Upstream {
    pub addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

type Script = dyn Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync;

impl Upstream {
    /// Serves UDP and TCP on one port; each reply has its milliseconds to wait.
    pub fn start(script: impl Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync + 'static) -> Upstream {
        Upstream::with_tcp(true, script)
    }

    /// The same without a delay, one reply.
    pub fn simple(script: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Upstream {
        Upstream::start(move |asked| vec![(0, script(asked))])
    }

    pub fn with_tcp(
        with_tcp: bool,
        script: impl Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync + 'static,
    ) -> Upstream {
        let (udp, listener) = (0..50)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                TcpListener::bind(udp.local_addr().unwrap()).ok().map(|tcp| (udp, tcp))
            })
            .unwrap();
        Upstream::on(udp, with_tcp.then_some(listener), script)
    }

    /// Serves UDP, and TCP or not, on an address of the test's choice.
    pub fn at(
        addr: SocketAddr,
        with_tcp: bool,
        script: impl Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync + 'static,
    ) -> Upstream {
        let listener = with_tcp.then(|| patiently(|| TcpListener::bind(addr)));
        Upstream::on(patiently(|| UdpSocket::bind(addr)), listener, script)
    }

    fn on(
        udp: UdpSocket,
        listener: Option<TcpListener>,
        script: impl Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync + 'static,
    ) -> Upstream {
        let addr = udp.local_addr().unwrap();
        with_room(&udp);
        let (script, asked, ended) =
            (Arc::new(script) as Arc<Script>, Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut threads = vec![serve_udp(udp, Arc::clone(&script), Arc::clone(&asked), Arc::clone(&ended))];
        if let Some(listener) = listener {
            threads.push(serve_tcp(listener, script, Arc::clone(&asked), Arc::clone(&ended)));
        }
        Upstream { addr, asked, ended, threads }
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Binds an address that was in use a moment ago: a child that another thread begins holds all sockets until it is another
/// program.
fn patiently<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let start = Instant::now();
    loop {
        match bind() {
            Ok(bound) => return bound,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn note(asked: &Mutex<Vec<Asked>>, packet: &[u8], from: SocketAddr, tcp: bool) -> Asked {
    let mut all = asked.lock().unwrap();
    let one = Asked { packet: packet.to_vec(), from, tcp, at: Instant::now(), number: all.len() };
    all.push(one.clone());
    one
}

fn serve_udp(
    socket: UdpSocket,
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
) -> JoinHandle<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while !ended.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let one = note(&asked, &buffer[..length], from, false);
            for (after, reply) in script(&one) {
                match after {
                    0 => drop(socket.send_to(&reply, from)),
                    after => {
                        let socket = socket.try_clone().unwrap();
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_millis(after));
                            let _ = socket.send_to(&reply, from);
                        });
                    }
                }
            }
        }
    })
}

fn serve_tcp(
    listener: TcpListener,
    script: Arc<Script>,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
) -> JoinHandle<()> {
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            let Ok((mut stream, from)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let (script, asked) = (Arc::clone(&script), Arc::clone(&asked));
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            std::thread::spawn(move || {
                while let Some(packet) = read_framed(&mut stream) {
                    let one = note(&asked, &packet, from, true);
                    for (after, reply) in script(&one) {
                        std::thread::sleep(Duration::from_millis(after));
                        if reply.is_empty() {
                            return;
                        }
                        let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                        if stream.write_all(&framed).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    })
}

/// A directory that goes with its owner.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nodens-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A real authoritative server in front of zones of the test's own.
pub struct Authority {
    child: Child,
    pub addr: SocketAddr,
    _dir: Dir,
}

impl Authority {
    /// knotd with these zones, name and text.
    pub fn knotd(zones: &[(&str, String)]) -> Authority {
        Authority::knotd_at(tool("knotd"), free_addr(), zones)
    }

    /// The same, started by a command of the test's own, on an address of its own.
    pub fn knotd_at(mut command: Command, addr: SocketAddr, zones: &[(&str, String)]) -> Authority {
        let dir = Dir::new();
        let path = dir.0.display().to_string();
        let mut conf = format!(
            "server:\n    rundir: \"{path}\"\n    listen: {}@{}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\ndatabase:\n    storage: \"{path}\"\nlog:\n  - target: stderr\n    any: error\nzone:\n",
            addr.ip(),
            addr.port()
        );
        for (zone, text) in zones {
            let file = dir.file(&format!("{zone}.zone"), text);
            conf.push_str(&format!(
                "  - domain: {zone}\n    file: \"{}\"\n    zonefile-sync: -1\n    journal-content: none\n",
                file.display()
            ));
        }
        let conf = dir.file("knot.conf", &conf);
        Authority::run(command.arg("-c").arg(conf), addr, dir, zones[0].0)
    }

    /// nsd with these zones.
    pub fn nsd(zones: &[(&str, String)]) -> Authority {
        let (dir, addr) = (Dir::new(), free_addr());
        let path = dir.0.display().to_string();
        let mut conf = format!(
            "server:\n  ip-address: {}@{}\n  zonesdir: \"{path}\"\n  pidfile: \"{path}/pid\"\n  xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/list\"\n  database: \"\"\n  username: \"\"\n  server-count: 1\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n",
            addr.ip(),
            addr.port()
        );
        for (zone, text) in zones {
            dir.file(&format!("{zone}.zone"), text);
            conf.push_str(&format!("zone:\n  name: {zone}\n  zonefile: {zone}.zone\n"));
        }
        let conf = dir.file("nsd.conf", &conf);
        Authority::run(tool("nsd").arg("-d").arg("-c").arg(conf), addr, dir, zones[0].0)
    }

    /// unbound on an address of the test's choice, forwarding zones to servers.
    pub fn unbound(addr: SocketAddr, forward: &[(&str, SocketAddr)]) -> Authority {
        Authority::unbound_with(addr, forward, "")
    }

    /// The same with more lines for its `server:` clause.
    pub fn unbound_with(addr: SocketAddr, forward: &[(&str, SocketAddr)], more: &str) -> Authority {
        let dir = Dir::new();
        let path = dir.0.display().to_string();
        let mut conf = format!(
            "server:\n  interface: {}@{}\n  directory: \"{path}\"\n  pidfile: \"{path}/pid\"\n  chroot: \"\"\n  username: \"\"\n  use-syslog: no\n  do-daemonize: no\n  module-config: \"iterator\"\n  num-threads: 1\n  access-control: 0.0.0.0/0 allow\n  do-not-query-localhost: no\n  do-ip6: no\n{more}",
            addr.ip(),
            addr.port()
        );
        for (zone, server) in forward {
            conf.push_str(&format!(
                "forward-zone:\n  name: \"{zone}\"\n  forward-addr: {}@{}\n",
                server.ip(),
                server.port()
            ));
        }
        let conf = dir.file("unbound.conf", &conf);
        Authority::run(tool("unbound").arg("-d").arg("-c").arg(conf), addr, dir, "example.com")
    }

    /// dnsdist in front of one server, on an address of the test's choice, with more lines of configuration.
    pub fn dnsdist(addr: SocketAddr, server: SocketAddr, more: &str) -> Authority {
        let dir = Dir::new();
        let conf = format!(
            "setLocal(\"{addr}\")\nsetSecurityPollSuffix(\"\")\nnewServer({{address=\"{server}\"}}):setUp()\n{more}\n"
        );
        let conf = dir.file("dnsdist.conf", &conf);
        let mut command = tool("dnsdist");
        command.args(["--supervised", "--disable-syslog", "-C"]).arg(conf);
        Authority::run(&mut command, addr, dir, "example.com")
    }

    fn run(command: &mut Command, addr: SocketAddr, dir: Dir, zone: &str) -> Authority {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let soa = query(zone, RecordType::SOA);
        let start = Instant::now();
        let answers = || {
            let reply = udp_within("0.0.0.0".parse().unwrap(), addr, &soa, Duration::from_millis(200));
            reply.is_some_and(|reply| {
                Message::from_vec(&reply).is_ok_and(|message| !message.answers.is_empty())
            })
        };
        while !answers() {
            assert!(start.elapsed() < PATIENCE, "the authoritative server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Authority { child, addr, _dir: dir }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A tool's command.
pub fn tool(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

/// A relay that counts the questions on their way to a real server, by name and type.
pub struct Counter {
    pub addr: SocketAddr,
    seen: Arc<Mutex<std::collections::HashMap<Vec<u8>, u64>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Counter {
    pub fn before(server: SocketAddr) -> Counter {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let (seen, ended) =
            (Arc::new(Mutex::new(std::collections::HashMap::new())), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&seen), Arc::clone(&ended));
        let thread = std::thread::spawn(move || relay(&socket, server, &count, &stop));
        Counter { addr, seen, ended, thread: Some(thread) }
    }

    /// Questions so far.
    pub fn total(&self) -> u64 {
        self.seen.lock().unwrap().values().sum()
    }

    /// How often a name was asked for, whatever the type; and how many types.
    pub fn asked(&self, name_text: &str) -> (u64, usize) {
        let wire = query(name_text, RecordType::A);
        let qname = &wire[12..wire.len() - 15];
        let seen = self.seen.lock().unwrap();
        let counts: Vec<u64> = seen
            .iter()
            .filter(|(question, _)| question.starts_with(qname))
            .map(|(_, count)| *count)
            .collect();
        (counts.iter().sum(), counts.len())
    }

    /// Different questions so far.
    pub fn distinct(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn relay(
    socket: &UdpSocket,
    server: SocketAddr,
    seen: &Mutex<std::collections::HashMap<Vec<u8>, u64>>,
    stop: &AtomicBool,
) {
    let onward = UdpSocket::bind("127.0.0.1:0").unwrap();
    onward.connect(server).unwrap();
    onward.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let end = 12 + buffer[12..length].iter().position(|octet| *octet == 0).unwrap_or(0) + 5;
        let question = buffer[12..end].to_ascii_lowercase();
        *seen.lock().unwrap().entry(question).or_default() += 1;
        // One at a time: the relay keeps no table, the server is as near as a function.
        onward.send(&buffer[..length]).unwrap();
        let id = [buffer[0], buffer[1]];
        while let Ok(length) = receive(&onward, &mut buffer) {
            if buffer[..2] == id {
                let _ = socket.send_to(&buffer[..length], from);
                break;
            }
        }
    }
}
