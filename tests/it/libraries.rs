//! The models of stub resolvers that the generated worlds use, against the real ones: the same questions as often, the
//! same outcome, for every kind of answer to the first step, to all search steps and to the bare name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;

use crate::clients::{Pod, Program, source};
use crate::harness::{Asked, Upstream, need, query, udp_from};

#[path = "../equivalence/models/mod.rs"]
mod models;
use models::{Conf, Libc, Outcome, Over, Question, Reply, Server, rcode};

const NAME: &str = "www.example.com";
const ROOTED: &str = "www.example.com.";
/// As many dots as `ndots` says.
const DOTTED: &str = "a.b.c.www.example.com";
/// What no library asks for.
const LAST: &str = "last.example.net";
const SUFFIXES: [&str; 4] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "ec2.internal"];
/// Where the aliases lead: from a search step to the bare name, from the bare name on.
const TARGETS: [&[u8]; 2] = [b"\x03www\x07example\x03com\x00", b"\x03end\x07example\x03com\x00"];
/// What all libraries are told, each in its own words, so that no row takes long.
const TIMEOUT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 2;
const OPTIONS: &str = "timeout:1 attempts:2 retrans:1000 retry:2";
/// The row for what they do without being told.
const UNTOLD: Row = first(Servfail, Servfail);
/// How often a row may be run until it is as modelled.
const TRIES: usize = 3;
/// Pods that one library's rows are run in, side by side.
const PODS: usize = 4;
/// How much later one of two answers comes, where it matters which of them is first.
const LATE: Duration = Duration::from_millis(40);

/// An answer to one question.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    /// An alias, and its address.
    Alias,
    /// An address of the name itself.
    Address,
    /// An address of the bare name, without an alias to it.
    Stray,
    /// The same, and the question is for the bare name too.
    Rewritten,
    /// An alias without an address.
    AliasNoData,
    NoData,
    Denied,
    /// An alias to a name that does not exist.
    AliasDenied,
    Servfail,
    AliasServfail,
    Refused,
    NotImplemented,
    Silent,
    /// Nothing but TC; an alias and its address over TCP.
    TruncatedEmpty,
    /// TC beside the whole answer.
    TruncatedWhole,
    /// TC beside an answer without addresses; over TCP SERVFAIL.
    TruncatedServfail,
}

use Answer::{
    Address, Alias, AliasDenied, AliasNoData, AliasServfail, Denied, NoData, NotImplemented, Refused,
    Rewritten, Servfail, Silent, Stray, TruncatedEmpty, TruncatedServfail, TruncatedWhole,
};

/// What is looked up, and what is answered, A and AAAA.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Row {
    name: &'static str,
    first: [Answer; 2],
    other_steps: Answer,
    bare: [Answer; 2],
    has_tcp: bool,
}

/// The first step is answered so, further steps are denied, the bare name has addresses.
const fn first(a: Answer, aaaa: Answer) -> Row {
    Row { name: NAME, first: [a, aaaa], other_steps: Denied, bare: [Address; 2], has_tcp: true }
}

/// All search steps are denied, the bare name is answered so.
const fn bare(a: Answer, aaaa: Answer) -> Row {
    Row { bare: [a, aaaa], ..first(Denied, Denied) }
}

/// A name that is asked as it is, first or only, is answered so, its first search step so.
const fn as_is(name: &'static str, bare: Answer, first_step: Answer) -> Row {
    Row { name, bare: [bare; 2], ..first(first_step, first_step) }
}

