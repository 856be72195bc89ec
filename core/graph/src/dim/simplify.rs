//! Constructors of the operations that are not polynomial, with their simplifications.
//!
//! Every rule hands its rewritten arguments back to a constructor, and a node is made only where
//! no rule applies. So building a node again from its own arguments changes nothing, which is
//! what makes printed text parse back to the same formula. Each rule makes its arguments smaller
//! (fewer terms, a smaller divisor, or fewer nodes), which is why rewriting ends.
//!
//! Rules that compare values use only what holds for every binding: symbols are at least 0.

use super::arith;
use super::bounds::Interval;
use super::expr::{self, Atom, Node, Op, Term};
use super::{Dim, DimError};

/// Above this many arguments `min` and `max` no longer compare them pairwise.
const MAX_COMPARED: usize = 16;

impl Dim {
    /// `⌊self / divisor⌋`, rounding toward negative infinity. A zero divisor is an error when the
    /// formula is evaluated.
    pub fn floor_div(&self, divisor: &Dim) -> Dim {
        divide(Op::FloorDiv, self, divisor)
    }

    /// `⌈self / divisor⌉`. By a positive constant it is the same formula as
    /// `floordiv(self + divisor - 1, divisor)`.
    pub fn ceil_div(&self, divisor: &Dim) -> Dim {
        divide(Op::CeilDiv, self, divisor)
    }

    /// `self - divisor * floordiv(self, divisor)`, which has the sign of the divisor.
    pub fn rem(&self, divisor: &Dim) -> Dim {
        divide(Op::Mod, self, divisor)
    }

    /// The smaller of the two.
    pub fn min(&self, other: &Dim) -> Dim {
        extremum(Op::Min, &[self.clone(), other.clone()])
    }

    /// The greater of the two.
    pub fn max(&self, other: &Dim) -> Dim {
        extremum(Op::Max, &[self.clone(), other.clone()])
    }

    /// The size of one axis of an elementwise result, by the numpy rule: where one side is 1 the
    /// other, else both sides, which must be equal. Evaluating it where they are not is
    /// [`DimError::Broadcast`]. A constant other than 1 wins over a formula, so `broadcast(8,n)`
    /// is 8 and no longer tells when `n` is neither 1 nor 8; who runs the operation checks that.
    pub fn broadcast(&self, other: &Dim) -> Dim {
        broadcast(&[self.clone(), other.clone()])
    }

    /// [`Dim::broadcast`], but two constants that do not fit are [`DimError::Broadcast`] at once.
    pub fn try_broadcast(&self, other: &Dim) -> Result<Dim, DimError> {
        let expr = self.broadcast(other);
        match (self.as_const(), other.as_const()) {
            (Some(left), Some(right)) if !expr.is_const() => {
                Err(DimError::Broadcast { expr, left, right })
            }
            _ => Ok(expr),
        }
    }
}

/// `op(args)` through the constructor of `op`.
pub(super) fn build(op: Op, args: &[Dim]) -> Dim {
    match (op, args) {
        (Op::FloorDiv | Op::CeilDiv | Op::Mod, [a, b]) => divide(op, a, b),
        (Op::Min | Op::Max, _) => extremum(op, args),
        (Op::Broadcast, _) => broadcast(args),
        _ => Dim::product(args),
    }
}

/// The arguments of `dim`, if it is one `op` node and nothing else.
pub(super) fn as_op(dim: &Dim, op: Op) -> Option<&[Dim]> {
    as_node(dim.as_atom()?, op).map(|node| &*node.args)
}

fn as_node(atom: &Atom, op: Op) -> Option<&Node> {
    match atom {
        Atom::Node(node) if node.op == op => Some(node),
        _ => None,
    }
}

/// The node of a term `coef * op(..)`, if the term is one.
fn term_node(term: &Term, op: Op) -> Option<&Node> {
    as_node(term.mono.as_atom()?, op)
}

