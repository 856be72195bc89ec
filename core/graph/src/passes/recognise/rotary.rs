//! Rotary position embedding by its formula.

use crate::ops::util::{normalize_axis, to_f64};
use crate::passes::layout::{Rules, trace};
use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire};
use crate::{Graph, Node, ValueId, ops};
use deepseek_tensor::{Result, Tensor};

/// Elements of a table that are compared.
const SCAN_LIMIT: usize = 1 << 22;

/// Finds `x · cos + rotate(x) · sin`, where `rotate` exchanges the halves of each head, or the
/// neighbours of each pair, and negates what comes first, and cosines and sines are the same for what
/// is exchanged; or both parts computed apart and put together. That is a
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
    /// Whether neighbours are exchanged, not halves.
    pairs: bool,
    /// Whether cosines and sines are of half a head, and not of all of it.
    apart: bool,
}

fn rotation(view: &View, y: ValueId) -> Option<Rotation> {
    view.either::<ops::Add>(y)
        .find_map(|(plain, turned)| {
            view.either::<ops::Mul>(turned).find_map(|(r, sin)| {
                let (first, second, pairs) = joined(view, r)?;
                let negated = match view.unary::<ops::Neg>(first) {
                    Some(x) => x,
                    None => view.scaled(first).filter(|(_, c)| *c == -1.0)?.0,
                };
                let (a, b) = (part_of(view, negated)?, part_of(view, second)?);
                let (x, half) = (a.x, a.half);
                let turned = x == b.x && a.second && !b.second && [a.pairs, b.pairs] == [pairs; 2];
                let (_, cos) = view.either::<ops::Mul>(plain).find(|(other, _)| *other == x)?;
                let found = Rotation { x, cos, sin, half, pairs, apart: false };
                (turned && view.same_shape(x, y)).then_some(found)
            })
        })
        .or_else(|| apart(view, y))
}

/// `p · cos − q · sin` and `p · sin + q · cos` put together, of the parts `p` and `q` of a value.
fn apart(view: &View, y: ValueId) -> Option<Rotation> {
    let (first, second, pairs) = joined(view, y)?;
    let (left, right) = view.binary::<ops::Sub>(first)?;
    view.either::<ops::Mul>(left).find_map(|(p, cos)| {
        let a = part_of(view, p).filter(|a| !a.second && a.pairs == pairs)?;
        view.either::<ops::Mul>(right).find_map(|(q, sin)| {
            let b = part_of(view, q).filter(|b| b.second && b.pairs == pairs && b.x == a.x)?;
            let other = view.either::<ops::Add>(second).any(|(u, v)| {
                view.either::<ops::Mul>(u).any(|m| m == (p, sin))
                    && view.either::<ops::Mul>(v).any(|m| m == (q, cos))
            });
            let found = Rotation { x: a.x, cos, sin, half: b.half, pairs, apart: true };
            (other && view.same_shape(a.x, y)).then_some(found)
        })
    })
}

/// The two values whose elements follow each other along the last axis of `v`: one after the other,
/// or, if the third is true, in turn.
fn joined(view: &View, v: ValueId) -> Option<(ValueId, ValueId, bool)> {
    let halves = |v: ValueId| {
        let (op, node) = view.made_by::<ops::Concat>(v)?;
        let [Some(first), Some(second)] = *node.inputs else { return None };
        let rank = view.rank(v)?;
        (normalize_axis(op.axis, rank).ok()? + 1 == rank).then_some((first, second))
    };
    if let Some((first, second)) = halves(v) {
        return Some((first, second, false));
    }
    let (_, node) = view.made_by::<ops::Reshape>(v)?;
    let (first, second) = halves(input(node, 0)?)?;
    let whole = view.shape(v)?;
    // `[…, half]` as `[…, half, 1]`.
    let column = |v: ValueId| {
        let (node, _) = view.writer(v)?;
        let x = matches!(node.op.name(), "Unsqueeze" | "Reshape").then(|| input(node, 0))??;
        let (wide, flat) = (view.shape(v)?, view.shape(x)?);
        let (one, rest) = wide.split_last()?;
        let (half, lead) = flat.split_last()?;
        let (last, before) = whole.split_last()?;
        let fits = one.as_const() == Some(1)
            && view.same_dims(rest, flat)
            && view.same_dims(lead, before)
            && Some(2 * half.as_const()?) == last.as_const();
        fits.then_some(x)
    };
    Some((column(first)?, column(second)?, true))
}

/// One half of the elements of a value along the last axis.
struct Part {
    x: ValueId,
    /// How many.
    half: usize,
    /// Every second of them, not one half after the other.
    pairs: bool,
    second: bool,
}