const ROWS: [Row; 67] = [
    first(Alias, Alias),
    first(Address, Address),
    first(Stray, Stray),
    first(Rewritten, Rewritten),
    first(NoData, NoData),
    first(Denied, NoData),
    first(NoData, Denied),
    first(Servfail, Servfail),
    first(Refused, Refused),
    first(NotImplemented, NotImplemented),
    first(Silent, Silent),
    first(Alias, AliasNoData),
    first(Alias, NoData),
    first(AliasNoData, Alias),
    first(Alias, Denied),
    first(Denied, Alias),
    first(Alias, Servfail),
    first(Servfail, Alias),
    first(Alias, Silent),
    first(Silent, Alias),
    first(Denied, Silent),
    first(Silent, Denied),
    first(Denied, Servfail),
    first(Servfail, Denied),
    first(AliasNoData, AliasNoData),
    first(AliasDenied, AliasDenied),
    first(AliasServfail, AliasServfail),
    first(TruncatedEmpty, TruncatedEmpty),
    first(TruncatedWhole, TruncatedWhole),
    first(Alias, TruncatedEmpty),
    first(TruncatedWhole, NoData),
    first(Servfail, TruncatedWhole),
    first(TruncatedServfail, TruncatedServfail),
    Row { has_tcp: false, ..first(TruncatedEmpty, TruncatedEmpty) },
    Row { has_tcp: false, ..first(TruncatedWhole, TruncatedWhole) },
    bare(Address, Address),
    Row { other_steps: Servfail, ..first(Servfail, Servfail) },
    Row { other_steps: NoData, ..bare(Denied, Denied) },
    Row { bare: [Denied; 2], ..first(NoData, NoData) },
    Row { bare: [Denied; 2], ..first(Servfail, Servfail) },
    Row { bare: [Denied; 2], ..first(Refused, Refused) },
    Row { bare: [Servfail; 2], ..first(NoData, NoData) },
    bare(Denied, Denied),
    bare(NoData, NoData),
    bare(AliasNoData, AliasNoData),
    bare(Servfail, Servfail),
    bare(Refused, Refused),
    bare(Silent, Silent),
    bare(Address, Servfail),
    bare(Servfail, Address),
    bare(Denied, Servfail),
    bare(Servfail, Denied),
    bare(NoData, Servfail),
    bare(Servfail, NoData),
    bare(Address, Silent),
    bare(TruncatedWhole, NoData),
    bare(TruncatedServfail, TruncatedServfail),
    as_is(ROOTED, Address, Denied),
    as_is(ROOTED, Denied, Alias),
    as_is(ROOTED, Servfail, Alias),
    as_is(DOTTED, Address, Denied),
    as_is(DOTTED, Denied, Alias),
    as_is(DOTTED, NoData, Alias),
    as_is(DOTTED, Denied, Denied),
    as_is(DOTTED, Servfail, Alias),
    as_is(DOTTED, Servfail, Denied),
    Row { other_steps: Servfail, ..as_is(DOTTED, Denied, Servfail) },
];

impl Row {
    fn is_bare(&self, step: &str) -> bool {
        step == self.name.trim_end_matches('.')
    }

    /// The answer to a step.
    fn answer(&self, step: &str, family: usize) -> Answer {
        if self.is_bare(step) {
            return self.bare[family];
        }
        let is_first = step.strip_suffix(SUFFIXES[0]).is_some_and(|base| base == format!("{}.", self.name));
        if is_first { self.first[family] } else { self.other_steps }
    }
}

/// What an answer is to whoever reads it; nothing for silence.
fn reply(answer: Answer, family: usize, over: Over) -> Option<Reply> {
    let address: IpAddr = ["192.0.2.7", "2001:db8::7"][family].parse().unwrap();
    let (answer, truncated) = match (answer, over) {
        (Silent, _) => return None,
        (TruncatedEmpty, Over::Udp) => (NoData, true),
        (TruncatedServfail, Over::Udp) => (AliasNoData, true),
        (TruncatedServfail, Over::Tcp) => (Servfail, false),
        (TruncatedWhole, Over::Udp) => (Alias, true),
        (TruncatedEmpty | TruncatedWhole, Over::Tcp) => (Alias, false),
        (answer, _) => (answer, false),
    };
    let code = match answer {
        Denied | AliasDenied => rcode::NXDOMAIN,
        Servfail | AliasServfail => rcode::SERVFAIL,
        Refused => rcode::REFUSED,
        NotImplemented => rcode::NOTIMP,
        _ => rcode::NOERROR,
    };
    let has_answers = !matches!(answer, NoData | Denied | Servfail | Refused | NotImplemented);
    let some = |is_so: bool| if is_so { vec![address] } else { vec![] };
    Some(Reply {
        rcode: code,
        truncated,
        repeats_question: answer != Rewritten,
        has_answers,
        addresses: some(matches!(answer, Alias | Address)),
        strays: some(matches!(answer, Stray | Rewritten)),
    })
}

