//! The command line: arguments and environment, as one layer of configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use nodens::config::error::{ConfigError, Source};
use nodens::config::raw::{Raw, RawForward, Written};

const EXAMPLES: &str = "\
Examples:
  nodens serve --lab                               everything in one process, to try it out
  nodens serve --upstream udp://192.0.2.53         in front of one resolver
  nodens serve --listen 169.254.20.10:53 --upstream resolv.conf \\
               --forward cluster.local=udp://10.96.0.10
  nodens serve --config /etc/nodens.toml           flags come before the file
  nodens check --config /etc/nodens.toml           what it means and uses at most
  nodens lab --latency 20ms --rate-limit 1024      a cluster and an internet to test against";

const SERVE_EXAMPLES: &str = "\
Examples:
  nodens serve --lab
      then: dig @127.0.0.1 -p 1053 www.example.com
  nodens serve --upstream udp://192.0.2.53 --upstream tcp://192.0.2.54:53
  nodens serve --forward cluster.local=udp://10.96.0.10 --forward corp=udp://10.0.0.2,udp://10.0.0.3
  nodens serve --upstream 'tls://192.0.2.53#dns.example' --ca-file /etc/company-ca.pem
  NODENS_CACHE_SIZE=256MiB nodens serve --config /etc/nodens.toml

It ends with 0 after SIGTERM or SIGINT, 1 where it cannot serve, 2 where arguments or configuration are wrong.";

/// A caching DNS proxy for every node of a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "nodens", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer queries until told to stop
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Check a configuration; print what it means and what it can use at most
    #[command(
        after_help = "Examples:\n  nodens check --config /etc/nodens.toml\n  nodens check --json --cache-size 1GiB"
    )]
    Check(Check),
    /// Run a cluster DNS and an internet to try nodens on, with faults on demand
    #[command(after_help = LAB_EXAMPLES)]
    Lab(Lab),
}

const LAB_EXAMPLES: &str = "\
Examples:
  nodens lab
      then: nodens serve --upstream udp://127.0.0.1:5301 --forward cluster.local=udp://127.0.0.1:5300
  nodens lab --latency 20ms --jitter 10ms --loss 0.1
  nodens lab --rate-limit 1024 --admin 127.0.0.1:9300
      then: curl http://127.0.0.1:9300/counts";

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Start the lab in this process and forward to it
    #[arg(long, env = "NODENS_LAB", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) lab: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Print JSON instead of TOML
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "NODENS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Address to answer on, UDP and TCP; may be repeated [default: 127.0.0.1:1053]
    #[arg(long, value_name = "ADDR:PORT", env = "NODENS_LISTEN", value_delimiter = ',')]
    listen: Vec<String>,
    /// Server for all names without a zone of their own: udp://IP[:PORT], tcp://IP[:PORT], tls://IP[:PORT]#NAME,
    /// https://IP[:PORT][/PATH]#NAME, headless://NAME[:PORT]?bootstrap=IP[:PORT] or resolv.conf; may be repeated
    /// [default: resolv.conf]
    #[arg(long, value_name = "URL", env = "NODENS_UPSTREAM", value_delimiter = ',')]
    upstream: Vec<String>,
    /// Packets a second that may be sent to the servers for all names: adaptive, aws, alibaba, none or such as 1000/s
    /// [default: adaptive for resolv.conf, else none]
    #[arg(long, value_name = "BUDGET", env = "NODENS_UPSTREAM_BUDGET")]
    upstream_budget: Option<String>,
    /// Servers for a zone; may be repeated (in the environment: separated by ;)
    #[arg(long, value_name = "ZONE=URL[,URL]", env = "NODENS_FORWARD", value_delimiter = ';')]
    forward: Vec<String>,
    /// File of certificates (PEM) of the authorities that vouch for servers inside TLS [default: a built-in list]
    #[arg(long, value_name = "FILE", env = "NODENS_CA_FILE")]
    ca_file: Option<String>,
    /// Zone of the cluster [default: cluster.local]
    #[arg(long, value_name = "NAME", env = "NODENS_CLUSTER_DOMAIN")]
    cluster_domain: Option<String>,
    /// Search short circuit: learn who searches where from what he asks, static for one list that every client has,
    /// or off [default: learn]
    #[arg(long, value_name = "MODE", env = "NODENS_SEARCH")]
    search: Option<String>,
    /// For static: NAMESPACE.svc.ZONE,svc.ZONE,ZONE and the host's own domains; for learn: the host's own domains
    /// [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "D,D,...", env = "NODENS_SEARCH_LIST", value_delimiter = ',')]
    search_list: Vec<String>,
    /// A name that the cluster DNS denies denies all names below it, inside a namespace; unsafe where it makes names up
    #[arg(long, env = "NODENS_DENIAL_CUT", value_parser = clap::builder::BoolishValueParser::new())]
    denial_cut: bool,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", env = "NODENS_WORKERS")]
    workers: Option<String>,
    /// Memory for answers, such as 64MiB [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "NODENS_CACHE_SIZE")]
    cache_size: Option<String>,
    /// How long past its TTL an answer may be given where nothing newer can be had, such as 1d, or 0 for never
    /// [default: 1d]
    #[arg(long, value_name = "TIME", env = "NODENS_MAX_STALE")]
    max_stale: Option<String>,
    /// Address of /health, /ready and /metrics, or off [default: 127.0.0.1:9253]
    #[arg(long, value_name = "ADDR:PORT|off", env = "NODENS_ADMIN")]
    admin: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Address of the cluster DNS
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5300", env = "NODENS_LAB_CLUSTER")]
    pub(crate) cluster: SocketAddr,
    /// Address of the internet
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5301", env = "NODENS_LAB_INTERNET")]
    pub(crate) internet: SocketAddr,
    /// Zone of the cluster
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "NODENS_LAB_CLUSTER_DOMAIN")]
    pub(crate) cluster_domain: String,
    /// Address of /counts (JSON), or off
    #[arg(long, value_name = "ADDR:PORT|off", default_value = "127.0.0.1:9300", env = "NODENS_LAB_ADMIN")]
    pub(crate) admin: String,
    /// Time before each answer, such as 20ms
    #[arg(long, value_name = "TIME", default_value = "0ms", env = "NODENS_LAB_LATENCY")]
    pub(crate) latency: String,
    /// Up to so much more, evenly spread
    #[arg(long, value_name = "TIME", default_value = "0ms", env = "NODENS_LAB_JITTER")]
    pub(crate) jitter: String,
    /// Part of the datagrams lost each way, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, env = "NODENS_LAB_LOSS")]
    pub(crate) loss: f64,
    /// Part of the questions answered SERVFAIL, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, env = "NODENS_LAB_SERVFAIL")]
    pub(crate) servfail: f64,
    /// Datagrams a second that each server takes; what is over is dropped, as a VPC resolver does
    #[arg(long, value_name = "PPS", env = "NODENS_LAB_RATE_LIMIT")]
    pub(crate) rate_limit: Option<std::num::NonZeroU32>,
    /// Answer every datagram with TC and nothing else
    #[arg(long, env = "NODENS_LAB_TRUNCATE", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) truncate: bool,
    /// Print the counts at the end as JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cli {
    /// Reads arguments and environment; the matches tell which of the two a value came from.
    pub(crate) fn read() -> Result<(Cli, ArgMatches), clap::Error> {
        let matches = Cli::command().try_get_matches()?;
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    }
}

