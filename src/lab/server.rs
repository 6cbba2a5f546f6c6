//! One of the lab's servers: a question, its fate, its answer.

use std::sync::Arc;

use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::opt::EdnsOption;
use hickory_server::proto::rr::{LowerName, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::Semaphore;

use super::counts::Counts;
use super::faults::{Fate, Faults, Mishaps};
use super::{Found, Told, cluster, internet};

/// Questions that may be under way: hickory-server starts a task for each without a bound of its own.
const UNDER_WAY: usize = 4096;
/// The largest answer over UDP.
const UDP_SIZE: u16 = 1232;
/// RFC 8914: the option, and the code for "no server that could know answered" with a text.
const EDE: (u16, &[u8]) = (15, b"\x00\x16the lab fails on purpose");

/// Which part of the lab this is.
pub enum Side {
    /// An authority for the cluster's zones.
    Cluster(cluster::Zone),
    /// A resolver for everything else.
    Internet,
}

/// A server's answers and faults.
pub struct Handler {
    name: &'static str,
    side: Side,
    mishaps: Mishaps,
    counts: Arc<Counts>,
    under_way: Semaphore,
}

impl Handler {
    /// A server by that name.
    pub fn new(name: &'static str, side: Side, faults: Faults, counts: Arc<Counts>) -> Handler {
        Handler { name, side, mishaps: Mishaps::new(faults), counts, under_way: Semaphore::new(UNDER_WAY) }
    }

    fn told(&self, request: &Request) -> Result<(Told, RecordType), ResponseCode> {
        if request.metadata.op_code != OpCode::Query {
            return Err(ResponseCode::NotImp);
        }
        let info = request.request_info().map_err(|_| ResponseCode::FormErr)?;
        let (name, qtype): (&LowerName, _) = (info.query.name(), info.query.query_type());
        let told = match &self.side {
            Side::Cluster(zone) => zone.find(name, qtype),
            Side::Internet => internet::find(name, qtype),
        };
        Ok((told, qtype))
    }

    async fn answer(&self, request: &Request, out: impl ResponseHandler) -> Option<ResponseInfo> {
        let (told, qtype) = match self.told(request) {
            Ok(told) => told,
            Err(code) => return self.send(request, out, code, &[], &[]).await,
        };
        let count =
            |change: fn(&mut super::counts::ZoneCounts)| self.counts.count(self.name, &told.zone, change);
        self.counts.count(self.name, &told.zone, |zone| zone.question(&qtype.to_string()));
        let Ok(_place) = self.under_way.try_acquire() else {
            count(|zone| zone.over_limit += 1);
            return None;
        };
        let datagram = request.protocol() == Protocol::Udp;
        let (after, servfail, lost) = match self.mishaps.fate(datagram, rand::random()) {
            Fate::Answer { after, servfail, lost } => (after, servfail, lost),
            Fate::Lost => {
                count(|zone| zone.lost += 1);
                return None;
            }
            Fate::OverLimit => {
                count(|zone| zone.over_limit += 1);
                return None;
            }
        };
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        if lost {
            count(|zone| zone.lost += 1);
            return None;
        }
        count(|zone| zone.answered += 1);
        let found = if servfail { Found::ServFail } else { told.found.clone() };
        match found {
            Found::NxDomain => count(|zone| zone.nxdomain += 1),
            Found::ServFail => count(|zone| zone.servfail += 1),
            _ => {}
        }
        let soa: Vec<Record> = told.soa.clone().into_iter().collect();
        match found {
            Found::Records(records) => self.send(request, out, ResponseCode::NoError, &records, &[]).await,
            Found::NoData(records) => self.send(request, out, ResponseCode::NoError, &records, &soa).await,
            Found::NxDomain => self.send(request, out, ResponseCode::NXDomain, &[], &soa).await,
            Found::Refused => self.send(request, out, ResponseCode::Refused, &[], &[]).await,
            Found::ServFail => self.send(request, out, ResponseCode::ServFail, &[], &[]).await,
        }
    }

    async fn send(
        &self,
        request: &Request,
        mut out: impl ResponseHandler,
        code: ResponseCode,
        answers: &[Record],
        authorities: &[Record],
    ) -> Option<ResponseInfo> {
        let mut meta = Metadata::response_from_request(&request.metadata);
        meta.response_code = code;
        match self.side {
            Side::Cluster(_) => meta.authoritative = code != ResponseCode::Refused,
            Side::Internet => meta.recursion_available = true,
        }
        let truncate = self.mishaps.truncates(request.protocol() == Protocol::Udp);
        let (answers, authorities) = if truncate { (&[][..], &[][..]) } else { (answers, authorities) };
        meta.truncation = truncate;
        let edns = request.edns.as_ref().map(|theirs| reply_edns(theirs, code));
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = builder.build(meta, answers, authorities, &[], &[]);
        out.send_response(response).await.ok()
    }
}

fn reply_edns(theirs: &Edns, code: ResponseCode) -> Edns {
    let mut ours = Edns::new();
    ours.set_max_payload(theirs.max_payload().clamp(512, UDP_SIZE));
    ours.set_version(0);
    ours.set_dnssec_ok(theirs.flags().dnssec_ok);
    if code == ResponseCode::ServFail {
        ours.options_mut().insert(EdnsOption::Unknown(EDE.0, EDE.1.to_vec()));
    }
    ours
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, out: R) -> ResponseInfo {
        let sent = self.answer(request, out).await;
        // What was not sent is still described to the server's log.
        sent.unwrap_or_else(|| {
            let metadata = Metadata::response_from_request(&request.metadata);
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}
