//! Attention: a softmax of scaled, masked products of queries and keys, times values.

use super::heads::{Heads, Operand};
use super::mask::Mask;
use super::scores::scores;
use crate::ops::util::normalize_axis;
use crate::passes::layout::weight;
use crate::passes::view::{View, close, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire, extents};
use crate::{Dim, Graph, Node, ValueId, ops};
use deepseek_tensor::Result;
use std::sync::Arc;

/// Turns the nodes of attention into one [`Attention`](ops::Attention).
///
/// The product of queries and keys may be scaled before or after, capped, masked by sums and by
/// choices, in rank 4 or with batch and heads merged; probabilities may be cleared of not-a-number.
/// Keys and values that are repeated for groups of query heads are read as they were before. Where
/// heads were set apart by moving elements, the operator gets and gives
/// `[batch, seq, heads·dim]` instead, as far as the shapes prove that it may.
pub struct FuseAttention;

impl Pass for FuseAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let found = match probabilities(&view, node) {
                Some(softmax) => fuse(&view, node, y, softmax),
                None => match relayout(&view, node, y) {
                    Some(found) => found,
                    None => continue,
                },
            };
            match found {
                Ok(fused) => {
                    diagnostics.fired(self.name(), &node.name, || fused.what);
                    patches.push(fused.patch);
                }
                Err(why) => {
                    diagnostics.missed(self.name(), &node.name, || format!("fused: {why}"));
                }
            }
        }
        Ok(patches)
    }
}

/// A patch that makes attention, or what is missing.
type Found<'g> = Result<Fused<'g>, String>;

struct Fused<'g> {
    patch: Patch<'g>,
    /// Whether operands and result are `[batch, seq, heads·dim]`.
    flat: bool,
    /// What was made, for diagnostics.
    what: String,
}

/// The softmax along the last axis whose probabilities a product weighs its second input by.
fn probabilities<'g>(view: &View<'g>, node: &Node) -> Option<&'g Node> {
    node.op.downcast::<ops::MatMul>()?;
    let mut p = input(node, 0)?;
    for _ in 0..4 {
        if let Some((op, softmax)) = view.made_by::<ops::Softmax>(p) {
            let rank = view.rank(p)?;
            let last = normalize_axis(op.axis, rank).ok()? + 1 == rank;
            return last.then_some(softmax);
        }
        if let Some((_, choice)) = view.made_by::<ops::Where>(p) {
            let (cond, zero, x) = (input(choice, 0)?, input(choice, 1)?, input(choice, 2)?);
            let guards =
                view.unary::<ops::IsNaN>(cond) == Some(x) && view.number(zero) == Some(0.0);
            p = if guards { x } else { return None };
        } else if let Some((_, node)) = view.made_by::<ops::Cast>(p) {
            p = input(node, 0).filter(|&x| view.dtype(x).is_some_and(|d| d.is_float()))?;
        } else {
            let (_, reshape) = view.made_by::<ops::Reshape>(p)?;
            p = input(reshape, 0)?;
        }
    }
    None
}

/// Whether something but the weighing (and its guard) reads the probabilities.
fn shown(view: &View, softmax: &Node) -> bool {
    let Some(p) = output(softmax) else { return true };
    let guard = |n: &Node| matches!(n.op.name(), "IsNaN" | "Where" | "MatMul" | "Cast" | "Reshape");
    view.is_output(p)
        || !view.readers(p).all(guard)
        || view.readers(p).filter(|n| n.op.name() != "IsNaN").count() > 1
}

