//! HTTP for probes and scrapes: `/health`, `/ready`, `/metrics`. It shares nothing with the workers but counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::observe::metrics::Metrics;

/// What the pages show.
pub struct Admin {
    metrics: Metrics,
    ready: AtomicBool,
}

impl Admin {
    /// Not ready yet.
    pub fn new(metrics: Metrics) -> Admin {
        Admin { metrics, ready: AtomicBool::new(false) }
    }

    /// Says whether queries are taken.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// Serves the pages until the future is dropped.
///
/// # Errors
/// What made the listener unusable.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
    let pages = Router::new()
        .route("/", get(index))
        .route("/health", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, pages).await
}

async fn index() -> impl IntoResponse {
    let page = "<!doctype html><title>nodens</title><h1>nodens</h1><ul>\
        <li><a href=/health>/health</a> the process runs\
        <li><a href=/ready>/ready</a> it takes queries\
        <li><a href=/metrics>/metrics</a> for Prometheus</ul>\n";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page)
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    match admin.ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.text() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
