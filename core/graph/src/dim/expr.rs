//! The canonical form: polynomials over atoms.
//!
//! Invariants of [`Poly`], on which structural equality rests: terms strictly descend in the
//! monomial order, no coefficient is zero, and at least one term is not constant (a constant is
//! [`Repr::Const`]). Size and depth are within [`MAX_SIZE`] and [`MAX_DEPTH`], so every recursion
//! over a formula is bounded, even where formulas share parts and would be exponential as trees.
//!
//! The monomial order is graded lexicographic. It is compatible with multiplication, so
//! multiplying by one term keeps the order and long division terminates.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::{Dim, Symbol};

/// The most symbols, terms and nodes in one formula, shared parts counted once per use.
const MAX_SIZE: u32 = 4096;
/// The deepest nesting of opaque nodes.
const MAX_DEPTH: u32 = 96;
/// The most terms that a product of two sums expands to.
const MAX_EXPANSION: usize = 64;

/// Why a formula has no value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Poison {
    Overflow,
    TooComplex,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Repr {
    Const(i64),
    Expr(Arc<Poly>),
    Poison(Poison),
}

/// A sum of at least one non-constant term.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Poly {
    terms: Box<[Term]>,
    size: u32,
    depth: u32,
}

/// A coefficient times a monomial.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term {
    pub mono: Mono,
    pub coef: i64,
}

/// A product of powers of atoms, in ascending atom order; empty is 1.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Mono(pub SmallVec<[Factor; 2]>);

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Factor {
    pub atom: Atom,
    pub power: u32,
}

/// What a polynomial is built over.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Atom {
    Sym(Symbol),
    Node(Arc<Node>),
}

/// An operation that is not polynomial. The constructors in `simplify` leave a node only where no
/// rule applies to exactly these arguments, so building a node again from its arguments gives the
/// same node.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub op: Op,
    /// Two arguments; two or more, sorted, for `Min`, `Max` and `Broadcast`.
    pub args: Box<[Dim]>,
    size: u32,
    depth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Op {
    FloorDiv,
    CeilDiv,
    Mod,
    Min,
    Max,
    Broadcast,
    /// A product too large to expand.
    Product,
}

impl Ord for Poly {
    /// Descending, as terms are, so that `a` sorts before `b`.
    fn cmp(&self, other: &Self) -> Ordering {
        other.terms.cmp(&self.terms)
    }
}

impl PartialOrd for Poly {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (self.args.iter(), other.args.iter());
        let args = || left.map(|arg| &arg.0).cmp(right.map(|arg| &arg.0));
        self.op.cmp(&other.op).then_with(args)
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Sym(a), Self::Sym(b)) => a.cmp(b),
            (Self::Sym(_), Self::Node(_)) => Ordering::Less,
            (Self::Node(_), Self::Sym(_)) => Ordering::Greater,
            (Self::Node(a), Self::Node(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
            (Self::Node(a), Self::Node(b)) => a.cmp(b),
        }
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Atom {
    fn size(&self) -> u32 {
        match self {
            Self::Sym(_) => 1,
            Self::Node(node) => node.size,
        }
    }

    fn depth(&self) -> u32 {
        match self {
            Self::Sym(_) => 0,
            Self::Node(node) => node.depth,
        }
    }

    /// The formula that is this atom alone.
    pub(super) fn into_dim(self) -> Dim {
        let mono = Mono(smallvec![Factor { atom: self, power: 1 }]);
        from_sorted(vec![Term { mono, coef: 1 }])
    }
}

impl Ord for Mono {
    fn cmp(&self, other: &Self) -> Ordering {
        self.degree().cmp(&other.degree()).then_with(|| {
            for (a, b) in self.0.iter().zip(&other.0) {
                // The smaller atom is absent from the other side, which is lexicographically less.
                let order = b.atom.cmp(&a.atom).then(a.power.cmp(&b.power));
                if order.is_ne() {
                    return order;
                }
            }
            self.0.len().cmp(&other.0.len())
        })
    }
}

impl PartialOrd for Mono {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Mono {
    fn one() -> Self {
        Self(SmallVec::new())
    }

    pub(super) fn is_one(&self) -> bool {
        self.0.is_empty()
    }

    fn degree(&self) -> u64 {
        self.0.iter().map(|factor| u64::from(factor.power)).sum()
    }

    /// The atom, if the monomial is one atom to the power 1.
    pub(super) fn as_atom(&self) -> Option<&Atom> {
        match self.0.as_slice() {
            [Factor { atom, power: 1 }] => Some(atom),
            _ => None,
        }
    }

    fn mul(&self, other: &Self) -> Self {
        let mut product = SmallVec::with_capacity(self.0.len() + other.0.len());
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            match a.atom.cmp(&b.atom) {
                Ordering::Less => product.extend(left.next().cloned()),
                Ordering::Greater => product.extend(right.next().cloned()),
                Ordering::Equal => {
                    let power = a.power.saturating_add(b.power);
                    product.push(Factor { atom: a.atom.clone(), power });
                    left.next();
                    right.next();
                }
            }
        }
        product.extend(left.cloned());
        product.extend(right.cloned());
        Self(product)
    }

    /// The quotient, if `divisor` divides this monomial.
    pub(super) fn div(&self, divisor: &Self) -> Option<Self> {
        let mut quotient = SmallVec::new();
        let mut divisors = divisor.0.iter().peekable();
        for factor in &self.0 {
            match divisors.next_if(|d| d.atom == factor.atom) {
                None => quotient.push(factor.clone()),
                Some(d) => {
                    let power = factor.power.checked_sub(d.power)?;
                    if power > 0 {
                        quotient.push(Factor { atom: factor.atom.clone(), power });
                    }
                }
            }
        }
        divisors.next().is_none().then_some(Self(quotient))
    }

    /// The greatest monomial that divides both.
    pub(super) fn gcd(&self, other: &Self) -> Self {
        let common = self.0.iter().filter_map(|factor| {
            let twin = other.0.iter().find(|twin| twin.atom == factor.atom)?;
            let power = factor.power.min(twin.power);
            Some(Factor { atom: factor.atom.clone(), power })
        });
        Self(common.collect())
    }
}

impl Term {
    pub(super) fn constant(coef: i64) -> Self {
        Self { mono: Mono::one(), coef }
    }

    /// The quotient, if `divisor` divides the term exactly.
    pub(super) fn div(&self, divisor: &Self) -> Option<Self> {
        let coef = self.coef.checked_div(divisor.coef)?;
        if self.coef % divisor.coef != 0 {
            return None;
        }
        Some(Self { mono: self.mono.div(&divisor.mono)?, coef })
    }
}

/// The terms of a formula, constant or not, as a slice; empty for zero and for poison.
pub(super) enum Terms<'a> {
    None,
    One([Term; 1]),
    Many(&'a [Term]),
}

impl Deref for Terms<'_> {
    type Target = [Term];

    fn deref(&self) -> &[Term] {
        match self {
            Self::None => &[],
            Self::One(term) => term,
            Self::Many(terms) => terms,
        }
    }
}