fn fuse<'g>(view: &View<'g>, node: &Node, y: ValueId, softmax: &Node) -> Found<'g> {
    let none = || "an input is absent".to_owned();
    if shown(view, softmax) {
        return Err("the probabilities are read elsewhere".to_owned());
    }
    let s = scores(view, input(softmax, 0).ok_or_else(none)?)?;
    let q = Operand::read(view, s.q, false, true)?;
    let k = Operand::read(view, s.k, true, true)?;
    let v = Operand::read(view, input(node, 1).ok_or_else(none)?, false, false)?;
    let scale = s.scale * q.layout.scale * k.layout.scale;
    let scale = match q.dim().as_const() {
        Some(d) if close(scale * (d as f64).sqrt(), 1.0) => None,
        _ => Some(scale as f32),
    };
    let op = ops::Attention { scale, softcap: s.softcap as f32, ..Default::default() };
    build(view, node, y, op, [q, k, v], |patch, heads| {
        let mut mask = Mask::default();
        for term in &s.terms {
            mask.take(view, patch, &format!("{}.mask", node.name), term, heads)?;
        }
        let causal = mask.causal;
        Ok((mask.finish(view, patch, &format!("{}.mask", node.name), heads)?, causal))
    })
}

/// An attention over `[batch, heads, seq, dim]` between transposes, without them.
fn relayout<'g>(view: &View<'g>, node: &Node, y: ValueId) -> Option<Found<'g>> {
    let op = node.op.downcast::<ops::Attention>()?;
    let only = node.outputs.len() == 1 && node.inputs.iter().skip(4).all(Option::is_none);
    if !only || view.rank(y) != Some(4) || !view.readers(y).any(|n| n.op.name() == "Transpose") {
        return None;
    }
    let read = |i: usize| Operand::read(view, input(node, i)?, false, false).ok();
    let operands = [read(0)?, read(1)?, read(2)?];
    if operands.iter().any(|o| o.layout.steps == 0) {
        return None;
    }
    let mask = input(node, 3).map(Wire::Old);
    let found = build(view, node, y, op.clone(), operands, |_, _| Ok((mask, op.is_causal)));
    // In the other form it would be what it is.
    found.as_ref().is_ok_and(|fused| fused.flat).then_some(found)
}

/// The patch that makes `y` by attention. `mask` gives the mask and whether it is causal besides.
fn build<'g>(
    view: &View<'g>,
    node: &Node,
    y: ValueId,
    op: ops::Attention,
    operands: [Operand; 3],
    mask: impl FnOnce(&mut Patch, &Heads) -> Result<(Option<Wire>, bool), String>,
) -> Found<'g> {
    let [q, k, v] = &operands;
    let heads = agree(view, q, k, v)?;
    let shape = view.shape(y).ok_or("the rank of the result is not known")?;
    let counts = (heads.count.as_const(), k.count().as_const());
    let make = |flat: bool| operands.iter().map(|o| o.make(view, flat)).collect::<Option<Vec<_>>>();
    let weigh = |m: &[super::heads::Make]| m.iter().map(super::heads::Make::weight).sum::<u32>();
    let moved = moves(view, y, 2) || shape.len() == 3 && counts.0 == Some(1);
    let (flat, deep) = (if counts.0.is_some() { make(true) } else { None }, make(false));
    let (flat, makes) = match (flat, deep) {
        (Some(f), Some(d)) => {
            let (here, there) = if moved { (0, weight::TRANSPOSE) } else { (weight::TRANSPOSE, 0) };
            if weigh(&f) + here <= weigh(&d) + there { (true, f) } else { (false, d) }
        }
        (Some(f), None) => (true, f),
        (None, Some(d)) => (false, d),
        (None, None) => return Err("an extent that a reshape needs cannot be read".to_owned()),
    };
    let name = &node.name;
    let mut patch = Patch::new(view.graph);
    let told = |e: deepseek_tensor::Error| e.message().to_owned();
    let (mask, is_causal) = mask(&mut patch, &heads)?;
    let mut inputs = Vec::with_capacity(4);
    for (make, what) in makes.into_iter().zip(["q", "k", "v"]) {
        inputs.push(Some(make.add(&mut patch, &format!("{name}.{what}")).map_err(told)?));
    }
    let masked = mask.is_some();
    inputs.extend(mask.map(Some));
    let (q_num_heads, kv_num_heads) = if flat { counts } else { (None, None) };
    let what = format!(
        "attention of {} heads over {} in the form {}{}{}",
        heads.count,
        k.count(),
        if flat { "[batch, seq, heads·dim]" } else { "[batch, heads, seq, dim]" },
        if masked { ", masked" } else { "" },
        if is_causal { ", causal" } else { "" }
    );
    let op = ops::Attention { q_num_heads, kv_num_heads, is_causal, ..op };
    let out = patch.add_node(name, Arc::new(op), &inputs, &[true]).map_err(told)?;
    let mut out = out[0].expect("the output was asked for");
    let extents = [heads.batch.clone(), heads.count.clone(), q.seq(), v.dim()];
    out = as_before(view, &mut patch, name, out, y, (extents, flat, q.layout.root))?;
    patch.redirect(y, out).map_err(told)?;
    Ok(Fused { patch, flat, what })
}

