//! Matrix products take what follows them.

use super::fuse::{
    Readers, activation, batch_norm, constant, input, is_f32, other_operand, output, per_channel,
    same_shape, scalar,
};
use super::{Diagnostics, Pass, Patch, Wire};
use crate::ops::{FusedMatMul, Gemm, MatMul, Pointwise};
use crate::{Dim, Graph, Node, ValueId};
use deepseek_tensor::{DType, Result, Tensor};

/// Makes one [`FusedMatMul`] of a MatMul or Gemm in `f32` and what follows it: a factor, a bias, a
/// residual (the other operand of an Add, of the same shape) and an activation. Views between them
/// (Reshape and its like) that keep the last axis move behind the product. A BatchNormalization of
/// the columns becomes part of constant weights. A Gemm alone becomes a [`FusedMatMul`] too, so
/// that one kernel serves both.
///
/// Each value on the way must have no other reader. Results change by rounding alone: a factor or
/// a normalisation that moves into a constant is rounded once more, a bias is added before the
/// residual whatever the order was, so an element differs by a few units of rounding of the
/// largest of its summands.
pub struct FuseMatMul;

impl Pass for FuseMatMul {
    fn name(&self) -> &'static str {
        "fuse matmul"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let readers = Readers::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(mut chain) = Chain::start(graph, node) else { continue };
            let missed = chain.grow(&readers);
            if let Some((at, why)) = missed {
                diagnostics.missed(self.name(), &node.name, || {
                    format!("joined with '{}': {why}", graph.nodes()[at].name)
                });
            }
            if chain.taken.is_empty() && node.op.name() != "Gemm" {
                continue;
            }
            match chain.patch()? {
                Some(patch) => {
                    diagnostics.fired(self.name(), &node.name, || {
                        let names: Vec<_> =
                            chain.taken.iter().map(|&i| graph.nodes()[i].name.as_str()).collect();
                        format!("FusedMatMul with [{}]", names.join(", "))
                    });
                    patches.push(patch);
                }
                None => diagnostics.missed(self.name(), &node.name, || {
                    "fused: the view of the residual cannot be written down".to_owned()
                }),
            }
        }
        Ok(patches)
    }
}

/// A bias: a value, or numbers that the pass computed.
enum Bias {
    Value(ValueId),
    Numbers(Vec<f32>),
}

/// A product and what it has taken so far.
struct Chain<'g> {
    graph: &'g Graph,
    root: &'g Node,
    a: ValueId,
    b: ValueId,
    /// Factors of the columns of b, if a normalisation was taken.
    columns: Option<Vec<f32>>,
    op: FusedMatMul,
    bias: Option<Bias>,
    /// The residual, and whether it is in the shape after the views.
    residual: Option<(ValueId, bool)>,
    /// The value that the chain stands for.
    end: ValueId,
    /// Nodes between the product and `end` that are views.
    views: Vec<usize>,
    /// All other nodes that were taken.
    taken: Vec<usize>,
}

impl<'g> Chain<'g> {
    fn start(graph: &'g Graph, root: &'g Node) -> Option<Self> {
        let (a, b, end) = (input(root, 0)?, input(root, 1)?, output(root)?);
        let rank = |id| graph.fact(id).rank();
        if !is_f32(graph, a) || !is_f32(graph, end) || rank(a)? < 2 || rank(b)? < 2 {
            return None;
        }
        let mut chain = Chain {
            graph,
            root,
            a,
            b,
            columns: None,
            op: FusedMatMul::default(),
            bias: None,
            residual: None,
            end,
            views: vec![],
            taken: vec![],
        };
        if root.op.downcast::<MatMul>().is_some() {
            return Some(chain);
        }
        if let Some(op) = root.op.downcast::<FusedMatMul>() {
            chain.op = op.clone();
            chain.bias = input(root, 2).map(Bias::Value);
            chain.residual = input(root, 3).map(|r| (r, false));
            return Some(chain);
        }
        let op = root.op.downcast::<Gemm>().filter(|op| !op.transA)?;
        chain.op = FusedMatMul { alpha: op.alpha, trans_b: op.transB, activation: None };
        let Some(c) = input(root, 2) else { return Some(chain) };
        let n = graph.fact(end).shape()?.last()?.clone();
        if let (Some(t), Some(n)) = (graph.fact(c).as_constant(), size(&n))
            && let Some(mut v) = per_channel(&t, 2, 1, n)
        {
            chain.bias = Some(if op.beta == 1.0 && t.rank() == 1 && t.len() == n {
                Bias::Value(c)
            } else {
                v.iter_mut().for_each(|v| *v *= op.beta);
                Bias::Numbers(v)
            });
        } else if op.beta == 1.0 && same_shape(graph, c, end) {
            chain.residual = Some((c, false));
        } else if op.beta == 1.0
            && matches!(graph.fact(c).shape(), Some([d]) if d.always_eq(&n, graph.bounds()))
        {
            chain.bias = Some(Bias::Value(c));
        } else {
            return None;
        }
        Some(chain)
    }

