//! Which conditions say that a query attends to no later key.

use crate::ops::util::to_f64;
use crate::passes::grid::counts;
use crate::passes::view::{View, input};
use crate::{ValueId, ops};
use deepseek_tensor::{DType, Tensor};

/// A condition that must hold, or, if `negated`, must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub value: ValueId,
    pub negated: bool,
}

/// The literals that hold together exactly where `value` holds (does not hold, if `negated`).
pub(super) fn conjunction(view: &View, value: ValueId, negated: bool) -> Vec<Literal> {
    let mut open = vec![Literal { value, negated }];
    let mut found = Vec::new();
    while let Some(literal) = open.pop() {
        let Literal { value, negated } = literal;
        let both =
            if negated { view.binary::<ops::Or>(value) } else { view.binary::<ops::And>(value) };
        if let Some(x) = view.unary::<ops::Not>(value) {
            open.push(Literal { value: x, negated: !negated });
        } else if let Some((a, b)) = both.filter(|_| found.len() + open.len() < 8) {
            open.extend([b, a].map(|value| Literal { value, negated }));
        } else if !is_constant(view, value, !negated) && !is_trivial(view, literal) {
            found.push(literal);
        }
    }
    found
}

/// Whether all elements of a constant condition are `want`.
fn is_constant(view: &View, v: ValueId, want: bool) -> bool {
    filled(view, v) == Some(f64::from(u8::from(want)))
}

/// The number that all elements of a value are, by what makes it.
pub(super) fn filled(view: &View, v: ValueId) -> Option<f64> {
    fill(view, v, 8)
}

fn fill(view: &View, v: ValueId, depth: usize) -> Option<f64> {
    let depth = depth.checked_sub(1)?;
    if let Some(t) = view.constant(v) {
        let data = to_f64(&t).ok()?;
        let first = *data.first()?;
        return data.iter().all(|x| *x == first).then_some(first);
    }
    let (node, _) = view.writer(v)?;
    if let Some(op) = node.op.downcast::<ops::ConstantOfShape>() {
        return match &op.value {
            None => Some(0.0),
            Some(t) => to_f64(t).ok()?.first().copied(),
        };
    }
    match node.op.name() {
        "Expand" | "Reshape" | "Unsqueeze" | "Squeeze" | "Tile" | "Slice" | "Transpose" => {
            fill(view, input(node, 0)?, depth)
        }
        "Cast" => {
            let x = fill(view, input(node, 0)?, depth)?;
            let to = view.dtype(v)?;
            let kept = to.is_float() || x.fract() == 0.0 && x.abs() < 128.0;
            if to == DType::Bool { Some(f64::from(u8::from(x != 0.0))) } else { kept.then_some(x) }
        }
        _ => None,
    }
}

/// Whether a literal holds exactly where the index along the last axis is at most the one along
/// the axis before it, for all leading indices.
pub(super) fn is_causal(view: &View, literal: Literal) -> bool {
    let Literal { value, negated } = literal;
    let unit =
        |s: &[crate::Dim]| s.len() >= 2 && s[..s.len() - 2].iter().all(|d| d.as_const() == Some(1));
    if !view.shape(value).is_some_and(unit) {
        return false;
    }
    if let Some((node, _)) = view.writer(value) {
        let (a, b) = (input(node, 0), input(node, 1));
        let rows_first = |a: Option<ValueId>, b: Option<ValueId>| {
            a.is_some_and(|a| index(view, a, 1)) && b.is_some_and(|b| index(view, b, 0))
        };
        match node.op.name() {
            "LessOrEqual" => return !negated && rows_first(b, a),
            "GreaterOrEqual" => return !negated && rows_first(a, b),
            "Greater" => return negated && rows_first(b, a),
            "Less" => return negated && rows_first(a, b),
            "Cast" => {
                return a.is_some_and(|x| triangle(view, x).is_some_and(|t| t.says(negated)));
            }
            _ => {}
        }
    }
    triangle(view, value).is_some_and(|t| t.says(negated))
}