fn part_of(view: &View, v: ValueId) -> Option<Part> {
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
        let part = Part { x, half, pairs: false, second: slot > 0 };
        return is_last(op.axis).then_some(part);
    }
    node.op.downcast::<ops::Slice>()?;
    let list = |i: usize| input(node, i).and_then(|v| view.ints(v));
    let ([start], [axis]) = (&list(1)?[..], &list(3)?[..]) else { return None };
    let step = if input(node, 4).is_none() { 1 } else { *list(4)?.first()? };
    let start = usize::try_from(if *start < 0 { start + whole as i64 } else { *start }).ok()?;
    let (pairs, second) = match (step, start) {
        (1, 0) => (false, false),
        (1, _) if start == half => (false, true),
        (2, 0 | 1) => (true, start == 1),
        _ => return None,
    };
    is_last(*axis).then_some(Part { x, half, pairs, second })
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
            if !self.apart && !repeats(view, v, self.pairs, 16) {
                let both = if self.pairs { "neighbours" } else { "halves" };
                return Err(format!("its {what} is not proven the same for both {both}"));
            }
            inputs.push(self.angles(view, &mut patch, &format!("{name}.{what}"), v)?);
        }
        let op = ops::RotaryEmbedding { interleaved: self.pairs, ..Default::default() };
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
            && layout.extent(&dim).as_const()
                == Some(if self.apart { 1 } else { 2 } * self.half as i64);
        if !fits {
            return Err(wrong());
        }
        let plan = layout.plan(view, &[batch, seq, dim]).ok_or_else(wrong)?;
        let told = |e: deepseek_tensor::Error| e.message().to_owned();
        let all = plan.add(patch, name, layout.root.into()).map_err(told)?;
        if self.apart {
            return Ok(all);
        }
        let mut list = |what: &str, n: usize| {
            let t = Tensor::from_slice(&[1], &[n as i64]).map_err(told)?;
            Ok::<_, String>(patch.constant(&format!("{name}.{what}"), t))
        };
        let (end, step) = if self.pairs { (2 * self.half, 2) } else { (self.half, 1) };
        let (start, end, axis) = (list("start", 0)?, list("end", end)?, list("axis", 2)?);
        let mut inputs = vec![all, start, end, axis];
        if step > 1 {
            inputs.push(list("step", step)?);
        }
        patch.add(name, ops::Slice {}, &inputs).map_err(told)
    }
}

/// Whether both halves along the last axis hold the same, or the neighbours of each pair.
fn repeats(view: &View, v: ValueId, pairs: bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    if let Some(t) = view.constant(v) {
        let Some(&width) = t.shape().last() else { return false };
        return t.len() <= SCAN_LIMIT
            && width > 0
            && to_f64(&t).is_ok_and(|data| {
                data.chunks_exact(width).all(|row| match pairs {
                    true => row.chunks_exact(2).all(|p| p[0] == p[1]),
                    false => row[..width / 2] == row[width / 2..],
                })
            });
    }
    let Some((node, 0)) = view.writer(v) else { return false };
    let Some(x) = input(node, 0) else { return false };
    let last = |v: ValueId| view.shape(v).and_then(|s| s.last());
    if pairs && node.op.name() == "Reshape" && last(v) != last(x) {
        // Each element twice: stacked upon itself, or spread along a new axis of two.
        let twice = joined(view, v).is_some_and(|(a, b, pairs)| pairs && a == b);
        return twice || spread_twice(view, v, x).unwrap_or(false);
    }
    match node.op.name() {
        "Cos" | "Sin" | "Cast" | "Neg" => repeats(view, x, pairs, depth),
        "Mul" | "Div" => view.scaled(v).is_some_and(|(x, _)| repeats(view, x, pairs, depth)),
        "Reshape" | "Unsqueeze" | "Squeeze" | "Expand" => {
            last(v).is_some() && last(v) == last(x) && repeats(view, x, pairs, depth)
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
                && repeats(view, x, pairs, depth)
        }
        "Concat" if !pairs => {
            let rank = view.rank(v).unwrap_or(0);
            let axis = node.op.downcast::<ops::Concat>().map_or(0, |op| op.axis);
            node.inputs.len() == 2
                && node.inputs[0] == node.inputs[1]
                && normalize_axis(axis, rank).is_ok_and(|a| a + 1 == rank)
        }
        _ => false,
    }
}

/// Whether `v` is `[…, half, 2]`, each row of which holds one number twice, as `[…, 2·half]`.
fn spread_twice(view: &View, v: ValueId, wide: ValueId) -> Option<bool> {
    let (_, expand) = view.made_by::<ops::Expand>(wide)?;
    let (from, to, flat) = (view.shape(input(expand, 0)?)?, view.shape(wide)?, view.shape(v)?);
    let ([lead @ .., half, two], [before @ .., last]) = (to, flat) else { return None };
    Some(
        from.last()?.as_const() == Some(1)
            && two.as_const() == Some(2)
            && view.same_dims(lead, before)
            && last.as_const() == Some(2 * half.as_const()?),
    )
}
