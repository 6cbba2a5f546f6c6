//! Real stub resolvers in network namespaces with a pod's resolv.conf: what their programs get, and what they ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::harness::{Authority, Dir, Nodens, PATIENCE, need, tool};
use crate::lab::lab;

/// A namespace as a pod has one: an address, a way to the node, a resolv.conf.
pub struct Pod {
    namespace: String,
    pub node: Ipv4Addr,
    pub own: Ipv4Addr,
}

impl Pod {
    fn new() -> Pod {
        Pod::of("shop")
    }

    /// A pod of a Kubernetes namespace.
    pub fn of(kubernetes: &str) -> Pod {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let (outside, inside) = (format!("nd{pid}a{number}"), format!("nd{pid}b{number}"));
        // A pair (RFC 3021) of 198.18.0.0/15, which is for tests (RFC 2544), one for each process and pod.
        let base = 0xc612_0000 | (pid & 0x3ff) << 7 | (number & 63) << 1;
        let (node, own) = (Ipv4Addr::from(base), Ipv4Addr::from(base + 1));
        let pod = Pod { namespace: format!("nodens-{pid}-{number}"), node, own };
        let namespace = &pod.namespace;
        for step in [
            format!("netns add {namespace}"),
            format!("link add {outside} type veth peer name {inside} netns {namespace}"),
            format!("addr add {node}/31 dev {outside}"),
            format!("link set {outside} up"),
            format!("-n {namespace} addr add {own}/31 dev {inside}"),
            format!("-n {namespace} link set {inside} up"),
            format!("-n {namespace} link set lo up"),
        ] {
            let done = tool("ip").args(step.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {step}: {}", String::from_utf8_lossy(&done.stderr));
        }
        let etc = pod.etc();
        std::fs::create_dir_all(&etc).unwrap();
        let resolv_conf = format!(
            "nameserver {node}\nsearch {kubernetes}.svc.cluster.local svc.cluster.local cluster.local ec2.internal\noptions ndots:5\n"
        );
        std::fs::write(etc.join("resolv.conf"), resolv_conf).unwrap();
        pod
    }

    /// `ip netns exec` shows the files in here as those of /etc.
    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.namespace)
    }

    /// Any program inside.
    pub fn exec(&self, program: &str) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Its own address.
    pub fn own(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.node) + 1)
    }

    /// nodens inside.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.exec(env!("CARGO_BIN_EXE_nodens"));
        command.args(args);
        command
    }

    /// Runs `ip` inside.
    pub fn ip(&self, args: &str) {
        let inside = ["-n", &self.namespace];
        let done = tool("ip").args(inside).args(args.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Pulls its cable out, or puts it in again.
    pub fn set_link(&self, state: &str) {
        self.ip(&format!("link set {} {state}", self.link()));
    }

    /// Sends no more than so much from now on; the rest waits in the link's queue, and in sockets when that is all theirs.
    pub fn slow_down(&self, rate: &str) {
        let limit = ["rate", rate, "burst", "10kb", "limit", "20mb"];
        let mut command = self.exec("tc");
        command.args(["qdisc", "add", "dev", &self.link(), "root", "tbf"]).args(limit);
        let done = command.output().unwrap();
        assert!(done.status.success(), "tc: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// How often a datagram found no room in the socket it was sent from.
    pub fn found_no_room(&self) -> u64 {
        let said = self.exec("cat").arg("/proc/net/snmp").output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let mut lines = said.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split(' '));
        let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
        names.zip(counts).find(|(name, _)| *name == "SndbufErrors").unwrap().1.parse().unwrap()
    }

    fn link(&self) -> String {
        self.namespace.replace("nodens-", "nd").replace('-', "b")
    }

    /// Gives the node one more address, which the pod reaches through it.
    pub fn second_node(&self) -> Ipv4Addr {
        let second = Ipv4Addr::from(u32::from(self.node) + 0x1_0000);
        let outside = self.namespace.replace("nodens-", "nd").replace('-', "a");
        let args = format!("addr add {second}/32 dev {outside}");
        assert!(tool("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
        self.ip(&format!("route add {second}/32 via {}", self.node));
        second
    }

    /// Rewrites its resolv.conf in place, as a container sees it: the file is a mount.
    pub fn set_resolv_conf(&self, text: &str) {
        std::fs::write(self.etc().join("resolv.conf"), text).unwrap();
    }

    /// Rewrites the search line of its resolv.conf.
    pub fn set_domains(&self, domains: &str) {
        self.set_resolv_conf(&format!("nameserver {}\nsearch {domains}\n", self.node));
    }

    /// Adds options to its resolv.conf.
    pub fn add_options(&self, options: &str) {
        let path = self.etc().join("resolv.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}options {options}\n")).unwrap();
    }

    pub fn listen(&self) -> String {
        format!("{}:53", self.node)
    }

    /// The addresses that a program inside finds for each name.
    pub fn resolve(&self, program: &Program, names: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        let addresses = |words: Vec<String>| {
            // What went wrong has as many wordings as there are libraries.
            words.into_iter().filter(|word| word.contains(['.', ':'])).map(|text| plain(&text)).collect()
        };
        let said = self.said(program, names).into_iter();
        said.map(|(name, words)| (name, addresses(words))).collect()
    }

    /// What a program inside says of each name, word by word.
    pub fn said(&self, program: &Program, names: &[&str]) -> BTreeMap<String, Vec<String>> {
        let inside = ["netns", "exec", &self.namespace];
        let output = tool("ip").args(inside).args(&program.command).args(names).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), names.len(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let words = |line: &str| {
            let mut words = line.split_whitespace().map(String::from);
            (words.next().unwrap(), words.collect())
        };
        text.lines().map(words).collect()
    }
}

/// An address in the form that this library gives it.
fn plain(text: &str) -> String {
    text.parse::<std::net::IpAddr>().map_or_else(|_| text.into(), |address| address.to_string())
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = tool("ip").args(["netns", "del", &self.namespace]).status();
        let _ = std::fs::remove_dir_all(self.etc());
    }
}

/// A program that resolves its arguments.
pub struct Program {
    command: Vec<String>,
    _dir: Dir,
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

impl Program {
    /// A program of this name made by a command whose arguments may name the directory it goes to.
    pub fn built(compiler: &str, args: &[&str], run: &[&str]) -> Option<Program> {
        if !need("ip") || !need(compiler) {
            return None;
        }
        let dir = Dir::new();
        let path = dir.0.display().to_string();
        let full = |arg: &&str| arg.replace("DIR", &path);
        // Compilers keep caches at home, which not every test has; zig makes its musl anew without one.
        let mut command = tool(compiler);
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/cache");
        command.env("HOME", &cache).env("ZIG_GLOBAL_CACHE_DIR", &cache).env("CGO_ENABLED", "0");
        command.args(args.iter().map(full));
        run_to_end(&mut command);
        Some(Program { command: run.iter().map(full).collect(), _dir: dir })
    }

    pub fn c(compiler: &str, more: &[&str]) -> Option<Program> {
        let source = source("getaddrinfo.c").display().to_string();
        Program::built(compiler, &[more, &["-o", "DIR/program", &source]].concat(), &["DIR/program"])
    }

    pub fn c_ares() -> Option<Program> {
        if !Path::new("/usr/include/ares.h").exists() {
            assert!(std::env::var_os("NODENS_CI").is_none(), "c-ares is missing");
            return None;
        }
        let source = source("cares.c").display().to_string();
        Program::built("cc", &["-o", "DIR/program", &source, "-lcares"], &["DIR/program"])
    }

    fn script(interpreter: &str, name: &str) -> Option<Program> {
        let source = source(name).display().to_string();
        Program::built(interpreter, &["--version"], &[interpreter, &source])
    }
}

fn run_to_end(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// External names that cost ten questions before and two after.
const EXTERNAL: [&str; 10] = [
    "www.google.com",
    "mail.google.com",
    "api.github.com",
    "www.amazon.com",
    "www.example.org",
    "v4only.example.com",
    "v6only.example.org",
    "cname.example.net",
    "a.b.example.com",
    "www.example.com.br",
];
/// Everything else: names of the cluster by all their forms, names that are not there, names that must be left alone.
const OTHERS: [&str; 30] = [
    "web",
    "web.prod",
    "web.dev",
    "api.prod",
    "a.default",
    "a.default.svc",
    "web.prod.svc",
    "web.shop.svc.cluster.local",
    "kubernetes.default.svc.cluster.local",
    "kafka",
    "kafka-0.kafka",
    "kafka-9.kafka",
    "kafka-1.kafka.shop.svc.cluster.local",
    "mysql.default",
    "mysql-0.mysql",
    "mysql-1.mysql.default",
    "mysql-0.mysql.default.svc.cluster.local",
    "search",
    "search.shop",
    "ip-10-0-0-7",
    "ip-10-0-0-8.ec2.internal",
    "google.com",
    "example.com",
    "github.com",
    "nx.example.com",
    "nodata.example.com",
    "no.such.name.invalid",
    "nothing",
    "nothing.here",
    "wpad.example.com",
];

/// Results as behind a plain unbound, and the number of questions before and after the list is learned.
fn is_served_as_by_a_plain_cache(program: Option<Program>) {
    let Some(program) = program.filter(|_| need("unbound")) else { return };
    let pod = Pod::new();
    let (cluster, internet, _) = lab(&[]);
    let names = [&EXTERNAL[..], &OTHERS].concat();
    let plain = {
        let zones = [("cluster.local", cluster.1), (".", internet)];
        let _unbound = Authority::unbound(pod.listen().parse().unwrap(), &zones);
        pod.resolve(&program, &names)
    };

    let (listen, forward) = (pod.listen(), format!("cluster.local=udp://{}", cluster.1));
    let args =
        ["--search", "learn", "--search-list", "ec2.internal", "--listen", &listen, "--forward", &forward];
    let nodens = Nodens::before(internet, &args);
    let queries = || nodens.metric("nodens_queries_total", &[]);
    let asked = |names: &[&str]| {
        let before = queries();
        (pod.resolve(&program, names), queries() - before)
    };
    for name in ["one.example.com", "two.example.com"] {
        assert_eq!(asked(&[name]).1, 10, "the whole walk of {name}");
    }
    let start = Instant::now();
    while nodens.metric("nodens_search_clients", &["proven"]) == 0 {
        assert!(start.elapsed() < PATIENCE, "the list is not learned");
    }
    // What was left to the client stays so for a while: both families of a look-up are treated alike.
    assert_eq!(asked(&["one.example.com"]).1, 10);
    for name in EXTERNAL {
        let (said, count) = asked(&[name]);
        assert_eq!((said.get(name), count), (plain.get(name), 2), "{name}");
    }
    let (said, count) = asked(&names);
    for name in names {
        assert_eq!(said.get(name), plain.get(name), "{name}");
    }
    assert!(nodens.metric("nodens_search_saved_total", &[]) >= 16 * EXTERNAL.len() as u64);
    assert!(nodens.metric("nodens_search_composed_total", &["namespace=\"shop\""]) >= EXTERNAL.len() as u64);
    println!("{} names, {count} questions; {} for ten external ones", said.len(), 2 * EXTERNAL.len());
}

#[test]
fn glibc_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::c("cc", &[]));
}

#[test]
fn musl_of_debian_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::c("musl-gcc", &["-static"]));
}

