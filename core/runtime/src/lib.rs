//! When and where things run, and in whose memory.
//!
//! A [`Runtime`] holds what the whole process shares: threads, instruction set, byte
//! budget. [`Plan::new`] lowers a graph for it: a kernel for each node from the
//! [`registry`], constant weights packed, a memory plan over symbolic extents. A
//! [`Session`] owns the working memory to run a plan, one call at a time; sessions
//! over one plan share nothing that is written, so they run at the same time.
//!
//! This crate parses no file and contains no maths: kernels live in
//! `deepseek-kernels-cpu`, meaning in `deepseek-graph`.

mod arena;
mod blocked;
mod cancel;
mod exec;
mod kernels;
mod lower;
mod packs;
mod plan;
mod pool;
pub mod precision;
mod profile;
mod ragged;
pub mod registry;
mod rows;
mod runtime;
mod sequences;
mod session;

use deepseek_graph::Graph;
use deepseek_graph::passes::{Diagnostics, Level as Verbosity, Pipeline};
use deepseek_tensor::Result;

/// The portable passes that every model goes through before it is lowered.
///
/// # Errors
/// What a pass reports.
pub fn prepare(graph: Graph) -> Result<Graph> {
    let mut diagnostics = Diagnostics::new(Verbosity::Off);
    Ok(Pipeline::portable().run(&graph, &mut diagnostics)?.graph)
}

pub use cancel::Cancel;
pub use deepseek_kernels_cpu::{Isa, Level};
pub use lower::{LowerOptions, lower};
pub use packs::{Packs, Storable, packed_constants, packed_for};
pub use plan::{MemoryReport, Plan, PlannedKind, PlannedSpan, PlannedValue};
pub use pool::{ActiveRun, ThreadPool};
pub use profile::{Profile, ProfileEvent, ProfileTensor};
pub use ragged::{PackedBatch, Ragged};
pub use rows::Cut;
pub use runtime::{Runtime, RuntimeOptions};
pub use session::{RunOptions, RunResult, Session};
