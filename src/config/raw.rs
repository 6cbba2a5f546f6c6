//! A configuration as written: values with their places, nothing understood yet.

use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Source};

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Source,
}

/// One layer of configuration: a file, or the command line with the environment.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// `server.listen`
    pub listen: Option<Written<Vec<String>>>,
    /// `server.workers`
    pub workers: Option<Written<i64>>,
    /// `cache.size`
    pub cache_size: Option<Written<String>>,
    /// `cache.max_ttl`
    pub max_ttl: Option<Written<String>>,
    /// `cache.max_negative_ttl`
    pub max_negative_ttl: Option<Written<String>>,
    /// `cache.max_stale`
    pub max_stale: Option<Written<String>>,
    /// `search.mode`
    pub search: Option<Written<String>>,
    /// `search.list`
    pub search_list: Option<Written<Vec<String>>>,
    /// `search.denial_cut`
    pub denial_cut: Option<Written<bool>>,
    /// `search.cluster_domain`
    pub cluster_domain: Option<Written<String>>,
    /// `admin.listen`
    pub admin: Option<Written<String>>,
    /// `tls.ca_file`
    pub ca_file: Option<Written<String>>,
    /// The `budget` of the zone `.`, whichever layer has that zone
    pub upstream_budget: Option<Written<String>>,
    /// `[[forward]]`, in the order written
    pub forward: Vec<RawForward>,
}

/// One `[[forward]]`.
#[derive(Clone, Debug)]
pub struct RawForward {
    /// The zone's name.
    pub zone: Written<String>,
    /// Its servers' URLs.
    pub upstreams: Written<Vec<String>>,
    /// Its file of authorities.
    pub ca_file: Option<Written<String>>,
    /// What its servers may be sent.
    pub budget: Option<Written<String>>,
    /// With whom they share it.
    pub budget_group: Option<Written<String>>,
}

impl RawForward {
    /// One of which only this is written.
    pub fn new(zone: Written<String>, upstreams: Written<Vec<String>>) -> RawForward {
        RawForward { zone, upstreams, ca_file: None, budget: None, budget_group: None }
    }
}

