//! From a value to the root of its layout.

use super::{Kind, Layout};
use crate::ops::util::normalize_axis;
use crate::passes::view::{View, input};
use crate::{Dim, Node, Operator, ValueId, ops};

/// Chains are not followed further than this.
const MAX_STEPS: usize = 32;

/// What a layout may contain besides reshapes and transposes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::passes) struct Rules {
    /// Slices and gathers of one of several equal parts.
    pub picks: bool,
    /// Axes that are repeated.
    pub repeats: bool,
    /// Multiplication by a constant number.
    pub scales: bool,
}

/// The layout of `v` over the furthest root that the rules reach; `None` if its rank is not known.
pub(in crate::passes) fn trace(view: &View, v: ValueId, rules: Rules) -> Option<Layout> {
    let mut chain = Vec::new();
    let mut at = v;
    while chain.len() < MAX_STEPS
        && let Some((node, slot)) = view.writer(at)
        && let Some(from) = step(view, node, at, rules)
        && view.rank(from).is_some()
    {
        chain.push((node, slot, at));
        at = from;
    }
    let mut layout = Layout::identity(view, at)?;
    for (node, slot, to) in chain.into_iter().rev() {
        let mut next = layout.clone();
        layout = match apply(view, &mut next, node, slot, to) {
            Some(()) => {
                next.steps += 1;
                next
            }
            None => Layout::identity(view, to)?,
        };
    }
    Some(layout)
}

/// The value that node moves around, if the rules know the node.
fn step(view: &View, node: &Node, v: ValueId, rules: Rules) -> Option<ValueId> {
    let known = match node.op.name() {
        "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => true,
        "Gather" | "Split" | "Slice" => rules.picks,
        "Expand" | "Tile" => rules.repeats,
        "Mul" | "Div" if rules.scales => return view.scaled(v).map(|(x, _)| x),
        _ => false,
    };
    if known { input(node, 0) } else { None }
}

fn is<T: Operator>(node: &Node) -> bool {
    node.op.downcast::<T>().is_some()
}

/// Adds a node to the layout of its input.
fn apply(view: &View, layout: &mut Layout, node: &Node, slot: usize, to: ValueId) -> Option<()> {
    let shape = view.shape(to)?;
    if let Some(op) = node.op.downcast::<ops::Transpose>() {
        let rank = layout.axes.len();
        let reversed: Vec<i64> = (0..rank as i64).rev().collect();
        let perm = if op.perm.is_empty() { &reversed } else { &op.perm };
        layout.axes = perm
            .iter()
            .map(|&a| Some(layout.axes[normalize_axis(a, rank).ok()?].clone()))
            .collect::<Option<_>>()?;
        Some(())
    } else if let Some(op) = node.op.downcast::<ops::Gather>() {
        let rank = layout.axes.len();
        let axis = normalize_axis(op.axis, rank).ok()?;
        let indices = input(node, 1)?;
        let [index] = *view.ints(indices)? else { return None };
        let n = layout.extent(&layout.axes[axis]).as_const()?;
        let index = usize::try_from(if index < 0 { index + n } else { index }).ok()?;
        layout.pick(view, axis, index, 1)?;
        match view.rank(indices)? {
            0 => drop(layout.axes.remove(axis)),
            1 => {}
            _ => return None,
        }
        Some(())
    } else if let Some(op) = node.op.downcast::<ops::Split>() {
        let axis = normalize_axis(op.axis, layout.axes.len()).ok()?;
        let part = |o: &Option<ValueId>| view.shape((*o)?)?[axis].as_const();
        let sizes = node.outputs[..=slot].iter().map(part).collect::<Option<Vec<i64>>>()?;
        let (size, start) = (sizes[slot], sizes[..slot].iter().sum::<i64>());
        part_of(view, layout, axis, start, size)
    } else if is::<ops::Slice>(node) {
        slice(view, layout, node, shape)
    } else if is::<ops::Expand>(node) || is::<ops::Tile>(node) {
        repeat(view, layout, shape)
    } else if is::<ops::Mul>(node) || is::<ops::Div>(node) {
        layout.scale *= view.scaled(to)?.1;
        Some(())
    } else {
        let atoms = layout.axes.concat();
        layout.axes = layout.regroup(view, &atoms, shape)?;
        Some(())
    }
}

/// Keeps `size` elements of an axis from `start` on.
fn part_of(view: &View, layout: &mut Layout, axis: usize, start: i64, size: i64) -> Option<()> {
    let (start, size) = (usize::try_from(start).ok()?, usize::try_from(size).ok()?);
    if size == 0 || !start.is_multiple_of(size) {
        return None;
    }
    layout.pick(view, axis, start / size, size)
}

fn slice(view: &View, layout: &mut Layout, node: &Node, shape: &[Dim]) -> Option<()> {
    let list = |i: usize| input(node, i).map(|v| view.ints(v));
    let (starts, ends) = (list(1)??, list(2)??);
    let axes = match list(3) {
        Some(axes) => axes?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = list(4).unwrap_or_else(|| Some(Vec::new()))?;
    if steps.iter().any(|&s| s != 1) || ends.len() != starts.len() || axes.len() != starts.len() {
        return None;
    }
    for (&start, axis) in starts.iter().zip(axes) {
        let axis = normalize_axis(axis, layout.axes.len()).ok()?;
        let n = layout.extent(&layout.axes[axis]);
        if view.same(&n, &shape[axis]) {
            continue;
        }
        let n = n.as_const()?;
        let start = if start < 0 { start + n } else { start };
        part_of(view, layout, axis, start, shape[axis].as_const()?)?;
    }
    Some(())
}

/// Broadcasts the view to `shape`.
fn repeat(view: &View, layout: &mut Layout, shape: &[Dim]) -> Option<()> {
    let lead = shape.len().checked_sub(layout.axes.len())?;
    let mut axes = vec![Vec::new(); lead];
    axes.append(&mut layout.axes);
    for (axis, dim) in axes.iter_mut().zip(shape) {
        let have = layout.extent(axis);
        if view.same(&have, dim) {
            continue;
        }
        if !axis.is_empty() {
            return None;
        }
        axis.push(layout.atom(dim.clone(), Kind::Repeat));
    }
    layout.axes = axes;
    Some(())
}
