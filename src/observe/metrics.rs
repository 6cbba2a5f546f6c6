//! The counters as Prometheus reads them: one collector that sums the workers' cells when it is asked.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::cells::{Cells, Event, RCODES, Sum, TYPES};
use crate::cache::Level;
use crate::query::{Family, Proto};
use crate::resolve::Shared;
use crate::upstream::group::Figures;
use crate::wire::iana::Rcode;

/// Everything that is exported.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Exports what the workers count and what they share.
    ///
    /// # Errors
    /// A name that the registry does not take, which is a defect of this module.
    pub fn new(cells: Vec<Arc<Cells>>, shared: Arc<Shared>) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        registry.register(Box::new(Counters { cells, shared }))?;
        Ok(Metrics { registry })
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// What the encoder says of a metric without a name.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

struct Counters {
    cells: Vec<Arc<Cells>>,
    shared: Arc<Shared>,
}

/// A family made anew for each scrape: the cells are the truth, nothing is kept twice.
fn family(name: &str, help: &str, labels: &[&str], rows: Vec<(Vec<&str>, u64)>) -> Vec<MetricFamily> {
    let Ok(counter) = IntCounterVec::new(Opts::new(name, help), labels) else { return vec![] };
    for (values, count) in rows {
        counter.with_label_values(&values).inc_by(count);
    }
    counter.collect()
}

fn gauges(name: &str, help: &str, labels: &[&str], rows: Vec<(Vec<&str>, u64)>) -> Vec<MetricFamily> {
    let Ok(gauge) = IntGaugeVec::new(Opts::new(name, help), labels) else { return vec![] };
    for (values, value) in rows {
        gauge.with_label_values(&values).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    gauge.collect()
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        // An empty list is an unchecked collector: its families are described as they are collected.
        vec![]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [
            self.queries(),
            self.responses(),
            self.events(),
            self.search(),
            self.cache(),
            self.upstream(),
            self.budgets(),
            self.build(),
        ]
        .concat()
    }
}

impl Counters {
    fn queries(&self) -> Vec<MetricFamily> {
        let sum = Sum(&self.cells);
        let mut rows = Vec::new();
        for (proto, proto_name) in [(Proto::Udp, "udp"), (Proto::Tcp, "tcp")] {
            for (family, family_name) in [(Family::V4, "1"), (Family::V6, "2")] {
                for (place, (_, type_name)) in TYPES.iter().enumerate() {
                    let count = sum.queries(proto, family, place);
                    // A type that never came makes no series, but for the two that always do.
                    if count > 0 || place < 2 {
                        rows.push((vec![proto_name, family_name, *type_name], count));
                    }
                }
            }
        }
        family(
            "nodens_queries_total",
            "Queries by transport, address family (IANA number) and type.",
            &["proto", "family", "type"],
            rows,
        )
    }

    fn responses(&self) -> Vec<MetricFamily> {
        let sum = Sum(&self.cells);
        let names: Vec<String> = (0..RCODES as u16).map(|code| Rcode(code).to_string()).collect();
        let rows = names.iter().enumerate().map(|(place, name)| (vec![name.as_str()], sum.responses(place)));
        let rows =
            rows.enumerate().filter(|(place, (_, count))| *place <= 5 || *count > 0).map(|(_, row)| row);
        family("nodens_responses_total", "Responses by response code.", &["rcode"], rows.collect())
    }