    /// Takes nodes as long as they fit; returns the one that nearly did and why it did not.
    fn grow(&mut self, readers: &Readers) -> Option<(usize, &'static str)> {
        let mut at = self.end;
        let mut pending = Vec::new();
        loop {
            let (index, shared) = match readers.only(at) {
                Ok(index) => (index, None),
                Err((index, why)) => (index?, Some(why)),
            };
            let node = &self.graph.nodes()[index];
            let next = output(node)?;
            if self.is_view(node, at, next) {
                if shared.is_some() {
                    return None;
                }
                pending.push(index);
                at = next;
                continue;
            }
            let views = !self.views.is_empty() || !pending.is_empty();
            match self.accepts(node, at, next, views) {
                Ok(_) if shared.is_some() => return Some((index, shared?)),
                Ok(part) => self.take(part),
                Err(Some(why)) => return Some((index, why)),
                Err(None) => return None,
            }
            self.views.append(&mut pending);
            self.taken.push(index);
            (at, self.end) = (next, next);
        }
    }

    /// Whether `node` changes the shape of `at` but not its last axis.
    fn is_view(&self, node: &Node, at: ValueId, next: ValueId) -> bool {
        let last = |id| self.graph.fact(id).shape().and_then(<[Dim]>::last);
        matches!(node.op.name(), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze")
            && input(node, 0) == Some(at)
            && last(at).is_some()
            && last(at) == last(next)
    }

    /// What `node` adds to the chain that ends in `at`; an error says why it nearly fits.
    fn accepts(
        &self,
        node: &Node,
        at: ValueId,
        next: ValueId,
        views: bool,
    ) -> Result<Part, Option<&'static str>> {
        let graph = self.graph;
        if self.op.activation.is_some() {
            return Err(None);
        }
        if let Some(f) = activation(graph, node, at) {
            return Ok(Part::Activation(f));
        }
        match node.op.name() {
            "Add" => {
                let (other, _) = other_operand(node, at).ok_or(None)?;
                if !same_shape(graph, at, next) {
                    return Err(Some("the sum is larger than the product"));
                }
                let rank = graph.fact(at).rank().ok_or(None)?;
                let n = graph.fact(at).shape().and_then(<[Dim]>::last).ok_or(None)?;
                if self.bias.is_none() {
                    if let (Some(t), Some(n)) = (graph.fact(other).as_constant(), size(n))
                        && let Some(v) = per_channel(&t, rank, rank - 1, n)
                    {
                        let plain = t.rank() == 1 && t.len() == n;
                        let numbers = || Part::Bias(Bias::Numbers(v));
                        return Ok(if plain { Part::Bias(Bias::Value(other)) } else { numbers() });
                    }
                    let vector = |s: &[Dim]| matches!(s, [d] if d.always_eq(n, graph.bounds()));
                    if rank > 1 && graph.fact(other).shape().is_some_and(vector) {
                        return Ok(Part::Bias(Bias::Value(other)));
                    }
                }
                if !same_shape(graph, other, at) {
                    return Err(Some("the other summand broadcasts"));
                }
                match self.residual {
                    None => Ok(Part::Residual(other, views)),
                    Some(_) => Err(Some("there is a residual already")),
                }
            }
            "Mul" | "Div" => {
                let (other, first) = other_operand(node, at).ok_or(None)?;
                let factor = scalar(graph, other, at).ok_or(None)?;
                let factor = match node.op.name() {
                    "Mul" => factor,
                    _ if first => factor.recip(),
                    _ => return Err(None),
                };
                if !factor.is_normal() || !(factor * self.op.alpha).is_normal() {
                    return Err(Some("the factor is no ordinary number"));
                }
                match (&self.bias, self.residual) {
                    (_, Some(_)) => Err(Some("a factor after a residual")),
                    (Some(Bias::Value(b)), _) if constant(graph, *b).is_none() => {
                        Err(Some("a factor after a bias that is not constant"))
                    }
                    _ => Ok(Part::Factor(factor)),
                }
            }
            "BatchNormalization" => {
                let (scale, shift) = batch_norm(graph, node).ok_or(None)?;
                let two = graph.fact(at).rank() == Some(2);
                let f32s = |t: &&Tensor| t.rank() == 2 && t.dtype() == DType::F32;
                let weights = graph.constant(self.b).filter(f32s);
                let bias = match &self.bias {
                    Some(Bias::Value(b)) => constant(graph, *b).is_some(),
                    _ => true,
                };
                if !two || weights.is_none() || !bias || self.residual.is_some() || views {
                    return Err(Some("weights, bias or layout do not allow to fold it"));
                }
                Ok(Part::Columns(scale, shift))
            }
            _ => Err(None),
        }
    }