#[test]
fn a_newer_musl_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::c("zig", &["cc", "-target", "x86_64-linux-musl", "-static"]));
}

#[test]
fn c_ares_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::c_ares());
}

#[test]
fn go_is_served_as_by_a_plain_cache() {
    let source = source("resolve.go").display().to_string();
    is_served_as_by_a_plain_cache(Program::built(
        "go",
        &["build", "-o", "DIR/program", &source],
        &["DIR/program"],
    ));
}

#[test]
fn java_is_served_as_by_a_plain_cache() {
    let source = source("Resolve.java").display().to_string();
    let run = ["java", "-Xshare:auto", "-cp", "DIR", "Resolve"];
    is_served_as_by_a_plain_cache(Program::built("javac", &["-d", "DIR", &source], &run));
}

#[test]
fn node_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::script("node", "resolve.js"));
}

#[test]
fn python_is_served_as_by_a_plain_cache() {
    is_served_as_by_a_plain_cache(Program::script("python3", "resolve.py"));
}

/// Without the short circuit: ten questions for an external name, and none goes upstream the second time.
fn walks_its_search_list(program: Option<Program>) {
    let Some(program) = program else { return };
    let pod = Pod::new();
    let nodens = Nodens::start(&["--lab", "--search", "off", "--listen", &pod.listen()]);
    let queries = || nodens.metric("nodens_queries_total", &[]);
    let upstream = || nodens.metric("nodens_upstream_questions_total", &[]);
    let said = pod.resolve(&program, &["www.example.com"]);
    assert_eq!((said["www.example.com"].len(), queries(), upstream()), (2, 10, 10));
    assert_eq!(pod.resolve(&program, &["www.example.com"]), said);
    assert_eq!((queries(), upstream()), (20, 10));
    for (name, address) in [("web", "10.96.0.4"), ("web.prod", "10.96.0.5"), ("ip-10-0-0-7", "10.0.0.7")] {
        assert!(pod.resolve(&program, &[name])[name].contains(address), "{name}");
    }
    assert!(pod.resolve(&program, &["nx.example.com"])["nx.example.com"].is_empty());
}

#[test]
fn glibc_walks_its_search_list() {
    walks_its_search_list(Program::c("cc", &[]));
}

#[test]
fn musl_walks_its_search_list() {
    walks_its_search_list(Program::c("musl-gcc", &["-static"]));
}
