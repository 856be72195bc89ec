//! What a precision was chosen for, layer by layer, and why.

use crate::profile::json::{array, object, optional, quote};
use deepseek_graph::passes::precision::Precision;

/// One layer of a [`PrecisionReport`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerReport {
    /// Node.
    pub node: String,
    /// Conv, MatMul or Gemm.
    pub op: String,
    /// What it computes in.
    pub precision: Precision,
    /// Mean square of what `int8` changes in its result, by the mean square of the result; `None` if
    /// that was not measured.
    pub error: Option<f64>,
    /// Milliseconds of the node in `f32`, the least of some runs; `None` if that was not measured.
    pub ms_before: Option<f64>,
    /// The same in `int8`.
    pub ms_after: Option<f64>,
    /// Why it has this precision.
    pub why: String,
}

/// What [`compile`](super::compile) chose, and what that costs and saves.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionReport {
    /// What was asked for: `f32`, `bf16`, `f16`, `int8` or `auto`.
    pub requested: String,
    /// Whether the calibration data was made up.
    pub synthetic: bool,
    /// Samples that ranges come from.
    pub calibrated_with: usize,
    /// Samples that accuracy was measured on.
    pub verified_with: usize,
    /// Name of the metric.
    pub metric: String,
    /// What it had to reach at least.
    pub budget: f64,
    /// What it reached, 1 being `f32`.
    pub accuracy: f64,
    /// Milliseconds of a run in `f32`, the least of some; `None` if that was not measured.
    pub ms_before: Option<f64>,
    /// The same in the precisions below.
    pub ms_after: Option<f64>,
    /// The layers that had a choice, in the order of the graph.
    pub layers: Vec<LayerReport>,
}

impl PrecisionReport {
    /// How many layers compute in `precision`.
    pub fn count(&self, precision: Precision) -> usize {
        self.layers.iter().filter(|l| l.precision == precision).count()
    }

    /// One object whose keys are the fields; precisions are names, what is not known is null.
    pub fn to_json(&self) -> String {
        let layer = |l: &LayerReport| {
            object([
                ("node", quote(&l.node)),
                ("op", quote(&l.op)),
                ("precision", quote(l.precision.name())),
                ("error", optional(l.error, number)),
                ("ms_before", optional(l.ms_before, number)),
                ("ms_after", optional(l.ms_after, number)),
                ("why", quote(&l.why)),
            ])
        };
        object([
            ("requested", quote(&self.requested)),
            ("synthetic", self.synthetic.to_string()),
            ("calibrated_with", self.calibrated_with.to_string()),
            ("verified_with", self.verified_with.to_string()),
            ("metric", quote(&self.metric)),
            ("budget", number(self.budget)),
            ("accuracy", number(self.accuracy)),
            ("ms_before", optional(self.ms_before, number)),
            ("ms_after", optional(self.ms_after, number)),
            ("layers", array(self.layers.iter().map(layer))),
        ])
    }
}

/// `x` as JSON has it.
fn number(x: f64) -> String {
    if x.is_finite() { format!("{x}") } else { "null".to_owned() }
}
