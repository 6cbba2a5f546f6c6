//! Real stub resolvers in network namespaces, which walk their own search lists.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::harness::{Dir, Nodens, need, tool};

/// A namespace as a pod has one: an address, a way to the node, a resolv.conf.
struct Pod {
    namespace: String,
    node: Ipv4Addr,
}

impl Pod {
    fn new() -> Pod {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let (outside, inside) = (format!("nd{pid}a{number}"), format!("nd{pid}b{number}"));
        // A /30 of 198.18.0.0/15, which is for tests (RFC 2544), one for each process and pod.
        let base = 0xc612_0000 | (pid & 0x1fff) << 4 | u32::from(number & 3) << 2;
        let (node, own) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let pod = Pod { namespace: format!("nodens-{pid}-{number}"), node };
        let namespace = &pod.namespace;
        for step in [
            format!("netns add {namespace}"),
            format!("link add {outside} type veth peer name {inside} netns {namespace}"),
            format!("addr add {node}/30 dev {outside}"),
            format!("link set {outside} up"),
            format!("-n {namespace} addr add {own}/30 dev {inside}"),
            format!("-n {namespace} link set {inside} up"),
            format!("-n {namespace} link set lo up"),
        ] {
            let done = tool("ip").args(step.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {step}: {}", String::from_utf8_lossy(&done.stderr));
        }
        let etc = pod.etc();
        std::fs::create_dir_all(&etc).unwrap();
        let resolv_conf = format!(
            "nameserver {node}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local ec2.internal\noptions ndots:5\n"
        );
        std::fs::write(etc.join("resolv.conf"), resolv_conf).unwrap();
        pod
    }

    /// `ip netns exec` shows the files in here as those of /etc.
    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.namespace)
    }

    /// What a program inside printed, and whether it was content.
    fn run(&self, program: &Path, args: &[&str]) -> (String, bool) {
        let output =
            tool("ip").args(["netns", "exec", &self.namespace]).arg(program).args(args).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = tool("ip").args(["netns", "del", &self.namespace]).status();
        let _ = std::fs::remove_dir_all(self.etc());
    }
}

fn compiled(compiler: &[&str], dir: &Dir) -> PathBuf {
    let program = dir.0.join(compiler[0]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/getaddrinfo.c");
    let done =
        Command::new(compiler[0]).args(&compiler[1..]).arg("-o").arg(&program).arg(source).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    program
}

/// Ten questions for an external name: five candidates, both families; the second time none goes upstream.
fn walks_its_search_list(compiler: &[&str]) {
    if !need("ip") || !need(compiler[0]) {
        return;
    }
    let (dir, pod) = (Dir::new(), Pod::new());
    let program = compiled(compiler, &dir);
    let nodens = Nodens::start(&["--lab", "--search", "off", "--listen", &format!("{}:53", pod.node)]);
    let queries = || nodens.metric("nodens_queries_total", &[]);
    let upstream = || nodens.metric("nodens_upstream_questions_total", &[]);

    let (said, content) = pod.run(&program, &["www.example.com"]);
    assert!(content && said.contains(" 198.1") && said.contains(" 2001:db8:"), "{said}");
    assert_eq!((queries(), upstream()), (10, 10), "{said}");
    let (again, _) = pod.run(&program, &["www.example.com"]);
    assert_eq!(words(&said), words(&again));
    assert_eq!((queries(), upstream()), (20, 10));

    for (name, address) in [
        ("web", " 10.96.0.4"),
        ("web.prod", " 10.96.0.5"),
        ("kubernetes.default.svc.cluster.local", " 10.96.0.1"),
        ("kafka-1.kafka", " 10.96."),
        ("search", " 2001:db8:"),
        ("ip-10-0-0-7", " 10.0.0.7"),
    ] {
        let (said, content) = pod.run(&program, &[name]);
        assert!(content && said.contains(address), "{said}");
    }
    let (said, content) = pod.run(&program, &["nx.example.com"]);
    assert!(!content && said.contains("error"), "{said}");
}

fn words(said: &str) -> std::collections::BTreeSet<&str> {
    said.split_whitespace().collect()
}

/// After two look-ups have shown the list, each further name costs two questions, and says the same as without.
fn is_learned_and_cut_short(compiler: &[&str]) {
    if !need("ip") || !need(compiler[0]) {
        return;
    }
    let (dir, pod) = (Dir::new(), Pod::new());
    let program = compiled(compiler, &dir);
    let listen = format!("{}:53", pod.node);
    let names =
        ["www.google.com", "v4only.example.com", "v6only.example.org", "cname.example.net", "web.prod.svc"];
    let plain = {
        let _nodens = Nodens::start(&["--lab", "--search", "off", "--listen", &listen]);
        pod.run(&program, &names).0
    };
    let nodens =
        Nodens::start(&["--lab", "--search", "learn", "--search-list", "ec2.internal", "--listen", &listen]);
    let queries = || nodens.metric("nodens_queries_total", &[]);
    for (name, asked) in [("one.example.com", 10), ("two.example.com", 20)] {
        pod.run(&program, &[name]);
        assert_eq!(queries(), asked, "the whole walk of {name}");
    }
    let start = std::time::Instant::now();
    while nodens.metric("nodens_search_clients", &["proven"]) == 0 {
        assert!(start.elapsed() < crate::harness::PATIENCE, "the list is not learned");
    }
    for (index, name) in names.iter().enumerate() {
        pod.run(&program, &[name]);
        assert_eq!(queries(), 22 + 2 * index as u64, "{name}");
    }
    let (said, _) = pod.run(&program, &names);
    assert_eq!(words(&said), words(&plain));
    assert_eq!(queries(), 20 + 4 * names.len() as u64);
    // What was left to the client stays so: both families of a look-up are treated alike.
    pod.run(&program, &["one.example.com"]);
    assert_eq!(queries(), 30 + 4 * names.len() as u64);
}

#[test]
fn glibcs_search_is_learned_and_cut_short() {
    is_learned_and_cut_short(&["cc"]);
}

#[test]
fn musls_search_is_learned_and_cut_short() {
    is_learned_and_cut_short(&["musl-gcc", "-static"]);
}

#[test]
fn glibc_walks_its_search_list() {
    walks_its_search_list(&["cc"]);
}

#[test]
fn musl_walks_its_search_list() {
    walks_its_search_list(&["musl-gcc", "-static"]);
}
