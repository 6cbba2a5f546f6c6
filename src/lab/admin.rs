//! The lab's pages: `/health` and `/counts`.

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use super::counts::{Counts, Snapshot};

/// Serves the pages until the task is aborted.
///
/// # Errors
/// What made the listener unusable.
pub async fn serve(listener: TcpListener, counts: Arc<Counts>) -> io::Result<()> {
    let pages =
        Router::new().route("/health", get(async || "ok\n")).route("/counts", get(show)).with_state(counts);
    axum::serve(listener, pages).await
}

async fn show(State(counts): State<Arc<Counts>>) -> Json<Snapshot> {
    Json(counts.snapshot())
}