    fn events(&self) -> Vec<MetricFamily> {
        let sum = Sum(&self.cells);
        let one = |event| sum.events(event);
        let plain = |name, help, event| family(name, help, &[], vec![(vec![], one(event))]);
        let hits = vec![(vec!["hot"], one(Event::HitHot)), (vec!["store"], one(Event::HitStore))];
        let stale =
            [("data", Event::StaleData), ("nodata", Event::StaleNoData), ("nxdomain", Event::StaleNxDomain)];
        let stale = stale.map(|(kind, event)| (vec![kind], one(event))).to_vec();
        let limits = vec![
            (vec!["waiting"], one(Event::LimitWaiting)),
            (vec!["client_waiting"], one(Event::LimitClientWaiting)),
            (vec!["connections"], one(Event::LimitConnections)),
            (vec!["client_connections"], one(Event::LimitClientConnections)),
        ];
        [
            family("nodens_cache_hits_total", "Queries answered from the cache, by level.", &["level"], hits),
            plain(
                "nodens_cache_misses_total",
                "Queries that no fresh answer in the cache could answer.",
                Event::Miss,
            ),
            family(
                "nodens_stale_total",
                "Answers given past their TTL for want of newer ones, by kind; misses too.",
                &["kind"],
                stale,
            ),
            plain(
                "nodens_prefetch_total",
                "Questions sent upstream for an answer in use before its end.",
                Event::Prefetched,
            ),
            plain("nodens_joined_total", "Misses that joined an equal question on its way.", Event::Joined),
            plain(
                "nodens_asked_again_total",
                "Questions sent upstream for a name that a client waits for.",
                Event::AskedAgain,
            ),
            plain(
                "nodens_denial_cut_total",
                "Questions answered by the denial of the name above.",
                Event::DenialCut,
            ),
            plain("nodens_dropped_total", "Packets that were no queries.", Event::Dropped),
            plain("nodens_unsent_total", "Replies that the system refused to send.", Event::Unsent),
            plain("nodens_panics_total", "Questions that ended in a panic.", Event::Panic),
            family("nodens_limit_reached_total", "Times that a bound was met.", &["limit"], limits),
        ]
        .concat()
    }

    fn search(&self) -> Vec<MetricFamily> {
        let sum = Sum(&self.cells);
        let walks = [
            ("composed", Event::SearchComposed),
            ("exists", Event::SearchExists),
            ("none_found", Event::SearchNoneFound),
            ("undecided", Event::SearchUndecided),
            ("late", Event::SearchLate),
            ("too_long", Event::SearchTooLong),
        ];
        let composed = self.shared.search.composed();
        let (known, proven) = self.shared.search.clients().count(self.shared.clock.now());
        let walks = walks.map(|(outcome, event)| (vec![outcome], sum.events(event))).to_vec();
        let plain = |name, help, count| family(name, help, &[], vec![(vec![], count)]);
        [
            family(
                "nodens_search_walks_total",
                "Walks through a search list, by outcome.",
                &["outcome"],
                walks,
            ),
            family(
                "nodens_search_composed_total",
                "Walks that ended with a composed answer, by namespace; beyond the first 128 together.",
                &["namespace"],
                composed.iter().map(|(namespace, count)| (vec![namespace.as_str()], *count)).collect(),
            ),
            plain(
                "nodens_search_literal_total",
                "First steps of a search that no rule allows to compose.",
                sum.events(Event::SearchByRule),
            ),
            plain(
                "nodens_search_saved_total",
                "Questions that clients need not ask since their search was cut short.",
                sum.saved(),
            ),
            gauges(
                "nodens_search_clients",
                "Addresses whose search lists are being learned, and those with one that is proven.",
                &["state"],
                vec![(vec!["learning"], known - proven), (vec!["proven"], proven)],
            ),
        ]
        .concat()
    }

    fn cache(&self) -> Vec<MetricFamily> {
        let usage = self.shared.cache.usage();
        let name = |level| match level {
            Level::Hot => "hot",
            Level::Store => "store",
        };
        let entries = usage.iter().map(|(level, entries, _)| (vec![name(*level)], *entries)).collect();
        let bytes = usage.iter().map(|(level, _, bytes)| (vec![name(*level)], *bytes)).collect();
        let evictions = self.shared.cache.evictions();
        let evictions = evictions.iter().map(|(reason, count)| (vec![*reason], *count)).collect();
        let waiting = vec![(vec![], u64::from(self.shared.waiting.count()))];
        let late = vec![(vec![], u64::from(self.shared.late.count()))];
        [
            gauges("nodens_cache_entries", "Answers held, by level.", &["level"], entries),
            gauges("nodens_cache_bytes", "Bytes of answers held, by level.", &["level"], bytes),
            family(
                "nodens_cache_evictions_total",
                "Answers dropped or not kept for want of room in the store, by reason.",
                &["reason"],
                evictions,
            ),
            gauges("nodens_waiting", "Questions that wait for upstream.", &[], waiting),
            gauges("nodens_late", "Questions given up whose late answers would still be kept.", &[], late),
        ]
        .concat()
    }

