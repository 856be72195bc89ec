//! The precision compiler: which layers of a model in `f32` compute in less, under an accuracy budget.
//!
//! [`compile`] runs the model over calibration samples, chooses ranges from what it sees, compares each
//! layer on bytes with itself in `f32`, and takes the assignment that was asked for. `auto` also runs
//! both models against each other: a layer that is not faster on this machine stays in `f32`, and while
//! the accuracy budget is not met, the layers that lose most go back. The [`PrecisionReport`] says what
//! was chosen and why.

mod choose;
mod histogram;
mod metric;
mod observe;
mod report;
mod samples;

pub use histogram::RangeMethod;
pub use metric::{Measure, Metric};
pub use report::{LayerReport, PrecisionReport};
pub use samples::{Calibration, Sample};

use crate::Runtime;
use crate::plan::Plan;
pub use deepseek_graph::passes::precision::Precision;

use deepseek_graph::Graph;
use deepseek_graph::passes::precision::{self, Assignment, Candidate};
use deepseek_graph::passes::{Diagnostics, Level as Verbosity, Pipeline};
use deepseek_tensor::{Error, Result, ensure, err};
use observe::Observed;
use std::fmt;
use std::str::FromStr;

/// The accuracy that no budget may go below.
pub const ACCURACY_FLOOR: f64 = 0.95;

/// What [`Target::Auto`] keeps where no budget is given.
pub const ACCURACY_BUDGET: f64 = 0.99;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every layer that can, in this.
    Only(Precision),
    /// The fastest assignment inside the accuracy budget.
    Auto,
}

impl Default for Target {
    fn default() -> Self {
        Target::Only(Precision::F32)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Only(p) => p.fmt(f),
            Target::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Target::Auto),
            _ => s.parse().map(Target::Only),
        }
    }
}

/// How [`compile`] works.
#[derive(Clone, Debug)]
pub struct PrecisionOptions {
    /// What is asked for.
    pub target: Target,
    /// Inputs that the model meets in use.
    pub calibration: Calibration,
    /// Shapes of inputs for synthetic samples, where the model leaves extents open.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// What the metric must reach, 1 being `f32`; [`ACCURACY_FLOOR`] at least. `None` is 0.99 under
    /// `auto`, the floor otherwise.
    pub accuracy_budget: Option<f64>,
    /// What accuracy is measured by.
    pub metric: Metric,
    /// How ranges of activations are chosen.
    pub range: RangeMethod,
}

impl Default for PrecisionOptions {
    fn default() -> Self {
        PrecisionOptions {
            target: Target::default(),
            calibration: Calibration::default(),
            shapes: Vec::new(),
            accuracy_budget: None,
            metric: Metric::default(),
            range: RangeMethod::Mse,
        }
    }
}

/// A graph in the precisions that were chosen, ready to be lowered, and why they were.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// As [`prepare`](crate::prepare) leaves it.
    pub graph: Graph,
    /// What was chosen.
    pub report: PrecisionReport,
}

/// `graph`, as it was imported, in the precision that `options` ask for.
///
/// # Errors
/// `InvalidArgument` for samples that do not fit or hold numbers that are not finite, for a budget
/// outside `0.95..=1`, and for a budget that no assignment meets, with the best that can be reached;
/// `Unsupported` for a precision without operators, and for a graph whose layers were fused already;
/// what running the model reports.
pub fn compile(graph: &Graph, runtime: &Runtime, options: &PrecisionOptions) -> Result<Compiled> {
    let usual = if options.target == Target::Auto { ACCURACY_BUDGET } else { ACCURACY_FLOOR };
    let budget = options.accuracy_budget.unwrap_or(usual);
    ensure!(
        (ACCURACY_FLOOR..=1.0).contains(&budget),
        InvalidArgument,
        "the accuracy budget is {budget}, expected {ACCURACY_FLOOR} to 1"
    );
    let requested = options.target.to_string();
    if let Target::Only(p @ (Precision::Bf16 | Precision::F16)) = options.target {
        return Err(err!(
            Unsupported,
            "precision '{p}' is not supported yet; use f32, int8 or auto"
        ));
    }
    let fused = graph.nodes().iter().find(|n| matches!(n.op.name(), "FusedConv" | "FusedMatMul"));
    if let Some(node) = fused {
        return Err(err!(
            Unsupported,
            "the layers of this model were fused when it was converted (node '{}'); convert it from \
             its original file with the precision",
            node.name
        ));
    }
    let mut quiet = Diagnostics::new(Verbosity::Off);
    let graph = Pipeline::recognition().run(graph, &mut quiet)?.graph;
    let candidates = precision::candidates(&graph);
    let samples = samples::samples(&graph, options)?;
    let (calibration, verification) = split(&samples);
    // Held until the end: plans share what their kernels make of the same constants.
    let reference = Plan::new(crate::prepare(graph.clone())?, runtime)?;
    let Observed { mut assignment, layers } =
        observe::observe(&graph, runtime, &candidates, &calibration, options.range)?;
    let choice = choose::Choice::new(
        &graph,
        runtime,
        reference,
        &verification,
        (options, budget),
        &candidates,
        &layers,
    )?;
    let outcome = choice.choose(&mut assignment)?;
    let report = PrecisionReport {
        requested,
        synthetic: matches!(options.calibration, Calibration::Synthetic),
        calibrated_with: calibration.len(),
        verified_with: verification.len(),
        metric: options.metric.name().to_owned(),
        budget,
        accuracy: outcome.accuracy,
        ms_before: outcome.ms_before,
        ms_after: outcome.ms_after,
        layers: outcome.layers,
    };
    Ok(Compiled { graph: outcome.graph, report })
}

/// Samples to calibrate with and to measure accuracy on: every fourth is kept for the latter if there
/// are eight or more, else all serve for both.
fn split(samples: &[Sample]) -> (Vec<Sample>, Vec<Sample>) {
    if samples.len() < 8 {
        return (samples.to_vec(), samples.to_vec());
    }
    let part = |held: bool| {
        let of = samples.iter().enumerate().filter(|(i, _)| (i % 4 == 3) == held);
        of.map(|(_, s)| s.clone()).collect()
    };
    (part(false), part(true))
}

/// The graph of `assignment`, prepared, and its plan.
fn build(graph: &Graph, runtime: &Runtime, assignment: &Assignment) -> Result<(Graph, Plan)> {
    let prepared = crate::prepare(precision::assign(graph, assignment)?)?;
    let plan = Plan::new(prepared.clone(), runtime)?;
    Ok((prepared, plan))
}

/// Names of the nodes of candidates.
fn names(candidates: &[Candidate]) -> Vec<String> {
    candidates.iter().map(|c| c.node.clone()).collect()
}