/// `FloorDiv`, `CeilDiv` or `Mod` of two formulas.
fn divide(op: Op, a: &Dim, d: &Dim) -> Dim {
    if let Some(poisoned) = [a, d].into_iter().find(|dim| dim.is_poisoned()) {
        return poisoned.clone();
    }
    match (a.as_const(), d.as_const()) {
        (_, Some(0)) => expr::node(op, vec![a.clone(), d.clone()]),
        (Some(0), _) => Dim::constant(0),
        (Some(a), Some(d)) => {
            let value = match op {
                Op::FloorDiv => arith::floor_div(a, d),
                Op::CeilDiv => arith::ceil_div(a, d),
                _ => arith::floor_mod(a, d),
            };
            value.map_or_else(Dim::overflow, Dim::constant)
        }
        (_, Some(1 | -1)) if op == Op::Mod => Dim::constant(0),
        (_, Some(1)) => a.clone(),
        _ if d.terms()[0].coef < 0 => {
            let value = divide(op, &-a, &-d);
            if op == Op::Mod { -value } else { value }
        }
        (_, Some(c)) => match op {
            Op::FloorDiv => floor_div_const(a, c),
            Op::CeilDiv => divide(Op::FloorDiv, &(a + (c - 1)), d),
            _ => mod_const(a, c),
        },
        _ => divide_symbolic(op, a, d),
    }
}

/// The greatest divisor of `d` and of every coefficient of `a` but the constant term.
fn content(a: &Dim, d: u64) -> u64 {
    let terms = a.terms();
    let coefs = terms.iter().filter(|term| !term.mono.is_one()).map(|term| term.coef);
    coefs.fold(d, |gcd, coef| arith::gcd(gcd, coef.unsigned_abs()))
}

/// `a` with every coefficient divided, rounding the constant term down.
fn divide_coefs(a: &Dim, divisor: i64) -> Dim {
    let terms = a.terms();
    let divided = terms.iter().filter_map(|term| {
        let coef = term.coef.div_euclid(divisor);
        (coef != 0).then(|| Term { mono: term.mono.clone(), coef })
    });
    expr::from_sorted(divided.collect())
}

/// Splits `a` into `whole * d + rest`, where `whole` takes the terms that `d` divides and the
/// constant term of `rest` is in `[0, d)`.
fn split_const(a: &Dim, d: i64) -> (Dim, Dim) {
    let (mut whole, mut rest) = (Vec::new(), Vec::new());
    for term in &*a.terms() {
        let (quotient, remainder) = (term.coef.div_euclid(d), term.coef.rem_euclid(d));
        if remainder == 0 {
            whole.push(Term { mono: term.mono.clone(), coef: quotient });
        } else if term.mono.is_one() {
            rest.push(Term::constant(remainder));
            if quotient != 0 {
                whole.push(Term::constant(quotient));
            }
        } else {
            rest.push(term.clone());
        }
    }
    (expr::from_sorted(whole), expr::from_sorted(rest))
}

/// `⌊a / d⌋` for `d > 1`.
fn floor_div_const(a: &Dim, d: i64) -> Dim {
    let divisor = Dim::constant(d);
    let (whole, rest) = split_const(a, d);
    if whole != Dim::constant(0) {
        return whole + rest.floor_div(&divisor);
    }
    // ⌊(g·p + r) / (g·d)⌋ = ⌊(p + ⌊r/g⌋) / d⌋. The gcd divides `d`, so it fits.
    let gcd = content(a, d.unsigned_abs()).cast_signed();
    if gcd > 1 {
        return divide_coefs(a, gcd).floor_div(&Dim::constant(d / gcd));
    }
    // ⌊(⌊x/m⌋ + r) / d⌋ = ⌊(x + m·r) / (m·d)⌋.
    for term in a.terms().iter().filter(|term| term.coef == 1) {
        let Some(node) = term_node(term, Op::FloorDiv) else { continue };
        let Some(m) = node.args[1].as_const().filter(|m| *m > 0) else { continue };
        let inner = a - expr::from_sorted(vec![term.clone()]);
        let numerator = &node.args[0] + inner * m;
        if let Some(divisor) = m.checked_mul(d)
            && !numerator.is_poisoned()
        {
            return numerator.floor_div(&Dim::constant(divisor));
        }
    }
    if let Some((low, high)) = Interval::of_sizes(a).finite()
        && low.div_euclid(d) == high.div_euclid(d)
    {
        return Dim::constant(low.div_euclid(d));
    }
    expr::node(Op::FloorDiv, vec![a.clone(), divisor])
}