impl Dim {
    pub(super) fn terms(&self) -> Terms<'_> {
        match &self.0 {
            Repr::Const(0) | Repr::Poison(_) => Terms::None,
            Repr::Const(value) => Terms::One([Term::constant(*value)]),
            Repr::Expr(poly) => Terms::Many(&poly.terms),
        }
    }

    /// The atom, if the formula is one atom and nothing else.
    pub(super) fn as_atom(&self) -> Option<&Atom> {
        let Repr::Expr(poly) = &self.0 else { return None };
        match &*poly.terms {
            [Term { mono, coef: 1 }] => mono.as_atom(),
            _ => None,
        }
    }

    /// The constant term.
    pub(super) fn constant_term(&self) -> i64 {
        self.terms().last().filter(|term| term.mono.is_one()).map_or(0, |term| term.coef)
    }

    pub(super) fn is_poisoned(&self) -> bool {
        matches!(self.0, Repr::Poison(_))
    }

    fn size(&self) -> u32 {
        match &self.0 {
            Repr::Expr(poly) => poly.size,
            _ => 1,
        }
    }

    fn depth(&self) -> u32 {
        match &self.0 {
            Repr::Expr(poly) => poly.depth,
            _ => 0,
        }
    }

    pub(super) fn visit_symbols(&self, visit: &mut dyn FnMut(&Symbol)) {
        for factor in self.terms().iter().flat_map(|term| &term.mono.0) {
            match &factor.atom {
                Atom::Sym(symbol) => visit(symbol),
                Atom::Node(node) => node.args.iter().for_each(|arg| arg.visit_symbols(visit)),
            }
        }
    }
}

pub(super) fn too_complex() -> Dim {
    Dim(Repr::Poison(Poison::TooComplex))
}

/// An opaque node as a formula; the arguments are in canonical order and not poisoned.
pub(super) fn node(op: Op, args: Vec<Dim>) -> Dim {
    let size = args.iter().fold(1, |size: u32, arg| size.saturating_add(arg.size()));
    let depth = 1 + args.iter().map(Dim::depth).max().unwrap_or(0);
    if size > MAX_SIZE || depth > MAX_DEPTH {
        return too_complex();
    }
    Atom::Node(Arc::new(Node { op, args: args.into(), size, depth })).into_dim()
}

/// A formula from terms that already strictly descend and have no zero coefficient.
pub(super) fn from_sorted(terms: Vec<Term>) -> Dim {
    match terms.as_slice() {
        [] => return Dim::constant(0),
        [Term { mono, coef }] if mono.is_one() => return Dim::constant(*coef),
        _ => {}
    }
    let (mut size, mut depth) = (0u32, 0);
    for term in &terms {
        size = size.saturating_add(1);
        for factor in &term.mono.0 {
            size = size.saturating_add(factor.atom.size().saturating_mul(factor.power));
            depth = depth.max(factor.atom.depth());
        }
    }
    if size > MAX_SIZE {
        return too_complex();
    }
    Dim(Repr::Expr(Arc::new(Poly { terms: terms.into(), size, depth })))
}

