//! Proofs of order: does one formula never exceed another?
//!
//! `a <= b` is `b - a >= 0`, and the difference is canonical, so what is common has cancelled. If
//! its interval does not settle it, four things are tried. *Factoring* drops what every term
//! shares, which proves `b*x <= 128*x` for `b <= 128`. *Shifting* measures symbols from their
//! bounds (`s = min + s'` or `s = max - s'`), which proves `x <= x*y` for `y >= 1`.
//! *Rounding* multiplies by a divisor and replaces a rounded quotient by the worse of its bounds,
//! which proves `x <= 16*ceildiv(x,16)`. *Cases* follow each argument of `min`, `max` and
//! `broadcast`. Failing to prove says nothing; the work is limited by a fixed budget.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::bounds::Interval;
use super::expr::{self, Atom, Factor, Mono, Node, Op, Term};
use super::{Bounds, Dim, Symbol};

/// How many differences one proof looks at.
const BUDGET: u32 = 48;

impl Dim {
    /// Whether `self <= other` is proven for every binding within the bounds for which both have
    /// a value. `false` means not proven.
    pub fn always_le(&self, other: &Dim, bounds: &Bounds) -> bool {
        let difference = other - self;
        !difference.is_poisoned() && Proof { budget: BUDGET }.not_negative(&difference, bounds)
    }

    /// Whether `self < other` is proven, in the sense of [`Dim::always_le`].
    pub fn always_lt(&self, other: &Dim, bounds: &Bounds) -> bool {
        (self + 1).always_le(other, bounds)
    }

    /// Whether `self == other` is proven, in the sense of [`Dim::always_le`]: they are the same
    /// formula, or neither ever exceeds the other. A poisoned formula equals nothing.
    pub fn always_eq(&self, other: &Dim, bounds: &Bounds) -> bool {
        if self == other {
            return !self.is_poisoned();
        }
        self.always_le(other, bounds) && other.always_le(self, bounds)
    }

    /// The order of the two values, if it is proven to be the same for every binding within the
    /// bounds.
    pub fn cmp_under(&self, other: &Dim, bounds: &Bounds) -> Option<Ordering> {
        if self.always_eq(other, bounds) {
            Some(Ordering::Equal)
        } else if self.always_lt(other, bounds) {
            Some(Ordering::Less)
        } else if other.always_lt(self, bounds) {
            Some(Ordering::Greater)
        } else {
            None
        }
    }
}

struct Proof {
    budget: u32,
}

impl Proof {
    /// Whether `dim >= 0` for every binding within the bounds.
    fn not_negative(&mut self, dim: &Dim, bounds: &Bounds) -> bool {
        let Some(budget) = self.budget.checked_sub(1) else { return false };
        self.budget = budget;
        let dim = &without_common_factor(dim, bounds);
        if Interval::of(dim, bounds).min() >= 0 || shifted_not_negative(dim, bounds) {
            return true;
        }
        nodes(dim).iter().any(|node| self.without_node(dim, node, bounds))
    }

    /// Replaces one node by what bounds it, and proves what is left.
    fn without_node(&mut self, dim: &Dim, node: &Node, bounds: &Bounds) -> bool {
        let Some((with, rest)) = split_by_node(dim, node) else { return false };
        let signs = || with.iter().map(|(coef, cofactor)| (*coef, cofactor));
        // A bound may replace the node only under a factor that is never negative.
        let monotone = signs().all(|(_, cofactor)| Interval::of(cofactor, bounds).min() >= 0);
        let put = |value: &Dim| {
            let terms = signs().map(|(coef, cofactor)| cofactor * coef * value);
            &rest + Dim::sum(terms)
        };
        match (node.op, &*node.args) {
            (Op::FloorDiv | Op::CeilDiv, [a, d]) => {
                if !monotone || Interval::of(d, bounds).min() < 0 {
                    return false;
                }
                // d·⌊a/d⌋ is in [a-d+1, a], d·⌈a/d⌉ in [a, a+d-1].
                let (low, high) = match node.op {
                    Op::FloorDiv => (a - d + 1, a.clone()),
                    _ => (a.clone(), a + d - 1),
                };
                let terms = signs()
                    .map(|(coef, cofactor)| cofactor * coef * if coef > 0 { &low } else { &high });
                // Of d·x > -d follows x > -1, and x >= 0 as it is an integer: d-1 to spare.
                self.not_negative(&(&rest * d + Dim::sum(terms) + d - 1), bounds)
            }
            (Op::Mod, [a, d]) => {
                let by_range = monotone && Interval::of(d, bounds).min() >= 0 && {
                    let high = d - 1;
                    let terms = signs().filter(|(coef, _)| *coef < 0);
                    let worst = Dim::sum(terms.map(|(coef, cofactor)| cofactor * coef * &high));
                    self.not_negative(&(&rest + worst), bounds)
                };
                by_range || self.not_negative(&put(&(a - d * a.floor_div(d))), bounds)
            }
            (Op::Min | Op::Max | Op::Broadcast, args) => {
                // `min` is at most each argument, so where it counts negatively one will do.
                let one_will_do = monotone
                    && match node.op {
                        Op::Min => signs().all(|(coef, _)| coef < 0),
                        Op::Max => signs().all(|(coef, _)| coef > 0),
                        _ => false,
                    };
                let mut cases = args.iter().map(put);
                if one_will_do {
                    cases.any(|case| self.not_negative(&case, bounds))
                } else {
                    cases.all(|case| self.not_negative(&case, bounds))
                }
            }
            _ => false,
        }
    }
}