/// `a mod d` for `d > 1`.
fn mod_const(a: &Dim, d: i64) -> Dim {
    let divisor = Dim::constant(d);
    let (whole, rest) = split_const(a, d);
    if whole != Dim::constant(0) {
        return rest.rem(&divisor);
    }
    // (g·(p+q) + r) mod (g·d) = g·((p+q) mod d) + r for 0 ≤ r < g.
    let gcd = content(a, d.unsigned_abs()).cast_signed();
    if gcd > 1 {
        let reduced = divide_coefs(a, gcd).rem(&Dim::constant(d / gcd));
        return reduced * gcd + a.constant_term().rem_euclid(gcd);
    }
    // x mod m may be x again where d divides k·m: they differ by a multiple of m.
    for term in &*a.terms() {
        let Some(node) = term_node(term, Op::Mod) else { continue };
        let Some(m) = node.args[1].as_const() else { continue };
        let plain = a - expr::from_sorted(vec![term.clone()]) + &node.args[0] * term.coef;
        if term.coef.checked_mul(m).is_some_and(|step| step % d == 0) && !plain.is_poisoned() {
            return plain.rem(&divisor);
        }
    }
    if let Some((low, high)) = Interval::of_sizes(a).finite()
        && low.div_euclid(d) == high.div_euclid(d)
    {
        // The quotient is at most |low|, its product with d at most |low| + d; poison if not.
        return a - Dim::constant(low.div_euclid(d)) * d;
    }
    expr::node(Op::Mod, vec![a.clone(), divisor])
}

/// The value at exact division by a divisor that is not constant and has a positive leading
/// coefficient, else a node.
fn divide_symbolic(op: Op, a: &Dim, d: &Dim) -> Dim {
    if let Some(quotient) = expr::div_exact(a, d) {
        return if op == Op::Mod { Dim::constant(0) } else { quotient };
    }
    if let [divisor] = &*d.terms() {
        // Terms that the divisor divides leave the node whole.
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for term in &*a.terms() {
            match term.div(divisor) {
                Some(quotient) => whole.push(quotient),
                None => rest.push(term.clone()),
            }
        }
        if !whole.is_empty() {
            let rest = divide(op, &expr::from_sorted(rest), d);
            return if op == Op::Mod { rest } else { rest + expr::from_sorted(whole) };
        }
    }
    if let Some(common) = common_factor(a, d) {
        let value = divide(op, &divide_term(a, &common), &divide_term(d, &common));
        return if op == Op::Mod { expr::mul_term(&value, &common) } else { value };
    }
    let inside = match op {
        Op::CeilDiv => Interval::of_sizes(&(a - 1)).min() >= 0 && fits(a, d),
        _ => Interval::of_sizes(a).min() >= 0 && fits(&(a + 1), d),
    };
    match op {
        Op::FloorDiv if inside => Dim::constant(0),
        Op::CeilDiv if inside => Dim::constant(1),
        Op::Mod if inside => a.clone(),
        _ => expr::node(op, vec![a.clone(), d.clone()]),
    }
}

