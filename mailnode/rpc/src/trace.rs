//! The trace id: a number that travels with a call from node to node, so that the logs of all nodes that took
//! part in one piece of work can be joined.
//!
//! It is task-local: calls made inside [`scope`] carry it, and a handler runs inside the scope of its request,
//! so it propagates by itself. `tokio::spawn` starts outside; wrap the future in `scope(current(), ..)`.

tokio::task_local! {
    static CURRENT: u64;
}

/// Runs a future with this trace id; 0 means none.
pub async fn scope<F: Future>(trace_id: u64, future: F) -> F::Output {
    CURRENT.scope(trace_id, future).await
}

/// The trace id of the task that runs now; 0 if it has none.
pub fn current() -> u64 {
    CURRENT.try_with(|id| *id).unwrap_or(0)
}