    fn upstream(&self) -> Vec<MetricFamily> {
        let zones = &self.shared.upstreams.zones;
        let servers = zones.servers();
        let names: Vec<String> = servers.iter().map(|server| server.endpoint.addr.to_string()).collect();
        let mut questions = Vec::new();
        let mut failures = Vec::new();
        let mut connections = Vec::new();
        let mut segments = Vec::new();
        for (server, name) in servers.iter().zip(&names) {
            for (over, count) in server.questions() {
                questions.push((vec![name.as_str(), over.name()], count));
            }
            for (why, count) in server.failures() {
                failures.push((vec![name.as_str(), why.name()], count));
            }
            for (outcome, count) in server.links.outcomes() {
                connections.push((vec![name.as_str(), outcome.name()], count));
            }
            segments.push((vec![name.as_str()], server.links.segments()));
        }
        let sizes: Vec<(String, u64)> =
            zones.iter().map(|zone| (zone.name.to_string(), zone.servers().members.len() as u64)).collect();
        let sources = zones.sources();
        let looks = sources.iter().flat_map(|source| {
            source.heard().map(|(heard, count)| (vec![source.text.as_str(), heard.name()], count))
        });
        [
            gauges(
                "nodens_upstream_servers",
                "Servers of a zone now, those of last resort apart.",
                &["zone"],
                sizes.iter().map(|(zone, count)| (vec![zone.as_str()], *count)).collect(),
            ),
            family(
                "nodens_upstream_sets_total",
                "Looks at where servers come from, by what they did to the set of servers.",
                &["source", "outcome"],
                looks.collect(),
            ),
            family(
                "nodens_upstream_questions_total",
                "Questions sent to a server, tries counted one by one.",
                &["server", "proto"],
                questions,
            ),
            family(
                "nodens_upstream_failures_total",
                "Tries and replies of a server that came to nothing, by reason.",
                &["server", "reason"],
                failures,
            ),
            family(
                "nodens_upstream_connections_total",
                "Connections to a server, by what became of them.",
                &["server", "outcome"],
                connections,
            ),
            family(
                "nodens_upstream_segments_total",
                "TCP segments sent to a server, as the kernel counts them.",
                &["server"],
                segments,
            ),
        ]
        .concat()
    }

    fn budgets(&self) -> Vec<MetricFamily> {
        let groups = self.shared.upstreams.zones.groups();
        let figures: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.figures())).collect();
        let each = |of: fn(&Figures) -> u64| -> Vec<_> {
            figures.iter().map(|(name, figures)| (vec![*name], of(figures))).collect()
        };
        let refused = figures
            .iter()
            .flat_map(|(name, figures)| figures.refused.map(|(why, count)| (vec![*name, why.name()], count)));
        let limited = figures.iter().filter_map(|(name, figures)| Some((*name, figures, figures.rate?)));
        let waiting = limited.clone().flat_map(|(name, figures, _)| {
            figures.waiting.map(|(class, count)| (vec![name, class.name()], count))
        });
        [
            family(
                "nodens_upstream_packets_total",
                "Packets sent to the servers of a budget, segments of streams included.",
                &["budget"],
                each(|figures| figures.sent),
            ),
            family(
                "nodens_upstream_answers_total",
                "Questions that the servers of a budget answered, tries counted one by one.",
                &["budget"],
                each(|figures| figures.answered),
            ),
            family(
                "nodens_upstream_retries_total",
                "Of the tries: those of a question that had been sent before.",
                &["budget"],
                each(|figures| figures.retries),
            ),
            family(
                "nodens_upstream_hedges_total",
                "Of the tries: those with a second server while the first was later than it mostly is.",
                &["budget"],
                each(|figures| figures.hedges),
            ),
            family(
                "nodens_upstream_refused_total",
                "Questions and retries that had no turn, by reason.",
                &["budget", "reason"],
                refused.collect(),
            ),
            gauges(
                "nodens_upstream_rate",
                "Packets a second that may be sent to the servers of a budget that has a limit.",
                &["budget"],
                limited.clone().map(|(name, _, rate)| (vec![name], rate)).collect(),
            ),
            gauges(
                "nodens_upstream_waiting",
                "Questions that wait for their turn, by class.",
                &["budget", "class"],
                waiting.collect(),
            ),
        ]
        .concat()
    }

    fn build(&self) -> Vec<MetricFamily> {
        let version = vec![(vec![env!("CARGO_PKG_VERSION")], 1)];
        gauges("nodens_build_info", "The version that runs.", &["version"], version)
    }
}
