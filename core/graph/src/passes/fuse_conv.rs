//! Convolutions take what follows them, and batch normalisation becomes arithmetic.

use super::fuse::{
    Readers, activation, batch_norm, constant, input, is_f32, other_operand, output, per_channel,
    same_shape,
};
use super::{Diagnostics, Pass, Patch, Wire};
use crate::ops::{Add, Conv, FusedConv, Mul, Pointwise};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{Result, Tensor};
use std::sync::Arc;

/// Makes one node of a convolution in `f32` and what follows it. A BatchNormalization with constant
/// statistics and products and sums with one constant per channel become part of constant weights
/// and a constant bias; a residual (the other operand of an Add, of the same shape) and an
/// activation make a [`FusedConv`] of it. A BatchNormalization that follows no such convolution
/// becomes a product and a sum with one constant per channel.
///
/// Each value on the way must have no other reader. Folded weights are computed in double precision
/// and rounded once, so each product of the convolution changes by a relative `2⁻²⁴` at most; a
/// normalisation written as a sum loses `2⁻²⁴ |mean · scale|` where it cancels.
pub struct FuseConv;

impl Pass for FuseConv {
    fn name(&self) -> &'static str {
        "fuse conv"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let readers = Readers::new(graph);
        let mut patches = Vec::new();
        let mut folded = vec![false; graph.nodes().len()];
        for node in graph.nodes() {
            let Some(mut chain) = Chain::start(graph, node) else { continue };
            if let Some((at, why)) = chain.grow(&readers) {
                diagnostics.missed(self.name(), &node.name, || {
                    format!("joined with '{}': {why}", graph.nodes()[at].name)
                });
            }
            if chain.taken.is_empty() {
                continue;
            }
            diagnostics.fired(self.name(), &node.name, || {
                let names: Vec<_> =
                    chain.taken.iter().map(|&i| graph.nodes()[i].name.as_str()).collect();
                format!("joined with [{}]", names.join(", "))
            });
            chain.taken.iter().for_each(|&i| folded[i] = true);
            patches.push(chain.patch()?);
        }
        for (i, node) in graph.nodes().iter().enumerate() {
            if !folded[i]
                && let Some(patch) = arithmetic(graph, node)?
            {
                diagnostics.fired(self.name(), &node.name, || "Mul and Add".to_owned());
                patches.push(patch);
            }
        }
        Ok(patches)
    }
}

/// A BatchNormalization with constant statistics as `x · scale + shift`.
fn arithmetic<'g>(graph: &'g Graph, node: &'g Node) -> Result<Option<Patch<'g>>> {
    let (Some(x), Some(y)) = (input(node, 0), output(node)) else { return Ok(None) };
    let (Some((scale, shift)), Some(rank)) = (batch_norm(graph, node), graph.fact(x).rank()) else {
        return Ok(None);
    };
    if !is_f32(graph, x) || rank == 0 {
        return Ok(None);
    }
    let mut shape = vec![1; rank];
    if rank > 1 {
        shape[1] = scale.len();
    } else if scale.len() != 1 {
        return Ok(None);
    }
    let mut patch = Patch::new(graph);
    let mut number = |what: &str, v: &[f64]| -> Result<Wire> {
        let v: Vec<f32> = v.iter().map(|&v| v as f32).collect();
        Ok(patch.constant(&format!("{}.{what}", node.name), Tensor::from_slice(&shape, &v)?))
    };
    let (scale, shift) = (number("scale", &scale)?, number("shift", &shift)?);
    let scaled = patch.add(&format!("{}.mul", node.name), Mul::default(), &[x.into(), scale])?;
    let out = patch.add(&node.name, Add::default(), &[scaled, shift])?;
    patch.redirect(y, out)?;
    Ok(Some(patch))
}

/// A convolution and what it has taken so far.
struct Chain<'g> {
    graph: &'g Graph,
    root: &'g Node,
    conv: Conv,
    /// Weights and bias that the pass computed.
    folded: Option<(Tensor, Vec<f32>)>,
    residual: Option<ValueId>,
    activation: Option<Pointwise>,
    end: ValueId,
    taken: Vec<usize>,
}

impl<'g> Chain<'g> {
    fn start(graph: &'g Graph, root: &'g Node) -> Option<Self> {
        let end = output(root)?;
        let (conv, activation) = match root.op.downcast::<FusedConv>() {
            Some(op) => (op.conv(), op.activation),
            None => (root.op.downcast::<Conv>()?.clone(), None),
        };
        // Without constant weights there is no kernel that could take anything.
        let weights = graph.constant(input(root, 1)?)?;
        if !is_f32(graph, end) || weights.rank() < 3 {
            return None;
        }
        let residual = input(root, 3);
        Some(Chain { graph, root, conv, folded: None, residual, activation, end, taken: vec![] })
    }

    /// Takes nodes as long as they fit; returns the one that nearly did and why it did not.
    fn grow(&mut self, readers: &Readers) -> Option<(usize, &'static str)> {
        loop {
            let at = self.end;
            let (index, shared) = match readers.only(at) {
                Ok(index) => (index, None),
                Err((index, why)) => (index?, Some(why)),
            };
            let node = &self.graph.nodes()[index];
            let next = output(node)?;
            match (self.accepts(node, at, next), shared) {
                (Ok(_), Some(why)) => return Some((index, why)),
                (Ok(part), None) => self.take(part)?,
                (Err(why), _) => return Some((index, why?)),
            }
            self.end = next;
            self.taken.push(index);
        }
    }