/// A triangle of one value, zeros elsewhere.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Triangle {
    /// Where it is not zero: keys after the query, or keys up to the query.
    later: bool,
    pub value: f64,
}

impl Triangle {
    /// Whether it is true where a literal of this sign makes attention causal.
    fn says(self, negated: bool) -> bool {
        self.value != 0.0 && self.later == negated
    }

    /// Whether adding it to scores hides later keys.
    pub fn hides_later(self) -> bool {
        self.later
    }
}

/// The triangle that a value is.
pub(super) fn triangle(view: &View, v: ValueId) -> Option<Triangle> {
    if let Some(t) = view.constant(v) {
        return constant_triangle(&t);
    }
    let (node, _) = view.writer(v)?;
    let x = input(node, 0)?;
    if let Some(op) = node.op.downcast::<ops::Trilu>() {
        let k = match input(node, 1) {
            Some(k) => *view.ints(k)?.first()?,
            None => 0,
        };
        if !matches!((op.upper, k), (true, 1) | (false, 0)) {
            return None;
        }
        return Some(Triangle { later: op.upper, value: filled(view, x)? });
    }
    if node.op.downcast::<ops::Slice>().is_some() {
        // A corner of a triangle is one.
        let starts = view.ints(input(node, 1)?)?;
        let steps = match input(node, 4) {
            Some(steps) => view.ints(steps)?,
            None => Vec::new(),
        };
        let corner = starts.iter().all(|&s| s == 0) && steps.iter().all(|&s| s == 1);
        return if corner { triangle(view, x) } else { None };
    }
    let rank_kept = matches!(node.op.name(), "Unsqueeze" | "Reshape" | "Squeeze" | "Expand") && {
        let tail =
            |v: ValueId| view.shape(v).and_then(|s| Some(s[s.len().checked_sub(2)?..].to_vec()));
        tail(v).is_some() && tail(v) == tail(x)
    };
    if rank_kept { triangle(view, x) } else { None }
}

fn constant_triangle(t: &Tensor) -> Option<Triangle> {
    let shape = t.shape();
    let (&cols, &rows) = (shape.last()?, shape.get(shape.len().checked_sub(2)?)?);
    if t.len() > 1 << 24 || rows < 2 || cols < 2 {
        return None;
    }
    let data = to_f64(t).ok()?;
    let (corner, outside) = (data[0], data[1]);
    let (later, value) = if outside != 0.0 { (true, outside) } else { (false, corner) };
    let is = data.chunks_exact(rows * cols).all(|matrix| {
        matrix.iter().enumerate().all(|(at, &x)| {
            let (i, j) = (at / cols, at % cols);
            x == if (j > i) == later { value } else { 0.0 }
        })
    });
    (is && value != 0.0).then_some(Triangle { later, value })
}

/// Whether a value counts from 0 along the axis `from_last` axes before the last and is the same
/// along all others.
fn index(view: &View, v: ValueId, from_last: usize) -> bool {
    let rank = view.rank(v).unwrap_or(0);
    counts(view, v).is_some_and(|(axis, _)| axis + from_last + 1 == rank)
}

/// Whether a condition holds for every index: none is below 0.
fn is_trivial(view: &View, literal: Literal) -> bool {
    let Some((node, _)) = view.writer(literal.value) else { return false };
    let (Some(a), Some(b)) = (input(node, 0), input(node, 1)) else { return false };
    let from = |v: ValueId| counts(view, v).is_some();
    let zero = |v: ValueId| view.ints(v).is_some_and(|n| n.iter().all(|&x| x <= 0));
    match (node.op.name(), literal.negated) {
        ("GreaterOrEqual", false) | ("Less", true) => from(a) && zero(b),
        ("LessOrEqual", false) | ("Greater", true) => zero(a) && from(b),
        _ => false,
    }
}