/// The greatest term, if it is not 1, that divides all terms of both formulas.
fn common_factor(a: &Dim, d: &Dim) -> Option<Term> {
    let (a, d) = (a.terms(), d.terms());
    let mut terms = a.iter().chain(&*d);
    let first = terms.next()?;
    let (mut coef, mut mono) = (first.coef.unsigned_abs(), first.mono.clone());
    for term in terms {
        coef = arith::gcd(coef, term.coef.unsigned_abs());
        mono = mono.gcd(&term.mono);
    }
    let coef = i64::try_from(coef).ok()?;
    (coef != 1 || !mono.is_one()).then_some(Term { mono, coef })
}

/// `dim / factor`, where the factor divides every term.
fn divide_term(dim: &Dim, factor: &Term) -> Dim {
    expr::from_sorted(dim.terms().iter().filter_map(|term| term.div(factor)).collect())
}

/// Whether `a <= b` for all sizes, by intervals alone.
fn fits(a: &Dim, b: &Dim) -> bool {
    Interval::of_sizes(&(b - a)).min() >= 0
}

/// The arguments with nested `op` nodes opened, sorted, without duplicates; or the poisoned one.
fn flatten(op: Op, args: &[Dim]) -> Result<Vec<Dim>, Dim> {
    let mut flat = Vec::with_capacity(args.len());
    for arg in args {
        if arg.is_poisoned() {
            return Err(arg.clone());
        }
        match as_op(arg, op) {
            Some(inner) => flat.extend_from_slice(inner),
            None => flat.push(arg.clone()),
        }
    }
    flat.sort_unstable_by(Dim::cmp_structure);
    flat.dedup();
    Ok(flat)
}

/// `Min` or `Max` of one or more formulas.
fn extremum(op: Op, args: &[Dim]) -> Dim {
    let mut args = match flatten(op, args) {
        Ok(args) => args,
        Err(poisoned) => return poisoned,
    };
    let replaces = |winner: &Dim, loser: &Dim| match op {
        Op::Min => fits(winner, loser),
        _ => fits(loser, winner),
    };
    // Constants sort first, in ascending order.
    let constants = args.partition_point(Dim::is_const);
    if constants > 1 {
        match op {
            Op::Min => args.drain(1..constants),
            _ => args.drain(..constants - 1),
        };
    }
    if args.len() <= MAX_COMPARED {
        let mut i = 0;
        while i < args.len() {
            let beaten = (0..args.len()).any(|j| j != i && replaces(&args[j], &args[i]));
            if beaten {
                args.remove(i);
            } else {
                i += 1;
            }
        }
    }
    match args.as_slice() {
        [] => Dim::constant(0),
        [only] => only.clone(),
        _ => expr::node(op, args),
    }
}

/// `Broadcast` of one or more formulas.
fn broadcast(args: &[Dim]) -> Dim {
    let mut args = match flatten(Op::Broadcast, args) {
        Ok(args) => args,
        Err(poisoned) => return poisoned,
    };
    args.retain(|arg| arg.as_const() != Some(1));
    let all = args.clone();
    args.retain(|arg| !caps_one_of(arg, &all));
    match args.as_slice() {
        [] => Dim::constant(1),
        [only] => only.clone(),
        // Constants sort first; two of them disagree, which evaluation reports.
        [first, second, ..] if first.is_const() && !second.is_const() => first.clone(),
        _ => expr::node(Op::Broadcast, args),
    }
}

/// Whether `arg` is `min(c,x)` with a number `c` of 1 or more and `x` among `args`. It is then `x`
/// or 1 wherever the broadcast has a value: if `c < x` they only fit if `c` is 1.
fn caps_one_of(arg: &Dim, args: &[Dim]) -> bool {
    let Some(Atom::Node(node)) = arg.as_atom() else { return false };
    match &*node.args {
        [c, x] if node.op == Op::Min => c.as_const().is_some_and(|c| c >= 1) && args.contains(x),
        _ => false,
    }
}
