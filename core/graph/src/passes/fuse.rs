//! What the fusing passes share: who reads a value, and the parts of an epilogue.

use crate::ops::Pointwise;
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{DType, Tensor};

/// Who reads each value of a graph.
pub(super) struct Readers {
    /// Number of readings, outputs of the graph included, and the node of the last one.
    readings: Vec<(usize, Option<usize>)>,
}

impl Readers {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut readings = vec![(0, None); graph.values().len()];
        for (i, node) in graph.nodes().iter().enumerate() {
            for id in node.inputs.iter().flatten() {
                let (count, last) = &mut readings[id.index()];
                (*count, *last) = (*count + 1, Some(i));
            }
        }
        for (_, id) in graph.outputs() {
            readings[id.index()].0 += 1;
        }
        Readers { readings }
    }

    /// The node that alone reads `value`, once. Else a node that reads it, if any, and why it may
    /// not take the value for itself.
    pub(super) fn only(&self, value: ValueId) -> Result<usize, (Option<usize>, &'static str)> {
        match self.readings[value.index()] {
            (1, Some(node)) => Ok(node),
            (_, node) => Err((node, "the value before it is read elsewhere too")),
        }
    }

    /// How often `value` is read, outputs of the graph included.
    pub(super) fn count(&self, value: ValueId) -> usize {
        self.readings[value.index()].0
    }
}

/// Input `i` of a node, if present.
pub(super) fn input(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

/// The only output of a node.
pub(super) fn output(node: &Node) -> Option<ValueId> {
    match node.outputs[..] {
        [Some(id)] => Some(id),
        _ => None,
    }
}

/// Whether a value is a tensor of `f32`.
pub(super) fn is_f32(graph: &Graph, id: ValueId) -> bool {
    graph.fact(id).dtype().is_ok_and(|d| d == DType::F32)
}

/// Whether two values are proven to have one shape.
pub(super) fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    match (graph.fact(a).shape(), graph.fact(b).shape()) {
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.always_eq(b, graph.bounds()))
        }
        _ => false,
    }
}

/// The constant behind `id` as numbers, if its elements are `f32`.
pub(super) fn constant(graph: &Graph, id: ValueId) -> Option<Vec<f32>> {
    graph.fact(id).as_constant()?.to_vec::<f32>().ok()
}

/// A constant of one `f32` whose rank does not exceed that of `like`.
pub(super) fn scalar(graph: &Graph, id: ValueId, like: ValueId) -> Option<f32> {
    let t = graph.fact(id).as_constant().filter(|t| t.len() == 1)?;
    (t.rank() <= graph.fact(like).rank()?).then(|| t.item::<f32>().ok())?
}

/// The operand of a node of two that is not `value`, and whether `value` comes first.
pub(super) fn other_operand(node: &Node, value: ValueId) -> Option<(ValueId, bool)> {
    match node.inputs[..] {
        [Some(a), Some(b)] if a == value => Some((b, true)),
        [Some(a), Some(b)] if b == value => Some((a, false)),
        _ => None,
    }
}

/// The function of `node` if it takes `value` alone and computes in `f32`.
pub(super) fn activation(graph: &Graph, node: &Node, value: ValueId) -> Option<Pointwise> {
    let function = Pointwise::of(graph, node)?;
    let fits = function.arity() == 1 && input(node, 0) == Some(value) && is_f32(graph, value);
    fits.then_some(function)
}

/// A constant with one number for each of `channels`, from a tensor that has them along axis
/// `axis` of a value of rank `rank` and extent 1 elsewhere, or is one number.
pub(super) fn per_channel(
    t: &Tensor,
    rank: usize,
    axis: usize,
    channels: usize,
) -> Option<Vec<f32>> {
    let v = t.to_vec::<f32>().ok()?;
    if t.rank() > rank {
        return None;
    }
    if v.len() == 1 {
        return Some(vec![v[0]; channels]);
    }
    let lead = rank - t.rank();
    let along = |(i, &extent): (usize, &usize)| {
        if lead + i == axis { extent == channels } else { extent == 1 }
    };
    (v.len() == channels && t.shape().iter().enumerate().all(along)).then_some(v)
}

/// Per channel `(scale, shift)` of a BatchNormalization whose statistics are constants, computed
/// in double precision: `y = scale · x + shift`.
pub(super) fn batch_norm(graph: &Graph, node: &Node) -> Option<(Vec<f64>, Vec<f64>)> {
    let op = node.op.downcast::<crate::ops::BatchNormalization>()?;
    if op.training_mode || node.outputs.len() != 1 {
        return None;
    }
    let all: Vec<Vec<f32>> =
        (1..5).map(|i| constant(graph, input(node, i)?)).collect::<Option<_>>()?;
    let [scale, bias, mean, var] = &all[..] else { return None };
    let n = scale.len();
    if all.iter().any(|v| v.len() != n) {
        return None;
    }
    let factor: Vec<f64> = scale
        .iter()
        .zip(var)
        .map(|(&s, &v)| f64::from(s) / (f64::from(v) + f64::from(op.epsilon)).sqrt())
        .collect();
    let shift = (0..n).map(|c| f64::from(bias[c]) - f64::from(mean[c]) * factor[c]).collect();
    Some((factor, shift))
}
