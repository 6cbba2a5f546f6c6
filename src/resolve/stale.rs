//! Answers past their end, given where nothing newer can be had (RFC 8767).

use std::time::Duration;

use super::{Client, Resolver, miss};
use crate::cache::entry::Entry;
use crate::cache::ttl::STALE_TTL;
use crate::observe::cells::Event;
use crate::observe::ring::From;
use crate::wire::answer::Kind;
use crate::wire::edns::extended_error;
use crate::wire::iana::InfoCode;
use crate::wire::question::Question;
use crate::wire::reply::{self, Asked};

/// How long a client waits for a newer answer than a stale one, the client response timer (RFC 8767 section 5), counted
/// once for each of its questions whatever steps that takes.
pub const CLIENT_RESPONSE: Duration = Duration::from_millis(1800);

/// Octets of [`stale_error`]: option code, length, info code (RFC 8914 section 2).
pub const STALE_ERROR_LEN: usize = 6;

/// The extended error of a stale answer of a kind (RFC 8914 sections 4.4 and 4.20).
pub fn stale_error(kind: Kind) -> Vec<u8> {
    let code = if kind == Kind::NxDomain { InfoCode::STALE_NXDOMAIN_ANSWER } else { InfoCode::STALE_ANSWER };
    extended_error(code, "")
}

impl Resolver {
    /// Writes a stale answer that was asked for at one time and is given at another, and counts it.
    pub(super) fn write_stale(
        &self,
        out: &mut [u8],
        asked: &Asked<'_>,
        entry: &Entry,
        client: Client,
        times_us: [u64; 2],
    ) -> usize {
        let said = entry.said();
        self.cells.event(match entry.kind() {
            Kind::NxDomain => Event::StaleNxDomain,
            Kind::NoData => Event::StaleNoData,
            Kind::Data | Kind::Failure => Event::StaleData,
        });
        if entry.kind() != Kind::Data
            && let Some(question) = Question::read(said.wire)
        {
            // The bar that came with the denial has ended as the denial has.
            miss::bar(self, question.qname(), Duration::ZERO, client.ip());
        }
        self.answered(asked, client, said.rcode, From::Stale, times_us);
        let ttl = u32::try_from(STALE_TTL.as_secs()).unwrap_or(u32::MAX);
        reply::write_stale(out, asked, &said, &stale_error(entry.kind()), ttl)
    }
}
