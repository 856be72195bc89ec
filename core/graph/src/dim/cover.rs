//! Formulas that are at least as large as others, and shorter.
//!
//! The exact maximum of many sums may be too long to write down. What bounds it stays short:
//! rounding is dropped in favour of the worst that it can do, and of two sums the greater
//! coefficient of each term counts.

use super::bounds::Interval;
use super::expr::{self, Atom, Factor, Mono, Node, Op, Term};
use super::{Bounds, Dim};
use std::cmp::Ordering;

impl Dim {
    /// A formula that is never less than `self` within the bounds, and rounds no quotient by a
    /// number where a polynomial bounds it: `64*floordiv(x+15,16)` gives `4*x+60`.
    pub fn without_rounding(&self, bounds: &Bounds) -> Dim {
        let mut exact = Vec::new();
        let mut sum = Vec::new();
        for term in &*self.terms() {
            match unrounded(term, bounds) {
                Some(bound) => sum.push(bound),
                None => exact.push(term.clone()),
            }
        }
        if sum.is_empty() {
            return self.clone();
        }
        sum.push(expr::from_sorted(exact));
        Dim::sum(sum)
    }

    /// A formula that is never less than either within the bounds: of each term the greater
    /// coefficient, or `max` where a term may be negative.
    pub fn cover(&self, other: &Dim, bounds: &Bounds) -> Dim {
        if let Some(poisoned) = [self, other].into_iter().find(|d| d.is_poisoned()) {
            return poisoned.clone();
        }
        let (left, right) = (self.terms(), other.terms());
        let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
        let mut terms: Vec<Term> = Vec::new();
        loop {
            let (mono, a, b) = match (left.peek(), right.peek()) {
                (None, None) => return expr::from_sorted(terms),
                (Some(x), None) => (&x.mono, x.coef, 0),
                (None, Some(y)) => (&y.mono, 0, y.coef),
                (Some(x), Some(y)) => match x.mono.cmp(&y.mono) {
                    Ordering::Greater => (&x.mono, x.coef, 0),
                    Ordering::Less => (&y.mono, 0, y.coef),
                    Ordering::Equal => (&x.mono, x.coef, y.coef),
                },
            };
            if a != b && !never_negative(mono, bounds) {
                return self.max(other);
            }
            let coef = a.max(b);
            if coef != 0 {
                terms.push(Term { mono: mono.clone(), coef });
            }
            left.next_if(|x| x.mono == *mono);
            right.next_if(|y| y.mono == *mono);
        }
    }
}

fn never_negative(mono: &Mono, bounds: &Bounds) -> bool {
    mono.0.iter().all(|f| Interval::of_atom(&f.atom, bounds).min() >= 0)
}

/// A bound of the term without its rounded quotients, if there is one: with `x >= 0`, a factor
/// `floordiv(x,d)` is at most `x/d`.
fn unrounded(term: &Term, bounds: &Bounds) -> Option<Dim> {
    let quotient = |f: &Factor| -> Option<(Dim, i64)> {
        let Factor { atom: Atom::Node(node), power: 1 } = f else { return None };
        let Node { op: Op::FloorDiv, args, .. } = &**node else { return None };
        let divisor = args[1].as_const().filter(|&d| d > 0)?;
        (Interval::of(&args[0], bounds).min() >= 0).then(|| (args[0].clone(), divisor))
    };
    if term.coef <= 0 {
        return None;
    }
    let at = term.mono.0.iter().position(|f| quotient(f).is_some())?;
    let (numerator, divisor) = quotient(&term.mono.0[at])?;
    let mut rest = term.mono.clone();
    rest.0.remove(at);
    if !never_negative(&rest, bounds) {
        return None;
    }
    // Rounded up, so that what is left is still at least as large.
    let coef = term.coef / divisor + i64::from(term.coef % divisor != 0);
    let rest = expr::from_sorted(vec![Term { mono: rest, coef }]);
    Some((rest * numerator).without_rounding(bounds))
}
