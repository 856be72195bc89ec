//! Rotary position embedding by its formula.

use crate::ops::util::{normalize_axis, to_f64};
use crate::passes::layout::{Rules, trace};
use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire};
use crate::{Graph, Node, ValueId, ops};
use deepseek_tensor::{Result, Tensor};

/// Elements of a table that are compared.
const SCAN_LIMIT: usize = 1 << 22;

/// Finds `x · cos + rotate(x) · sin`, where `rotate` exchanges the halves of each head and negates
/// what comes first, and cosines and sines are the same for both halves: a
/// [`RotaryEmbedding`](ops::RotaryEmbedding) of `x` `[batch, heads, seq, dim]`.
pub struct FuseRotary;

impl Pass for FuseRotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let Some(found) = rotation(&view, y) else { continue };
            match found.patch(&view, node, y) {
                Ok(patch) => {
                    diagnostics.fired(self.name(), &node.name, || "RotaryEmbedding".to_owned());
                    patches.push(patch);
                }
                Err(why) => {
                    diagnostics.missed(self.name(), &node.name, || format!("a rotation: {why}"));
                }
            }
        }
        Ok(patches)
    }
}

/// `x · cos + rotate(x) · sin`.
struct Rotation {
    x: ValueId,
    cos: ValueId,
    sin: ValueId,
    /// Extent of half a head.
    half: usize,
}

fn rotation(view: &View, y: ValueId) -> Option<Rotation> {
    view.either::<ops::Add>(y).find_map(|(plain, turned)| {
        view.either::<ops::Mul>(turned).find_map(|(r, sin)| {
            let (x, half) = rotated(view, r)?;
            let (_, cos) = view.either::<ops::Mul>(plain).find(|(other, _)| *other == x)?;
            view.same_shape(x, y).then_some(Rotation { x, cos, sin, half })
        })
    })
}

/// `x` and half its last extent if `v = concat(−x[half..], x[..half])`.
fn rotated(view: &View, v: ValueId) -> Option<(ValueId, usize)> {
    let (op, node) = view.made_by::<ops::Concat>(v)?;
    let [Some(first), Some(second)] = *node.inputs else { return None };
    let rank = view.rank(v)?;
    if normalize_axis(op.axis, rank).ok()? + 1 != rank {
        return None;
    }
    let negated = match view.unary::<ops::Neg>(first) {
        Some(x) => x,
        None => view.scaled(first).filter(|(_, c)| *c == -1.0)?.0,
    };
    let (a, start, half) = half_of(view, negated)?;
    let (b, from, _) = half_of(view, second)?;
    (a == b && start == half && from == 0).then_some((a, half))
}

/// The value, the start and the extent if `v` is one half of a value along the last axis.
fn half_of(view: &View, v: ValueId) -> Option<(ValueId, usize, usize)> {
    let (node, slot) = view.writer(v)?;
    let x = input(node, 0)?;
    let last = |v: ValueId| usize::try_from(view.shape(v)?.last()?.as_const()?).ok();
    let (whole, half) = (last(x)?, last(v)?);
    if whole != 2 * half || view.rank(x) != view.rank(v) {
        return None;
    }
    let is_last =
        |axis: i64| view.rank(x).is_some_and(|r| normalize_axis(axis, r).is_ok_and(|a| a + 1 == r));
    if let Some(op) = node.op.downcast::<ops::Split>() {
        return is_last(op.axis).then_some((x, slot * half, half));
    }
    node.op.downcast::<ops::Slice>()?;
    let list = |i: usize| input(node, i).and_then(|v| view.ints(v));
    let ([start], [axis]) = (&list(1)?[..], &list(3)?[..]) else { return None };
    let step = input(node, 4).is_none() || list(4)? == [1];
    let start = usize::try_from(if *start < 0 { start + whole as i64 } else { *start }).ok()?;
    (step && is_last(*axis)).then_some((x, start, half))
}

