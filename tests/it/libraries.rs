//! The models of stub resolvers that the generated worlds use, against the real ones: the same steps asked in the same
//! order, the same addresses in the end, for every kind of answer to the first step.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_resolver::proto::rr::RecordType;

use crate::clients::{Pod, Program, source};
use crate::harness::{Asked, Upstream, need};

#[path = "../equivalence/models.rs"]
mod models;
use models::{Libc, Outcome, Reply};

const NAME: &str = "www.example.com";
const SUFFIXES: [&str; 4] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "ec2.internal"];

/// An answer to one question.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    /// An alias to the bare name, and its address.
    Alias,
    /// An address of the name itself.
    Address,
    /// An alias without an address.
    AliasNoData,
    NoData,
    Denied,
    /// An alias to a name that does not exist.
    AliasDenied,
    Servfail,
    AliasServfail,
    Refused,
}

use Answer::{Address, Alias, AliasDenied, AliasNoData, AliasServfail, Denied, NoData, Refused, Servfail};

/// What the first step is answered, A and AAAA, and all search steps behind it; the bare name always has addresses.
const ROWS: [([Answer; 2], Answer); 18] = [
    ([Alias, Alias], Denied),
    ([Address, Address], Denied),
    ([NoData, NoData], Denied),
    ([Denied, NoData], Denied),
    ([NoData, Denied], Denied),
    ([Alias, AliasNoData], Denied),
    ([Alias, NoData], Denied),
    ([AliasNoData, Alias], Denied),
    ([Alias, Denied], Denied),
    ([Denied, Alias], Denied),
    ([AliasNoData, AliasNoData], Denied),
    ([AliasDenied, AliasDenied], Denied),
    ([Servfail, Servfail], Denied),
    ([AliasServfail, AliasServfail], Denied),
    ([Refused, Refused], Denied),
    ([Alias, Servfail], Denied),
    ([Denied, Denied], Denied),
    ([Servfail, Servfail], Servfail),
];

/// The answer to a step of a row: its place in the list, its family.
fn answer(row: &([Answer; 2], Answer), step: &str, family: usize) -> Answer {
    match step {
        NAME => Address,
        _ if step == format!("{NAME}.{}", SUFFIXES[0]) => row.0[family],
        _ => row.1,
    }
}

fn reply(answer: Answer, family: usize) -> Reply {
    let address: IpAddr = ["192.0.2.7", "2001:db8::7"][family].parse().unwrap();
    let rcode = match answer {
        Alias | Address | AliasNoData | NoData => 0,
        Denied | AliasDenied => 3,
        Servfail | AliasServfail => 2,
        Refused => 5,
    };
    let has_answers = !matches!(answer, NoData | Denied | Servfail | Refused);
    let addresses = if matches!(answer, Alias | Address) { vec![address] } else { vec![] };
    Reply { rcode, has_answers, addresses }
}

fn packet(asked: &Asked, answer: Answer, family: usize) -> Vec<u8> {
    let Reply { rcode, has_answers, addresses } = reply(answer, family);
    let mut records = Vec::new();
    let mut counts = [0, 0, 0];
    let mut owner = vec![0xc0, 12];
    if has_answers && answer != Address {
        counts[0] += 1;
        let target = b"\x03www\x07example\x03com\x00";
        records.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, target.len() as u8]);
        owner = (0xc000 | (12 + asked.question().len() + records.len()) as u16).to_be_bytes().to_vec();
        records.extend_from_slice(target);
    }
    for address in addresses {
        counts[0] += 1;
        records.extend_from_slice(&owner);
        match address {
            IpAddr::V4(ip) => {
                records.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                records.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                records.extend_from_slice(&[0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
                records.extend_from_slice(&ip.octets());
            }
        }
    }
    asked.raw(u16::from(rcode), counts, &records)
}

/// Steps in the order they were first asked, retries left out.
fn steps(asked: &[Asked]) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for one in asked {
        let name = one.name().trim_end_matches('.').to_string();
        if !steps.contains(&name) {
            steps.push(name);
        }
    }
    steps
}

/// What the model does with a row.
fn modelled(libc: Libc, row: &([Answer; 2], Answer)) -> (Vec<String>, BTreeSet<String>) {
    let suffixes = SUFFIXES.map(String::from);
    let mut steps = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(libc.look_up(NAME, &suffixes, &mut async |step: &str| {
        steps.push(step.to_string());
        [0, 1].map(|family| reply(answer(row, step, family), family))
    }));
    let addresses = match outcome {
        Outcome::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Outcome::NotFound | Outcome::Failed => BTreeSet::new(),
    };
    (steps, addresses)
}

fn behaves_as_modelled(libc: Libc, program: Option<Program>) {
    let Some(program) = program.filter(|_| need("ip")) else { return };
    let pod = Pod::of("shop");
    let mut wrong = Vec::new();
    for row in ROWS {
        let server = Upstream::at(pod.listen().parse().unwrap(), move |asked| {
            let family = usize::from(asked.message().queries[0].query_type() == RecordType::AAAA);
            let step = asked.name().trim_end_matches('.').to_string();
            vec![(0, packet(asked, answer(&row, &step, family), family))]
        });
        let said = pod.resolve(&program, &[NAME])[NAME].clone();
        let real = (steps(&server.asked()), said);
        let model = modelled(libc, &row);
        if real != model {
            wrong.push(format!("{row:?}\n  real {real:?}\n model {model:?}"));
        }
    }
    assert!(wrong.is_empty(), "{libc:?}\n{}", wrong.join("\n"));
}

#[test]
fn glibc_behaves_as_modelled() {
    behaves_as_modelled(Libc::Glibc, Program::c("cc", &[]));
}

#[test]
fn musl_behaves_as_modelled() {
    behaves_as_modelled(Libc::Musl, Program::c("musl-gcc", &["-static"]));
}

#[test]
fn go_behaves_as_modelled() {
    let source = source("resolve.go").display().to_string();
    let program = Program::built("go", &["build", "-o", "DIR/program", &source], &["DIR/program"]);
    behaves_as_modelled(Libc::Go, program);
}

#[test]
fn c_ares_behaves_as_modelled() {
    behaves_as_modelled(Libc::CAres, Program::c_ares());
}
