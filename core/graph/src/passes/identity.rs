//! Removing operators that return their input.

use super::{Diagnostics, Pass, Patch};
use crate::{Attr, Graph, Node, Type, ValueId};
use deepseek_tensor::{Result, Tensor};

/// Constants with more elements are not searched for neutral elements.
const SCAN_LIMIT: usize = 4096;

/// Lets readers of a node that does nothing read its input: Identity, Dropout outside training,
/// Cast to the same type, Transpose that keeps the order, Reshape, Expand, Slice, Pad and their like
/// to the shape that is there already, Concat and Sum of one, arithmetic with a neutral constant.
///
/// Shapes are equal where their formulas are, or are proven to be within the graph's bounds.
pub struct RemoveIdentities;

impl Pass for RemoveIdentities {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let mut readers = vec![0usize; graph.values().len()];
        for id in graph.nodes().iter().flat_map(|n| n.inputs.iter().flatten()) {
            readers[id.index()] += 1;
        }
        for (_, id) in graph.outputs() {
            readers[id.index()] += 1;
        }
        let mut patch = Patch::new(graph);
        for node in graph.nodes() {
            let Some(Some(output)) = node.outputs.first() else { continue };
            if readers[output.index()] == 0 {
                continue;
            }
            match (Candidate { graph, node }).source() {
                Verdict::Same(input) => match patch.redirect(*output, input) {
                    Ok(()) => diagnostics.fired(self.name(), &node.name, || {
                        format!("replaced by '{}'", graph.value(input).name)
                    }),
                    Err(e) => {
                        diagnostics.missed(self.name(), &node.name, || e.message().to_owned());
                    }
                },
                Verdict::Nearly(why) => {
                    diagnostics.missed(self.name(), &node.name, || format!("an identity: {why}"));
                }
                Verdict::No => {}
            }
        }
        Ok(if patch.is_empty() { Vec::new() } else { vec![patch] })
    }
}

/// Whether a node returns its input.
enum Verdict {
    /// It returns this value.
    Same(ValueId),
    /// It could, but for this reason.
    Nearly(&'static str),
    No,
}

struct Candidate<'g> {
    graph: &'g Graph,
    node: &'g Node,
}

impl Candidate<'_> {
    fn source(&self) -> Verdict {
        let Some(x) = self.input(0) else { return Verdict::No };
        match self.node.op.name() {
            "Identity" => Verdict::Same(x),
            "Dropout" => match self.input(2).map(|t| self.graph.fact(t).as_constant()) {
                None => Verdict::Same(x),
                Some(Some(t)) if all_equal(&t, 0.0) => Verdict::Same(x),
                Some(Some(_)) => Verdict::No,
                Some(None) => Verdict::Nearly("whether it trains is not known"),
            },
            "Cast" | "CastLike" | "BitCast" => self.when(self.same_dtype(x), x),
            "Transpose" => self.when(self.keeps_order(), x),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Tile" => {
                self.same_shape(x)
            }
            "Slice" => match self.constant(4) {
                Some(steps) if !all_equal(&steps, 1.0) => Verdict::No,
                None if self.input(4).is_some() => Verdict::Nearly("its steps are not known"),
                _ => self.same_shape(x),
            },
            "Pad" => match self.constant(1) {
                Some(pads) => self.when(all_equal(&pads, 0.0), x),
                None => Verdict::Nearly("its pads are not known"),
            },
            "Concat" | "Sum" | "Mean" | "Max" | "Min" => self.when(self.node.inputs.len() == 1, x),
            "Split" => self.when(self.node.outputs.len() == 1, x),
            "Clip" => self.when(self.input(1).is_none() && self.input(2).is_none(), x),
            "Mul" => self.neutral(1.0, true),
            "Div" => self.neutral(1.0, false),
            "Sub" => self.neutral(0.0, false),
            // Adding 0 to a float turns −0 into 0.
            "Add" if self.graph.fact(x).dtype().is_ok_and(|d| d.is_int()) => {
                self.neutral(0.0, true)
            }
            _ => Verdict::No,
        }
    }

    fn when(&self, same: bool, x: ValueId) -> Verdict {
        if same { Verdict::Same(x) } else { Verdict::No }
    }

    fn input(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }

    fn constant(&self, i: usize) -> Option<Tensor> {
        self.graph.fact(self.input(i)?).as_constant()
    }

    fn output(&self) -> Option<ValueId> {
        self.node.outputs.first().copied().flatten()
    }

    fn same_dtype(&self, x: ValueId) -> bool {
        let dtype = |id: ValueId| self.graph.fact(id).dtype().ok();
        dtype(x).is_some() && dtype(x) == self.output().and_then(dtype)
    }

    fn keeps_order(&self) -> bool {
        match self.node.op.attrs().get("perm") {
            Some(Attr::Ints(perm)) if !perm.is_empty() => {
                perm.iter().enumerate().all(|(i, &p)| p == i as i64)
            }
            // Without a permutation the axes are reversed.
            _ => self.input(0).and_then(|x| self.graph.fact(x).rank()).is_some_and(|r| r < 2),
        }
    }

    /// The verdict on a node that returns its input wherever it keeps the shape.
    fn same_shape(&self, x: ValueId) -> Verdict {
        let Some(y) = self.output() else { return Verdict::No };
        match (&self.graph.fact(x).ty, &self.graph.fact(y).ty) {
            (Type::Tensor(_, Some(a)), Type::Tensor(_, Some(b))) if a.len() == b.len() => {
                let bounds = self.graph.bounds();
                if a.iter().zip(b).all(|(a, b)| a.always_eq(b, bounds)) {
                    return Verdict::Same(x);
                }
                if a.iter().zip(b).all(|(a, b)| !a.is_const() || !b.is_const() || a == b) {
                    return Verdict::Nearly("the shapes are not proven equal");
                }
                Verdict::No
            }
            (Type::Tensor(_, Some(_)), Type::Tensor(_, Some(_))) => Verdict::No,
            _ => Verdict::Nearly("the rank is not known"),
        }
    }

    /// The verdict on arithmetic with the constant `value`, on the right or, if `either`, on
    /// either side.
    fn neutral(&self, value: f64, either: bool) -> Verdict {
        for (x, other) in [(0, 1), (1, 0)].into_iter().take(if either { 2 } else { 1 }) {
            if let (Some(x), Some(c)) = (self.input(x), self.constant(other))
                && c.len() <= SCAN_LIMIT
                && !c.is_empty()
                && all_equal(&c, value)
            {
                return self.same_shape(x);
            }
        }
        Verdict::No
    }
}

/// Whether all elements are `value`; −0 is not 0, for subtracting it turns −0 into 0.
fn all_equal(t: &Tensor, value: f64) -> bool {
    crate::ops::util::to_f64(t).is_ok_and(|v| v.iter().all(|x| x.to_bits() == value.to_bits()))
}
