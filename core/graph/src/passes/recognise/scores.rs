//! From a softmax up to the product of queries and keys.

use super::mask::{Term, TermKind};
use crate::passes::view::{View, input};
use crate::{ValueId, ops};

/// `softcap(q·k · scale) + masks`, where `k` is `[.., dim, seq]`.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    pub q: ValueId,
    pub k: ValueId,
    pub scale: f64,
    pub softcap: f64,
    pub terms: Vec<Term>,
}

/// Nodes between softmax and product.
const MAX_DEPTH: usize = 12;

/// What `v` is, if it is scores.
pub(super) fn scores(view: &View, v: ValueId) -> Result<Scores, String> {
    find(view, v, MAX_DEPTH)
}

fn find(view: &View, v: ValueId, depth: usize) -> Result<Scores, String> {
    let no = || "the softmax is not of a product of two values".to_owned();
    let depth = depth.checked_sub(1).ok_or_else(no)?;
    if let Some((q, k)) = view.binary::<ops::MatMul>(v) {
        if [q, k].iter().any(|&x| view.constant(x).is_some()) {
            return Err(no());
        }
        let plain = Scores { q, k, scale: 1.0, softcap: 0.0, terms: Vec::new() };
        return Ok(plain);
    }
    if let Some((x, c)) = view.scaled(v) {
        if let Some(capped) = view.unary::<ops::Tanh>(x) {
            return capped_scores(view, capped, c, depth);
        }
        let inner = find(view, x, depth)?;
        if !inner.terms.is_empty() || inner.softcap != 0.0 {
            return Err("a scale follows the mask".to_owned());
        }
        return Ok(Scores { scale: inner.scale * c, ..inner });
    }
    if let Some((_, node)) = view.made_by::<ops::Cast>(v)
        && input(node, 0).and_then(|x| view.dtype(x)).is_some_and(|d| d.is_float())
    {
        return find(view, input(node, 0).ok_or_else(no)?, depth);
    }
    if let Some((_, node)) = view.made_by::<ops::Where>(v) {
        let parts = (input(node, 0), input(node, 1), input(node, 2));
        let (Some(cond), Some(a), Some(b)) = parts else { return Err(no()) };
        for (x, other, keeps) in [(a, b, true), (b, a, false)] {
            let (Some(value), Ok(mut inner)) = (view.number(other), find(view, x, depth)) else {
                continue;
            };
            let kind = TermKind::Chosen { keeps, value };
            inner.terms.push(Term { value: cond, kind, at: v });
            return Ok(inner);
        }
        return Err(no());
    }
    for (x, term) in view.either::<ops::Add>(v) {
        if let Ok(mut inner) = find(view, x, depth) {
            if !view.same_shape(x, v) {
                return Err("the mask broadcasts the scores".to_owned());
            }
            inner.terms.push(Term { value: term, kind: TermKind::Added, at: v });
            return Ok(inner);
        }
    }
    if let Some((_, node)) = view.made_by::<ops::Reshape>(v) {
        let x = input(node, 0).ok_or_else(no)?;
        let (Some(a), Some(b)) = (view.shape(x), view.shape(v)) else { return Err(no()) };
        // Batch and heads may be split or merged; queries and keys stay.
        let tail = |s: &[_]| s.len().checked_sub(2);
        if let (Some(i), Some(j)) = (tail(a), tail(b))
            && view.same_dims(&a[i..], &b[j..])
        {
            return find(view, x, depth);
        }
    }
    Err(no())
}

/// `c · tanh(x)` where `x` is scores divided by `c`.
fn capped_scores(view: &View, x: ValueId, c: f64, depth: usize) -> Result<Scores, String> {
    let inner = find(view, x, depth)?;
    if inner.softcap != 0.0 || !inner.terms.is_empty() || c <= 0.0 {
        return Err("the scores are capped twice or after the mask".to_owned());
    }
    Ok(Scores { scale: inner.scale * c, softcap: c, ..inner })
}