    /// What `node`, which makes `next` of `at`, adds; an error says why it nearly fits.
    fn accepts(
        &self,
        node: &Node,
        at: ValueId,
        next: ValueId,
    ) -> Result<Part, Option<&'static str>> {
        let graph = self.graph;
        if self.activation.is_some() {
            return Err(None);
        }
        if let Some(f) = activation(graph, node, at) {
            return Ok(Part::Activation(f));
        }
        let channels = self.channels().ok_or(None)?;
        let rank = graph.fact(at).rank().ok_or(None)?;
        match node.op.name() {
            "BatchNormalization" => {
                let (scale, shift) =
                    batch_norm(graph, node).ok_or(Some("its statistics are not constants"))?;
                if scale.len() != channels {
                    return Err(None);
                }
                self.affine(scale, shift)
            }
            "Mul" | "Add" => {
                let (other, _) = other_operand(node, at).ok_or(None)?;
                if !same_shape(graph, at, next) {
                    return Err(Some("the result is larger than the convolution"));
                }
                let product = node.op.name() == "Mul";
                if let Some(t) = graph.fact(other).as_constant()
                    && let Some(v) = per_channel(&t, rank, 1, channels)
                {
                    let v: Vec<f64> = v.into_iter().map(f64::from).collect();
                    return if product {
                        self.affine(v, vec![0.0; channels])
                    } else {
                        self.affine(vec![1.0; channels], v)
                    };
                }
                match self.residual {
                    _ if product => Err(None),
                    _ if !same_shape(graph, other, at) => Err(Some("the other summand broadcasts")),
                    None => Ok(Part::Residual(other)),
                    Some(_) => Err(Some("there is a residual already")),
                }
            }
            _ => Err(None),
        }
    }

    /// A scale and shift per channel, if they can become part of the weights.
    fn affine(&self, scale: Vec<f64>, shift: Vec<f64>) -> Result<Part, Option<&'static str>> {
        if self.residual.is_some() {
            return Err(Some("a scale after a residual"));
        }
        if self.bias().is_none() {
            return Err(Some("the bias is not constant"));
        }
        Ok(Part::Affine(scale, shift))
    }

    /// Output channels.
    fn channels(&self) -> Option<usize> {
        self.weights()?.shape().first().copied()
    }

    fn weights(&self) -> Option<&Tensor> {
        match &self.folded {
            Some((w, _)) => Some(w),
            None => self.graph.constant(input(self.root, 1)?),
        }
    }

    /// The bias, zeros where there is none; `None` if it is not constant.
    fn bias(&self) -> Option<Vec<f32>> {
        match (&self.folded, input(self.root, 2)) {
            (Some((_, bias)), _) => Some(bias.clone()),
            (None, None) => Some(vec![0.0; self.channels()?]),
            (None, Some(id)) => constant(self.graph, id),
        }
    }

    /// `None` only if the weights are no plain numbers, and then nothing is taken.
    fn take(&mut self, part: Part) -> Option<()> {
        match part {
            Part::Activation(f) => self.activation = Some(f),
            Part::Residual(id) => self.residual = Some(id),
            Part::Affine(scale, shift) => {
                let (w, bias) = (self.weights()?, self.bias()?);
                let mut v = w.to_vec::<f32>().ok()?;
                let each = (v.len() / scale.len().max(1)).max(1);
                for (v, f) in v.chunks_mut(each).zip(&scale) {
                    v.iter_mut().for_each(|v| *v = (f64::from(*v) * f) as f32);
                }
                let bias = bias.iter().zip(scale.iter().zip(&shift));
                let bias = bias.map(|(&b, (f, s))| (f64::from(b) * f + s) as f32).collect();
                self.folded = Some((Tensor::from_vec(w.shape(), v).ok()?, bias));
            }
        }
        Some(())
    }

    fn patch(&self) -> Result<Patch<'g>> {
        let mut patch = Patch::new(self.graph);
        let name = &self.root.name;
        let old = |i: usize| input(self.root, i).map(Wire::Old);
        let mut inputs = vec![old(0), old(1), old(2), self.residual.map(Wire::Old)];
        if let Some((w, bias)) = &self.folded {
            inputs[1] = Some(patch.constant(&format!("{name}.weights"), w.clone()));
            let bias = Tensor::from_slice(&[bias.len()], bias)?;
            inputs[2] = Some(patch.constant(&format!("{name}.bias"), bias));
        }
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let op: Arc<dyn crate::Operator> = if self.residual.is_some() || self.activation.is_some() {
            Arc::new(FusedConv::new(&self.conv, self.activation))
        } else {
            Arc::new(self.conv.clone())
        };
        let out = patch.add_node(name, op, &inputs, &[true])?[0];
        patch.redirect(self.end, out.expect("the output was asked for"))?;
        Ok(patch)
    }
}

/// What a node adds to a chain.
enum Part {
    Activation(Pointwise),
    Residual(ValueId),
    /// Scale and shift of each channel.
    Affine(Vec<f64>, Vec<f64>),
}