/// The same in octets.
fn packet(asked: &Asked, row: &Row) -> Option<Vec<u8>> {
    let (step, family) = (step(asked), family(asked));
    let answer = row.answer(&step, family);
    let over = if asked.tcp { Over::Tcp } else { Over::Udp };
    let reply = reply(answer, family, over)?;
    let mut records = Vec::new();
    let mut answers = 0;
    let record = |records: &mut Vec<u8>, owner: &[u8], rtype: u8, data: &[u8]| {
        records.extend_from_slice(owner);
        records.extend_from_slice(&[0, rtype, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        records.extend_from_slice(data);
    };
    let target = TARGETS[usize::from(row.is_bare(&step))];
    let is_stray = !reply.strays.is_empty();
    let has_alias = reply.has_answers && answer != Address && !is_stray;
    if has_alias {
        record(&mut records, &[0xc0, 12], 5, target);
        answers += 1;
    }
    let owner = if is_stray || has_alias { target } else { &[0xc0, 12] };
    for address in reply.addresses.iter().chain(&reply.strays) {
        match address {
            IpAddr::V4(ip) => record(&mut records, owner, 1, &ip.octets()),
            IpAddr::V6(ip) => record(&mut records, owner, 28, &ip.octets()),
        }
        answers += 1;
    }
    let flags = u16::from(reply.rcode) | u16::from(reply.truncated) << 9;
    let whole = asked.raw(flags, [answers, 0, 0], &records);
    if reply.repeats_question {
        return Some(whole);
    }
    let (header, rest) = whole.split_at(12);
    let tail = &rest[asked.question().len() - 4..];
    Some([header, target, tail].concat())
}

/// How often a step was asked: A and AAAA over UDP, A and AAAA over TCP; steps in the order they were first asked.
type Questions = Vec<(String, [usize; 4])>;

fn count(questions: impl Iterator<Item = (String, usize, Over)>) -> Questions {
    let mut steps = Questions::new();
    for (name, family, over) in questions {
        let known = steps.iter().position(|(step, _)| *step == name).unwrap_or_else(|| {
            steps.push((name, [0; 4]));
            steps.len() - 1
        });
        steps[known].1[family + if over == Over::Tcp { 2 } else { 0 }] += 1;
    }
    steps
}

fn family(asked: &Asked) -> usize {
    usize::from(asked.message().queries[0].query_type() == RecordType::AAAA)
}

fn step(asked: &Asked) -> String {
    asked.name().trim_end_matches('.').to_string()
}

/// When an answer comes. Go asks for its families in two threads, of which that with the last error decides; c-ares closes
/// the sockets of both where one's connection is refused.
fn comes_after(libc: Libc, row: &Row, answer: Answer, family: usize) -> Duration {
    let is_late = match libc {
        Libc::Go => answer == Servfail,
        Libc::CAres => !row.has_tcp && family == 1,
        _ => false,
    };
    if is_late { LATE } else { Duration::ZERO }
}

/// What a library does with a row.
fn recorded(libc: Libc, pod: &Pod, program: &Program, row: Row) -> (Questions, Outcome) {
    let server = Upstream::at(pod.listen().parse().unwrap(), row.has_tcp, move |asked| {
        let answer = row.answer(&step(asked), family(asked));
        let after = comes_after(libc, &row, answer, family(asked)).as_millis() as u64;
        packet(asked, &row).map(|packet| (after, packet)).into_iter().collect()
    });
    let words = pod.said(program, &[row.name])[row.name].clone();
    let outcome = match words[0].as_str() {
        "absent" => Outcome::NotFound,
        "failed" => Outcome::Failed,
        _ => Outcome::Addresses(words.iter().map(|word| word.parse().unwrap()).collect::<BTreeSet<_>>()),
    };
    // A question that nobody waited for may still be on its way; what is answered after it has come after it.
    udp_from(server.addr.ip(), server.addr, &query(LAST, RecordType::A)).unwrap();
    let over = |asked: &Asked| if asked.tcp { Over::Tcp } else { Over::Udp };
    let asked = server.asked();
    let asked = asked.iter().map(|one| (step(one), family(one), over(one))).filter(|one| one.0 != LAST);
    (count(asked), outcome)
}

/// A server that answers the model as the real one does the library.
#[derive(Clone)]
struct Scripted {
    libc: Libc,
    row: Row,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Server for Scripted {
    async fn ask(&self, question: Question) -> Option<Reply> {
        if question.over == Over::Tcp && !self.row.has_tcp {
            return None;
        }
        self.asked.lock().unwrap().push(question.clone());
        let answer = self.row.answer(&question.name, question.family);
        tokio::time::sleep(comes_after(self.libc, &self.row, answer, question.family)).await;
        match reply(answer, question.family, question.over) {
            Some(reply) => Some(reply),
            None => std::future::pending().await,
        }
    }
}

/// What the model does with a row.
fn modelled(libc: Libc, row: Row, (timeout, attempts): (Duration, u32)) -> (Questions, Outcome) {
    let conf = Conf { suffixes: SUFFIXES.map(String::from).into(), ndots: 5, timeout, attempts };
    let server = Scripted { libc, row, asked: Arc::default() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, libc.look_up(row.name, &conf, &server));
    let asked = server.asked.lock().unwrap().clone();
    (count(asked.into_iter().map(|one| (one.name, one.family, one.over))), outcome)
}

/// A row as a person reads it: how many questions, and what came of them.
fn told(row: Row, (questions, outcome): &(Questions, Outcome)) -> String {
    let sum = |range: std::ops::Range<usize>| {
        questions.iter().flat_map(|(_, counts)| counts[range.clone()].iter()).sum::<usize>()
    };
    let first = questions.first().map_or([0; 4], |(_, counts)| *counts);
    let (udp, tcp, steps) = (sum(0..2), sum(2..4), questions.len());
    format!(
        "{row:?}: {steps} steps, {udp} questions, {tcp} over TCP, {first:?} for the first step: {outcome:?}"
    )
}

fn behaves_as_modelled(libc: Libc, program: Option<Program>) {
    let Some(program) = program.filter(|_| need("ip")) else { return };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let compare = |pod: &Pod, row: Row, patience| {
        let model = modelled(libc, row, patience);
        // Where the machine stands still for half a second, the library asks again.
        let mut tries = (0..TRIES).map(|_| recorded(libc, pod, &program, row));
        let mut real = tries.next().unwrap();
        while real != model
            && let Some(again) = tries.next()
        {
            real = again;
        }
        println!("{libc:?} {}", told(row, &real));
        if real != model {
            wrong.lock().unwrap().push(format!("{row:?}\n  real {real:?}\n model {model:?}"));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| compare(&Pod::of("shop"), UNTOLD, libc.patience()));
        for _ in 0..PODS {
            scope.spawn(|| {
                let pod = Pod::of("shop");
                pod.add_options(OPTIONS);
                while let Some(row) = ROWS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compare(&pod, *row, (TIMEOUT, ATTEMPTS));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{libc:?}\n{}", wrong.join("\n"));
}

#[test]
fn glibc_behaves_as_modelled() {
    behaves_as_modelled(Libc::Glibc, Program::c("cc", &[]));
}

#[test]
fn musl_of_debian_behaves_as_modelled() {
    behaves_as_modelled(Libc::OldMusl, Program::c("musl-gcc", &["-static"]));
}

#[test]
fn a_newer_musl_behaves_as_modelled() {
    let program = Program::c("zig", &["cc", "-target", "x86_64-linux-musl", "-static"]);
    behaves_as_modelled(Libc::Musl, program);
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