/// A formula from terms in any order, merging equal monomials.
fn from_unsorted(mut terms: Vec<Term>) -> Dim {
    terms.sort_unstable_by(|a, b| b.mono.cmp(&a.mono));
    let mut merged: Vec<Term> = Vec::with_capacity(terms.len());
    let mut terms = terms.into_iter().peekable();
    while let Some(Term { mono, coef }) = terms.next() {
        let mut total = i128::from(coef);
        while let Some(twin) = terms.next_if(|twin| twin.mono == mono) {
            total += i128::from(twin.coef);
        }
        match i64::try_from(total) {
            Ok(0) => {}
            Ok(coef) => merged.push(Term { mono, coef }),
            Err(_) => return Dim::overflow(),
        }
    }
    from_sorted(merged)
}

pub(super) fn sum<D: Borrow<Dim>>(dims: impl IntoIterator<Item = D>) -> Dim {
    let mut terms = Vec::new();
    for dim in dims {
        let dim = dim.borrow();
        if dim.is_poisoned() {
            return dim.clone();
        }
        terms.extend_from_slice(&dim.terms());
        // Merging early bounds the memory by the size limit, not by the number of items.
        if terms.len() > 2 * MAX_SIZE as usize {
            let merged = from_unsorted(terms);
            if merged.is_poisoned() {
                return merged;
            }
            terms = merged.terms().to_vec();
        }
    }
    from_unsorted(terms)
}

pub(super) fn add(a: &Dim, b: &Dim) -> Dim {
    match (&a.0, &b.0) {
        (Repr::Const(x), Repr::Const(y)) => {
            return x.checked_add(*y).map_or_else(Dim::overflow, Dim::constant);
        }
        (Repr::Poison(_), _) | (_, Repr::Const(0)) => return a.clone(),
        (_, Repr::Poison(_)) | (Repr::Const(0), _) => return b.clone(),
        _ => {}
    }
    let (left, right) = (a.terms(), b.terms());
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(x), Some(y)) = (left.peek(), right.peek()) {
        match x.mono.cmp(&y.mono) {
            Ordering::Greater => merged.extend(left.next().cloned()),
            Ordering::Less => merged.extend(right.next().cloned()),
            Ordering::Equal => {
                match x.coef.checked_add(y.coef) {
                    None => return Dim::overflow(),
                    Some(0) => {}
                    Some(coef) => merged.push(Term { mono: x.mono.clone(), coef }),
                }
                left.next();
                right.next();
            }
        }
    }
    merged.extend(left.cloned());
    merged.extend(right.cloned());
    from_sorted(merged)
}

/// `factor * dim`.
pub(super) fn scale(dim: &Dim, factor: i64) -> Dim {
    mul_term(dim, &Term::constant(factor))
}

/// `factor * dim`; multiplying by one term keeps the terms in order.
pub(super) fn mul_term(dim: &Dim, factor: &Term) -> Dim {
    match dim.0 {
        Repr::Poison(_) => return dim.clone(),
        _ if factor.coef == 0 => return Dim::constant(0),
        _ => {}
    }
    let terms = dim.terms();
    let product = terms.iter().map(|term| {
        let coef = term.coef.checked_mul(factor.coef)?;
        Some(Term { mono: term.mono.mul(&factor.mono), coef })
    });
    product.collect::<Option<Vec<_>>>().map_or_else(Dim::overflow, from_sorted)
}

pub(super) fn mul(a: &Dim, b: &Dim) -> Dim {
    if a.is_poisoned() {
        return a.clone();
    }
    let (left, right) = (a.terms(), b.terms());
    match (&*left, &*right) {
        _ if b.is_poisoned() => b.clone(),
        ([], _) | (_, []) => Dim::constant(0),
        ([term], _) => mul_term(b, term),
        (_, [term]) => mul_term(a, term),
        _ if left.len() * right.len() > MAX_EXPANSION => {
            let (first, second) = if a.cmp_structure(b).is_le() { (a, b) } else { (b, a) };
            node(Op::Product, vec![first.clone(), second.clone()])
        }
        _ => sum(left.iter().map(|term| mul_term(b, term))),
    }
}

/// The quotient, if `divisor` divides `dim` as a polynomial.
pub(super) fn div_exact(dim: &Dim, divisor: &Dim) -> Option<Dim> {
    let divisor_terms = divisor.terms();
    let lead = divisor_terms.first()?;
    let mut quotient = Vec::new();
    let mut rest = dim.clone();
    while let Some(term) = rest.terms().first().cloned() {
        // Each step removes the leading term; a quotient longer than the dividend is not one that
        // an expanded product can have produced.
        if quotient.len() == MAX_EXPANSION {
            return None;
        }
        quotient.push(term.div(lead)?);
        let step = mul_term(divisor, quotient.last()?);
        let next = add(&rest, &scale(&step, -1));
        if next.is_poisoned() {
            return None;
        }
        rest = next;
    }
    (!rest.is_poisoned()).then(|| from_sorted(quotient))
}