impl Settings {
    /// The layer that arguments and environment make.
    ///
    /// # Errors
    /// A value whose form is wrong before it can be one.
    pub(crate) fn layer(&self, matches: &ArgMatches) -> Result<Raw, ConfigError> {
        let at = |id: &str| place(matches, id);
        let text = |value: &Option<String>, id: &str| {
            value.as_ref().map(|value| Written { value: value.clone(), at: at(id) })
        };
        let list = |value: &[String], id: &str| {
            (!value.is_empty()).then(|| Written { value: value.to_vec(), at: at(id) })
        };
        Ok(Raw {
            listen: list(&self.listen, "listen"),
            workers: self.workers.as_deref().map(|text| workers(text, at("workers"))).transpose()?,
            cache_size: text(&self.cache_size, "cache_size"),
            max_ttl: None,
            max_negative_ttl: None,
            max_stale: text(&self.max_stale, "max_stale"),
            search: text(&self.search, "search"),
            search_list: list(&self.search_list, "search_list"),
            denial_cut: self.denial_cut.then(|| Written { value: true, at: at("denial_cut") }),
            cluster_domain: text(&self.cluster_domain, "cluster_domain"),
            admin: text(&self.admin, "admin"),
            ca_file: text(&self.ca_file, "ca_file"),
            upstream_budget: text(&self.upstream_budget, "upstream_budget"),
            forward: self.forwards(&at)?,
        })
    }

    fn forwards(&self, at: &dyn Fn(&str) -> Source) -> Result<Vec<RawForward>, ConfigError> {
        let mut all = Vec::new();
        if !self.upstream.is_empty() {
            let upstreams = Written { value: self.upstream.clone(), at: at("upstream") };
            let zone = Written { value: ".".into(), at: at("upstream") };
            all.push(RawForward::new(zone, upstreams));
        }
        for text in &self.forward {
            let (zone, urls) = text.split_once('=').ok_or_else(|| ConfigError {
                at: at("forward"),
                key: "forward".into(),
                found: format!("{text:?}"),
                allowed: "ZONE=URL[,URL], such as cluster.local=udp://10.96.0.10".into(),
            })?;
            let upstreams = urls.split(',').map(Into::into).collect();
            all.push(RawForward::new(
                Written { value: zone.into(), at: at("forward") },
                Written { value: upstreams, at: at("forward") },
            ));
        }
        Ok(all)
    }
}

fn workers(text: &str, at: Source) -> Result<Written<i64>, ConfigError> {
    match text.parse() {
        Ok(value) => Ok(Written { value, at }),
        Err(_) => Err(ConfigError {
            at,
            key: "server.workers".into(),
            found: format!("{text:?}"),
            allowed: format!("a whole number from 1 to {}", nodens::limits::MAX_WORKERS),
        }),
    }
}

fn place(matches: &ArgMatches, id: &str) -> Source {
    let flag = id.replace('_', "-");
    let source = matches.subcommand().and_then(|(_, matches)| matches.value_source(id));
    match source {
        Some(ValueSource::EnvVariable) => Source::Environment(format!("NODENS_{}", id.to_uppercase())),
        _ => Source::Flag(format!("--{flag}")),
    }
}