/// The result `out` of attention in the shape of `y`, which it stands in for. The result has the
/// given batch, heads, length and head size, in the flat form or not; extents may also be read
/// from `near`.
fn as_before(
    view: &View,
    patch: &mut Patch,
    name: &str,
    mut out: Wire,
    y: ValueId,
    ([batch, heads, seq, dim], flat, near): ([Dim; 4], bool, ValueId),
) -> Result<Wire, String> {
    let told = |e: deepseek_tensor::Error| e.message().to_owned();
    let shape = view.shape(y).ok_or("the rank of the result is not known")?;
    let single = flat && heads.as_const() == Some(1) && shape.len() == 3;
    if flat && !single {
        let number = |d: &Dim| d.as_const().map(extents::Part::Number);
        let parts = [Some(extents::Part::Number(0)); 2].into_iter();
        let parts: Option<Vec<_>> = parts.chain([number(&heads), number(&dim)]).collect();
        let parts = parts.ok_or("the head size of the values is not a number")?;
        let apart = extents::add(patch, &format!("{name}.shape"), &parts).map_err(told)?;
        let by_head = format!("{name}.by_head");
        out = patch.add(&by_head, ops::Reshape::default(), &[out, apart]).map_err(told)?;
        let perm = vec![0, 2, 1, 3];
        out = patch.add(&by_head, ops::Transpose { perm }, &[out]).map_err(told)?;
    }
    let dims = if single { vec![batch, seq, dim] } else { vec![batch, heads, seq, dim] };
    if !view.same_dims(&dims, shape) {
        let parts = extents::reshape(view, near, &dims, shape)
            .ok_or("an extent of the result cannot be read")?;
        let to = extents::add(patch, &format!("{name}.shape"), &parts).map_err(told)?;
        let merged = format!("{name}.merged");
        out = patch.add(&merged, ops::Reshape::default(), &[out, to]).map_err(told)?;
    }
    Ok(out)
}

/// Whether all that read `v` move its axes, at once or after a reshape.
fn moves(view: &View, v: ValueId, depth: usize) -> bool {
    depth > 0
        && !view.is_output(v)
        && view.readers(v).all(|n| match n.op.name() {
            "Transpose" => true,
            "Reshape" => output(n).is_some_and(|o| moves(view, o, depth - 1)),
            _ => false,
        })
}

/// The extents that the three agree on.
fn agree(view: &View, q: &Operand, k: &Operand, v: &Operand) -> Result<Heads, String> {
    let differ =
        |what: &str, a: &Dim, b: &Dim| Err(format!("{what} {a} and {b} are not proven equal"));
    for (what, a, b) in [
        ("the batches of q and k", q.batch(), k.batch()),
        ("the batches of k and v", k.batch(), v.batch()),
        ("the lengths of k and v", k.seq(), v.seq()),
        ("the head sizes of q and k", q.dim(), k.dim()),
        ("the heads of k and v", k.count(), v.count()),
        ("the repetitions of k and v", Dim::from(k.repeats), Dim::from(v.repeats)),
        ("the heads of q and those of k, repeated,", q.count(), k.count() * k.repeats),
    ] {
        if !view.same(&a, &b) {
            return differ(what, &a, &b);
        }
    }
    if q.repeats != 1 {
        return Err("the heads of q are repeated".to_owned());
    }
    Ok(Heads { batch: q.batch(), count: q.count(), keys: k.seq() })
}