/// `dim` without the atoms that divide every term and are never negative.
fn without_common_factor(dim: &Dim, bounds: &Bounds) -> Dim {
    let terms = dim.terms();
    let common = terms.iter().map(|term| term.mono.clone()).reduce(|a, b| a.gcd(&b));
    let Some(Mono(mut factors)) = common else { return dim.clone() };
    factors.retain(|factor| Interval::of_atom(&factor.atom, bounds).min() >= 0);
    let common = Term { mono: Mono(factors), coef: 1 };
    expr::from_sorted(terms.iter().filter_map(|term| term.div(&common)).collect())
}

/// The interval test with symbols measured from their bounds.
fn shifted_not_negative(dim: &Dim, bounds: &Bounds) -> bool {
    let symbols: Vec<Symbol> = dim.symbols().into_iter().collect();
    let mut shift = BTreeMap::new();
    let mut shifted = Bounds::new();
    for symbol in &symbols {
        let (min, max) = bounds.get(symbol);
        // `shift` keeps 0 <= min <= max, so the difference neither overflows nor is negative.
        let ok = shifted.set(symbol.clone(), 0, max.map(|max| max - min));
        debug_assert!(ok.is_ok());
        if min > 0 {
            shift.insert(symbol.clone(), Dim::from(symbol) + min);
        }
    }
    let low = if shift.is_empty() { dim.clone() } else { dim.substitute(&shift) };
    if !shift.is_empty() && Interval::of(&low, &shifted).min() >= 0 {
        return true;
    }
    let reflections: Vec<_> = symbols
        .iter()
        .filter_map(|symbol| {
            let width = shifted.get(symbol).1?;
            Some((symbol.clone(), width - Dim::from(symbol)))
        })
        .collect();
    let holds =
        |map: BTreeMap<Symbol, Dim>| Interval::of(&low.substitute(&map), &shifted).min() >= 0;
    reflections.iter().any(|one| holds(BTreeMap::from([one.clone()])))
        || reflections.len() > 1 && holds(reflections.into_iter().collect())
}

/// The nodes that the terms of `dim` multiply, each once.
fn nodes(dim: &Dim) -> Vec<Arc<Node>> {
    let mut found = Vec::new();
    for factor in dim.terms().iter().flat_map(|term| &term.mono.0) {
        if let Atom::Node(node) = &factor.atom
            && !found.contains(node)
        {
            found.push(node.clone());
        }
    }
    found
}

/// The terms with the node, as coefficient and cofactor, and the sum of the others. `None` where
/// the node occurs to a higher power.
fn split_by_node(dim: &Dim, node: &Node) -> Option<(Vec<(i64, Dim)>, Dim)> {
    let (mut with, mut rest): (_, Vec<Term>) = (Vec::new(), Vec::new());
    let is_node = |factor: &Factor| matches!(&factor.atom, Atom::Node(twin) if **twin == *node);
    for term in &*dim.terms() {
        match term.mono.0.iter().position(is_node) {
            None => rest.push(term.clone()),
            Some(at) if term.mono.0[at].power == 1 => {
                let mut factors = term.mono.0.clone();
                factors.remove(at);
                with.push((
                    term.coef,
                    expr::from_sorted(vec![Term { mono: Mono(factors), coef: 1 }]),
                ));
            }
            Some(_) => return None,
        }
    }
    Some((with, expr::from_sorted(rest)))
}