impl Rotation {
    fn patch<'g>(&self, view: &View<'g>, node: &Node, y: ValueId) -> Result<Patch<'g>, String> {
        let name = &node.name;
        if view.rank(self.x) != Some(4) {
            return Err("its input is not [batch, heads, seq, dim]".to_owned());
        }
        let mut patch = Patch::new(view.graph);
        let mut inputs = vec![Wire::Old(self.x)];
        for (what, v) in [("cos", self.cos), ("sin", self.sin)] {
            if !halves_repeat(view, v, 16) {
                return Err(format!("its {what} is not proven the same for both halves"));
            }
            inputs.push(self.angles(view, &mut patch, &format!("{name}.{what}"), v)?);
        }
        let op = ops::RotaryEmbedding::default();
        let told = |e: deepseek_tensor::Error| e.message().to_owned();
        let new = patch.add(name, op, &inputs).map_err(told)?;
        patch.redirect(y, new).map_err(told)?;
        Ok(patch)
    }

    /// Cosines or sines `[batch or 1, 1, seq, dim]` as `[batch or 1, seq, dim/2]`.
    fn angles(
        &self,
        view: &View,
        patch: &mut Patch,
        name: &str,
        v: ValueId,
    ) -> Result<Wire, String> {
        let wrong = || format!("its angles are {}, not [batch, 1, seq, dim]", view.fact(v));
        let mut layout = trace(view, v, Rules::default()).ok_or_else(wrong)?;
        while layout.axes.len() < 4 {
            layout.axes.insert(0, Vec::new());
        }
        let [batch, heads, seq, dim] =
            <[_; 4]>::try_from(layout.axes.clone()).map_err(|_| wrong())?;
        let x = view.shape(self.x).ok_or_else(wrong)?;
        let fits = heads.is_empty()
            && (batch.is_empty() || view.same(&layout.extent(&batch), &x[0]))
            && view.same(&layout.extent(&seq), &x[2])
            && layout.extent(&dim).as_const() == Some(2 * self.half as i64);
        if !fits {
            return Err(wrong());
        }
        let plan = layout.plan(view, &[batch, seq, dim]).ok_or_else(wrong)?;
        let told = |e: deepseek_tensor::Error| e.message().to_owned();
        let all = plan.add(patch, name, layout.root.into()).map_err(told)?;
        let mut list = |what: &str, n: usize| {
            let t = Tensor::from_slice(&[1], &[n as i64]).map_err(told)?;
            Ok::<_, String>(patch.constant(&format!("{name}.{what}"), t))
        };
        let (start, end, axis) = (list("start", 0)?, list("end", self.half)?, list("axis", 2)?);
        patch.add(name, ops::Slice {}, &[all, start, end, axis]).map_err(told)
    }
}

/// Whether both halves along the last axis hold the same.
fn halves_repeat(view: &View, v: ValueId, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    if let Some(t) = view.constant(v) {
        let Some(&width) = t.shape().last() else { return false };
        return t.len() <= SCAN_LIMIT
            && width > 0
            && to_f64(&t).is_ok_and(|data| {
                data.chunks_exact(width).all(|row| row[..width / 2] == row[width / 2..])
            });
    }
    let Some((node, 0)) = view.writer(v) else { return false };
    let Some(x) = input(node, 0) else { return false };
    let last = |v: ValueId| view.shape(v).and_then(|s| s.last());
    match node.op.name() {
        "Cos" | "Sin" | "Cast" | "Neg" => halves_repeat(view, x, depth),
        "Mul" | "Div" => view.scaled(v).is_some_and(|(x, _)| halves_repeat(view, x, depth)),
        "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" => {
            last(v).is_some() && last(v) == last(x) && halves_repeat(view, x, depth)
        }
        "Slice" | "Gather" => {
            let rank = view.rank(x);
            let forward = input(node, 4).is_none_or(|s| view.ints(s).is_some_and(|s| s == [1]));
            // What is taken is whole rows.
            rank.is_some_and(|r| r > 1)
                && forward
                && last(v).is_some()
                && last(v) == last(x)
                && node.op.downcast::<ops::Gather>().is_none_or(|g| g.axis == 0)
                && halves_repeat(view, x, depth)
        }
        "Concat" => {
            let rank = view.rank(v).unwrap_or(0);
            let axis = node.op.downcast::<ops::Concat>().map_or(0, |op| op.axis);
            node.inputs.len() == 2
                && node.inputs[0] == node.inputs[1]
                && normalize_axis(axis, rank).is_ok_and(|a| a + 1 == rank)
        }
        _ => false,
    }
}
