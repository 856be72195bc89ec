//! From a prepared graph to a plan: blocks of rows, a byte budget.

use crate::plan::Plan;
use crate::runtime::Runtime;
use deepseek_graph::passes::{CutRows, DeadCode, Diagnostics, Level, Pipeline};
use deepseek_graph::{Bindings, Graph};
use deepseek_tensor::{Code, Result, bail};

/// How [`lower`] makes a plan.
#[derive(Clone, Debug, Default)]
pub struct LowerOptions {
    /// Run nothing in blocks of rows, unless a budget asks for it.
    pub whole: bool,
    /// Bytes that a run may take beyond the constants; 0 sets no bound. A run at extents that
    /// take more is refused.
    pub memory_budget_bytes: u64,
    /// Extents at which the budget must hold: values of the graph's symbols. Where there are
    /// none, the upper bounds of the symbols count.
    pub at: Option<Bindings>,
}

/// Cuts whatever saves memory, into blocks of at most so many rows.
pub(crate) fn fine(max_rows: u64) -> CutRows {
    CutRows { max_rows, min_rows: 1, min_row_bytes: 0, min_ratio: 1.0, ..CutRows::default() }
}

/// Ways to cut a graph, the fastest first, each of less memory than those before it.
fn ways(whole: bool) -> Vec<Vec<CutRows>> {
    let coarse = |max_rows| CutRows { block_bytes: u64::MAX, coarse: true, ..fine(max_rows) };
    let mut ways = if whole { vec![vec![]] } else { Vec::new() };
    ways.push(vec![CutRows::default()]);
    ways.extend([240, 120, 72, 24].map(|rows| vec![fine(rows)]));
    ways.extend([16, 4, 1].map(|rows| vec![coarse(rows), fine(72)]));
    ways.push(vec![coarse(1), fine(1)]);
    ways
}

/// Cuts `graph`, as [`prepare`](crate::prepare) has made it, into blocks of rows where that costs
/// no time or where the budget demands it, and lowers it for `runtime`.
///
/// # Errors
/// What passes and lowering report; `BudgetExceeded` naming the least number of bytes that
/// would do, if no way of cutting fits the budget at the extents it must hold for.
pub fn lower(graph: &Graph, runtime: &Runtime, options: &LowerOptions) -> Result<Plan> {
    let plans = ways(options.whole).into_iter().map(|way| Plan::new(cut(graph, &way)?, runtime));
    first_that_fits(plans, options)
}

/// The first of `plans` that keeps within the budget, made as they are asked for.
///
/// # Errors
/// As [`lower`].
pub(crate) fn first_that_fits(
    plans: impl Iterator<Item = Result<Plan>>,
    options: &LowerOptions,
) -> Result<Plan> {
    let budget = options.memory_budget_bytes;
    let mut least: Option<u64> = None;
    // The plan before lives until the next is made, which shares its packed weights.
    let mut before: Option<Plan> = None;
    for plan in plans {
        let mut plan = plan?;
        drop(before.take());
        let bytes = match &options.at {
            Some(at) => plan.memory(at).map(|r| r.planned_bytes()),
            None => plan.memory_within_bounds().map(|r| r.planned_bytes()),
        };
        plan.limit(budget);
        match bytes {
            _ if budget == 0 => return Ok(plan),
            // Without bounds there is nothing to hold the budget against before a run.
            Err(e) if e.code() == Code::InvalidArgument && options.at.is_none() => return Ok(plan),
            Err(e) => return Err(e),
            Ok(bytes) if bytes <= budget => return Ok(plan),
            Ok(bytes) => least = Some(least.map_or(bytes, |l| l.min(bytes))),
        }
        before = Some(plan);
    }
    let least = least.unwrap_or(0);
    bail!(
        BudgetExceeded,
        "a run takes {least} bytes at least, however it is cut, and memory_budget_bytes is \
         {budget}; raise it to {least}, or lower the extents it must hold for"
    )
}

/// The graph cut by each of `way` in turn.
pub(crate) fn cut(graph: &Graph, way: &[CutRows]) -> Result<Graph> {
    let mut graph = graph.clone();
    for pass in way {
        let pipeline = Pipeline::new(Vec::new()).with(pass.clone()).with(DeadCode);
        graph = pipeline.max_rounds(4).run(&graph, &mut Diagnostics::new(Level::Off))?.graph;
    }
    Ok(graph)
}
