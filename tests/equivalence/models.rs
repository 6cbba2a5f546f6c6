//! Four stub resolvers as their public sources and their behaviour on the wire show them: what each makes of every pair
//! of answers, and what it gives its program in the end.
//!
//! `tests/it/libraries.rs` holds them against the real ones. Each look-up asks for A and AAAA at once. Retries of one question are left out: the worlds do not change within a look-up.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// An answer as a stub resolver reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The response code.
    pub rcode: u8,
    /// The answer section has records.
    pub has_answers: bool,
    /// Addresses at the end of the aliases.
    pub addresses: Vec<IpAddr>,
}

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// What a program gets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// These addresses.
    Addresses(BTreeSet<IpAddr>),
    /// There is no such name, or it has no address.
    NotFound,
    /// Try again later, or never.
    Failed,
}

/// A stub resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Glibc,
    Musl,
    Go,
    CAres,
}

/// What a step means for the search.
enum Step {
    End(Outcome),
    On,
}

/// What a search remembers of its steps.
#[derive(Default)]
struct Memory {
    no_data: bool,
    servfail: bool,
    last_failed: bool,
    /// No further search step, straight to the bare name.
    straight: bool,
}

fn both(replies: &[Reply; 2]) -> Outcome {
    Outcome::Addresses(replies.iter().flat_map(|reply| reply.addresses.iter().copied()).collect())
}

fn any(replies: &[Reply; 2]) -> bool {
    replies.iter().any(|reply| !reply.addresses.is_empty())
}

impl Libc {
    /// Resolves a name through a list of suffixes with `ndots:5`; `ask` answers A and AAAA of a name.
    pub async fn look_up(
        self,
        name: &str,
        suffixes: &[String],
        ask: &mut impl AsyncFnMut(&str) -> [Reply; 2],
    ) -> Outcome {
        let many_dots = name.matches('.').count() >= 5;
        let mut memory = Memory::default();
        let mut names: Vec<String> = suffixes.iter().map(|suffix| format!("{name}.{suffix}")).collect();
        match (self, many_dots) {
            // musl does not search for a name with dots enough.
            (Libc::Musl, true) => names = vec![name.to_string()],
            (_, true) => names.insert(0, name.to_string()),
            (_, false) => names.push(name.to_string()),
        }
        for step in &names {
            // A name that is too long is none of the candidates.
            if step.len() > 253 || memory.straight && step != name {
                continue;
            }
            let replies = ask(step).await;
            if let Step::End(outcome) = self.step(&replies, &mut memory) {
                return outcome;
            }
        }
        self.end(&memory)
    }

    fn step(self, replies: &[Reply; 2], memory: &mut Memory) -> Step {
        match self {
            Libc::Glibc => glibc(replies, memory),
            Libc::Musl => musl(replies),
            Libc::Go => go(replies, memory),
            Libc::CAres => c_ares(replies, memory),
        }
    }

    /// The search has come to its end without an address.
    fn end(self, memory: &Memory) -> Outcome {
        let failed = match self {
            Libc::Glibc => !memory.no_data && (memory.servfail || memory.last_failed),
            Libc::Go => memory.last_failed,
            Libc::Musl | Libc::CAres => false,
        };
        if failed { Outcome::Failed } else { Outcome::NotFound }
    }
}

/// res_query and res_search of glibc: a pair is a success where either has an answer section, an alias included.
fn glibc(replies: &[Reply; 2], memory: &mut Memory) -> Step {
    if replies.iter().any(|reply| reply.rcode == NOERROR && reply.has_answers) {
        return Step::End(if any(replies) { both(replies) } else { Outcome::NotFound });
    }
    let code = if replies[0].rcode == NOERROR { replies[1].rcode } else { replies[0].rcode };
    memory.last_failed = false;
    match code {
        NOERROR => memory.no_data = true,
        NXDOMAIN => {}
        SERVFAIL => (memory.servfail, memory.last_failed) = (true, true),
        _ => (memory.straight, memory.last_failed) = (true, true),
    }
    Step::On
}

/// name_from_dns of musl: A is looked at first, a denial of either family goes on, a failure of either ends it.
fn musl(replies: &[Reply; 2]) -> Step {
    for reply in replies {
        match reply.rcode {
            NOERROR => {}
            NXDOMAIN => return Step::On,
            _ => return Step::End(Outcome::Failed),
        }
    }
    Step::End(if any(replies) { both(replies) } else { Outcome::NotFound })
}

/// goLookupIPCNAMEOrder: the first name with an address ends it; the last error counts.
fn go(replies: &[Reply; 2], memory: &mut Memory) -> Step {
    if any(replies) {
        return Step::End(both(replies));
    }
    let failed = |reply: &Reply| !matches!(reply.rcode, NOERROR | NXDOMAIN);
    memory.last_failed = replies.iter().any(failed);
    Step::On
}

/// ares_getaddrinfo: an address ends it, a failure of the family that answers last too.
fn c_ares(replies: &[Reply; 2], memory: &mut Memory) -> Step {
    if any(replies) {
        return Step::End(both(replies));
    }
    if replies.iter().any(|reply| !matches!(reply.rcode, NOERROR | NXDOMAIN)) {
        return Step::End(Outcome::Failed);
    }
    memory.no_data |= replies.iter().any(|reply| reply.rcode == NOERROR);
    Step::On
}
