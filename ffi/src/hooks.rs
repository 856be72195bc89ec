//! Exports that provoke a panic, for the C tests. Not in the header, not in an artifact.

use crate::call::{Call, guard};
use crate::error::{deepseek_error, deepseek_status};
use crate::graph::deepseek_graph;
use crate::session::deepseek_session;
use deepseek::RunOptions;

/// Panics while it is inside a graph, if there is one, else inside a run of a session, if
/// there is one, else in no object. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_test_panic(
    graph: *mut deepseek_graph,
    session: *const deepseek_session,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let _entered = match graph.is_null() {
            true => None,
            false => Some(call.get(graph, "graph")?.enter()?),
        };
        if let Some(session) = call.peek(session) {
            let inputs = std::iter::once_with(|| panic!("provoked inside a session"));
            session.session.run(inputs, &RunOptions::default())?;
        }
        panic!("provoked")
    })
}