impl Raw {
    /// This layer over an earlier one.
    pub fn over(mut self, earlier: Raw) -> Raw {
        let same = |one: &RawForward, other: &RawForward| {
            let plain = |zone: &str| zone.trim_end_matches('.').to_ascii_lowercase();
            plain(&one.zone.value) == plain(&other.zone.value)
        };
        let kept = earlier.forward.into_iter().filter(|old| !self.forward.iter().any(|new| same(new, old)));
        let mut forward: Vec<_> = kept.collect();
        forward.append(&mut self.forward);
        Raw {
            listen: self.listen.or(earlier.listen),
            workers: self.workers.or(earlier.workers),
            cache_size: self.cache_size.or(earlier.cache_size),
            max_ttl: self.max_ttl.or(earlier.max_ttl),
            max_negative_ttl: self.max_negative_ttl.or(earlier.max_negative_ttl),
            max_stale: self.max_stale.or(earlier.max_stale),
            search: self.search.or(earlier.search),
            search_list: self.search_list.or(earlier.search_list),
            denial_cut: self.denial_cut.or(earlier.denial_cut),
            cluster_domain: self.cluster_domain.or(earlier.cluster_domain),
            admin: self.admin.or(earlier.admin),
            ca_file: self.ca_file.or(earlier.ca_file),
            upstream_budget: self.upstream_budget.or(earlier.upstream_budget),
            forward,
        }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// The first place where it is no TOML, has an unknown key or a value of the wrong type.
    pub fn from_toml(path: &str, text: &str) -> Result<Raw, ConfigError> {
        let places = Places { path, text };
        let tree = toml::Deserializer::parse(text).map_err(|error| places.syntax(&error))?;
        let file: File = serde_path_to_error::deserialize(tree).map_err(|error| places.structure(&error))?;
        Ok(file.written(&places))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: ServerTable,
    cache: CacheTable,
    search: SearchTable,
    admin: AdminTable,
    tls: TlsTable,
    forward: Vec<ForwardTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServerTable {
    listen: Option<Spanned<Vec<String>>>,
    workers: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CacheTable {
    size: Option<Spanned<String>>,
    max_ttl: Option<Spanned<String>>,
    max_negative_ttl: Option<Spanned<String>>,
    max_stale: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SearchTable {
    mode: Option<Spanned<String>>,
    list: Option<Spanned<Vec<String>>>,
    denial_cut: Option<Spanned<bool>>,
    cluster_domain: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdminTable {
    listen: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsTable {
    ca_file: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForwardTable {
    zone: Spanned<String>,
    upstreams: Spanned<Vec<String>>,
    ca_file: Option<Spanned<String>>,
    budget: Option<Spanned<String>>,
    budget_group: Option<Spanned<String>>,
}

impl File {
    fn written(self, places: &Places<'_>) -> Raw {
        Raw {
            listen: places.optional(self.server.listen),
            workers: places.optional(self.server.workers),
            cache_size: places.optional(self.cache.size),
            max_ttl: places.optional(self.cache.max_ttl),
            max_negative_ttl: places.optional(self.cache.max_negative_ttl),
            max_stale: places.optional(self.cache.max_stale),
            search: places.optional(self.search.mode),
            search_list: places.optional(self.search.list),
            denial_cut: places.optional(self.search.denial_cut),
            cluster_domain: places.optional(self.search.cluster_domain),
            admin: places.optional(self.admin.listen),
            ca_file: places.optional(self.tls.ca_file),
            upstream_budget: None,
            forward: self.forward.into_iter().map(|table| places.forward(table)).collect(),
        }
    }
}

struct Places<'t> {
    path: &'t str,
    text: &'t str,
}

impl Places<'_> {
    fn at(&self, offset: usize) -> Source {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Source::File { path: self.path.into(), line, column }
    }

    fn optional<T>(&self, spanned: Option<Spanned<T>>) -> Option<Written<T>> {
        spanned.map(|spanned| self.one(spanned))
    }

    fn one<T>(&self, spanned: Spanned<T>) -> Written<T> {
        Written { at: self.at(spanned.span().start), value: spanned.into_inner() }
    }

    fn forward(&self, table: ForwardTable) -> RawForward {
        RawForward {
            zone: self.one(table.zone),
            upstreams: self.one(table.upstreams),
            ca_file: self.optional(table.ca_file),
            budget: self.optional(table.budget),
            budget_group: self.optional(table.budget_group),
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        let found = self.line_from(start);
        ConfigError {
            at: self.at(start),
            key: "the file".into(),
            found,
            allowed: format!("TOML ({})", error.message().replace('\n', ", ")),
        }
    }

    fn structure(&self, error: &serde_path_to_error::Error<toml::de::Error>) -> ConfigError {
        let span = error.inner().span().unwrap_or(0..0);
        let found = self.text.get(span.clone()).and_then(|text| text.lines().next()).unwrap_or_default();
        let path = error.path().to_string();
        let key: Vec<&str> = path.split('.').filter(|part| !part.starts_with("$__")).collect();
        let mut key = key.join(".");
        let message = error.inner().message();
        let allowed = match message.split_once("expected ") {
            Some((_, keys)) if message.starts_with("unknown field") => {
                format!("the keys {}", keys.replace("one of ", ""))
            }
            Some((_, expected)) => readable(expected),
            None => message.to_string(),
        };
        // For an unknown key serde's path ends at its table or at the key, and the span is the key's.
        if message.starts_with("unknown field") && key.rsplit('.').next() != Some(found) {
            key = if key.is_empty() || key == "." { found.into() } else { format!("{key}.{found}") };
        }
        let found = if message.starts_with("missing field") { "nothing" } else { found };
        ConfigError { at: self.at(span.start), key, found: format!("`{found}`"), allowed }
    }

    fn line_from(&self, start: usize) -> String {
        let rest = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        format!("`{}`", rest.trim())
    }
}

/// serde's names of Rust types in a configuration's words.
fn readable(expected: &str) -> String {
    match expected {
        "i64" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a string" => "a text in quotes".into(),
        "a sequence" => "a list of texts, such as [\"one\", \"two\"]".into(),
        other => other.into(),
    }
}