    fn take(&mut self, part: Part) {
        match part {
            Part::Activation(f) => self.op.activation = Some(f),
            Part::Bias(bias) => self.bias = Some(bias),
            Part::Residual(id, viewed) => self.residual = Some((id, viewed)),
            Part::Factor(factor) => {
                self.op.alpha *= factor;
                if let Some(mut v) = self.bias_numbers() {
                    v.iter_mut().for_each(|v| *v *= factor);
                    self.bias = Some(Bias::Numbers(v));
                }
            }
            Part::Columns(scale, shift) => {
                let old = self.bias_numbers().unwrap_or_else(|| vec![0.0; scale.len()]);
                let bias = old.iter().zip(&scale).zip(&shift);
                let bias = bias.map(|((&b, f), s)| (f64::from(b) * f + s) as f32).collect();
                self.bias = Some(Bias::Numbers(bias));
                let before = self.columns.take().unwrap_or_else(|| vec![1.0; scale.len()]);
                let both = before.iter().zip(&scale);
                self.columns = Some(both.map(|(&b, f)| (f64::from(b) * f) as f32).collect());
            }
        }
    }

    /// The numbers of a constant bias.
    fn bias_numbers(&self) -> Option<Vec<f32>> {
        match self.bias.as_ref()? {
            Bias::Numbers(v) => Some(v.clone()),
            Bias::Value(id) => constant(self.graph, *id),
        }
    }

    /// The fused node in place of the chain; `None` if the residual's view cannot be written down.
    fn patch(&self) -> Result<Option<Patch<'g>>> {
        let graph = self.graph;
        let mut patch = Patch::new(graph);
        let name = &self.root.name;
        let b = match (&self.columns, graph.constant(self.b)) {
            (Some(factors), Some(w)) => {
                patch.constant(&graph.value(self.b).name, scaled(w, factors, self.op.trans_b)?)
            }
            _ => self.b.into(),
        };
        let bias = match &self.bias {
            None => None,
            Some(Bias::Value(id)) => Some(Wire::Old(*id)),
            Some(Bias::Numbers(v)) => {
                let t = Tensor::from_slice(&[v.len()], v)?;
                Some(patch.constant(&format!("{name}.bias"), t))
            }
        };
        let product = output(self.root).expect("a chain starts at a node with one output");
        let residual = match self.residual {
            None => None,
            Some((id, false)) => Some(Wire::Old(id)),
            Some((id, true)) => {
                let shape = graph.fact(product).shape().unwrap_or_default();
                let Some(target) = target(shape) else { return Ok(None) };
                let target = Tensor::from_vec(&[target.len()], target)?;
                let target = patch.constant(&format!("{name}.shape"), target);
                let reshape = crate::ops::Reshape::default();
                let view = patch.add(&format!("{name}.residual"), reshape, &[id.into(), target])?;
                if patch.fact(view)?.shape() != Some(shape) {
                    return Ok(None);
                }
                Some(view)
            }
        };
        let mut inputs = vec![Some(self.a.into()), Some(b), bias, residual];
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let op = std::sync::Arc::new(self.op.clone());
        let mut out = patch.add_node(name, op, &inputs, &[true])?[0];
        for &view in &self.views {
            let node = &graph.nodes()[view];
            let rest = node.inputs.iter().skip(1).map(|i| i.map(Wire::Old));
            let inputs: Vec<_> = [out].into_iter().chain(rest).collect();
            out = patch.add_node(&node.name, node.op.clone(), &inputs, &[true])?[0];
        }
        patch.redirect(self.end, out.expect("the output was asked for"))?;
        Ok(Some(patch))
    }
}

/// What a node adds to a chain.
enum Part {
    Activation(Pointwise),
    Bias(Bias),
    Residual(ValueId, bool),
    Factor(f32),
    /// Scale and shift of each column.
    Columns(Vec<f64>, Vec<f64>),
}

fn size(d: &Dim) -> Option<usize> {
    usize::try_from(d.as_const()?).ok()
}

/// The weights with each column multiplied by its factor.
fn scaled(w: &Tensor, factors: &[f32], trans_b: bool) -> Result<Tensor> {
    let mut v = w.to_vec::<f32>()?;
    let n = factors.len().max(1);
    let each = v.len() / n;
    for (i, v) in v.iter_mut().enumerate() {
        *v *= factors[if trans_b { i / each } else { i % n }];
    }
    Tensor::from_vec(w.shape(), v)
}

/// The target of a Reshape to `shape`, at most one extent of which is not constant.
fn target(shape: &[Dim]) -> Option<Vec<i64>> {
    let open = shape.iter().filter(|d| !d.is_const()).count();
    let positive = shape.iter().all(|d| d.as_const().is_none_or(|c| c > 0));
    (open <= 1 && positive).then(|| shape.iter().map(|d| d.as_const().unwrap_or(-1)).collect())
}
