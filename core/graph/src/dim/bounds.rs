//! What is known of the sizes of symbols, and interval arithmetic from it.
//!
//! An interval here is a statement about every binding within the bounds for which the formula
//! has a value: `i64::MIN` as its low end and `i64::MAX` as its high end mean "not known". Ends
//! saturate there, which can lose precision but not soundness.

use std::collections::BTreeMap;

use super::expr::{Atom, Node, Op};
use super::{Bindings, Dim, DimError, Symbol, arith};

/// The values that a formula can take, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// No value is less; `i64::MIN` where nothing is known.
    pub min: i64,
    /// No value is greater; `None` where nothing is known.
    pub max: Option<i64>,
}

/// Bounds of symbols. A symbol without bounds is at least 0, without a maximum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    map: BTreeMap<Symbol, (i64, Option<i64>)>,
}

impl Bounds {
    /// No bounds but the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bounds of a symbol, both ends included, replacing earlier ones.
    /// [`DimError::InvalidBounds`] unless `0 <= min <= max`.
    pub fn set(
        &mut self,
        symbol: impl Into<Symbol>,
        min: i64,
        max: Option<i64>,
    ) -> Result<(), DimError> {
        let symbol = symbol.into();
        if min < 0 || max.is_some_and(|max| max < min) {
            return Err(DimError::InvalidBounds { symbol, min, max });
        }
        self.map.insert(symbol, (min, max));
        Ok(())
    }

    /// The bounds of a symbol: its minimum, and its maximum if there is one.
    pub fn get(&self, symbol: &Symbol) -> (i64, Option<i64>) {
        self.map.get(symbol).copied().unwrap_or((0, None))
    }

    /// The bounds that were set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Symbol, i64, Option<i64>)> {
        self.map.iter().map(|(symbol, &(min, max))| (symbol, min, max))
    }

    /// [`DimError::OutOfBounds`] for the first symbol whose value is outside its bounds. Symbols
    /// without a value are not checked.
    pub fn check(&self, bindings: &Bindings) -> Result<(), DimError> {
        for (symbol, value) in bindings.iter() {
            let (min, max) = self.get(symbol);
            if value < min || max.is_some_and(|max| value > max) {
                return Err(DimError::OutOfBounds { symbol: symbol.clone(), value, min, max });
            }
        }
        Ok(())
    }
}

impl Dim {
    /// The values that the formula can take when every symbol is within its bounds. Sound, not
    /// always tight.
    pub fn range(&self, bounds: &Bounds) -> Range {
        let Interval { low, high } = Interval::of(self, bounds);
        Range { min: low, max: (high != i64::MAX).then_some(high) }
    }
}

/// An interval whose ends saturate: see the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    low: i64,
    high: i64,
}

/// Stands for an unknown end in products; beyond any product of two `i64`.
const UNKNOWN: i128 = 1 << 126;

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl Interval {
    const ALL: Self = Self { low: i64::MIN, high: i64::MAX };

    fn point(value: i64) -> Self {
        Self { low: value, high: value }
    }

    /// The interval of a formula over symbols of which nothing is known but that they are sizes.
    pub(super) fn of_sizes(dim: &Dim) -> Self {
        let none = const { &Bounds { map: BTreeMap::new() } };
        Self::of(dim, none)
    }

    pub(super) fn of(dim: &Dim, bounds: &Bounds) -> Self {
        if dim.is_poisoned() {
            return Self::ALL;
        }
        let mut total = Self::point(0);
        for term in &*dim.terms() {
            let mut product = Self::point(term.coef);
            for factor in &term.mono.0 {
                product = product.mul(Self::of_atom(&factor.atom, bounds).power(factor.power));
            }
            total = total.add(product);
        }
        total
    }

    pub(super) fn of_atom(atom: &Atom, bounds: &Bounds) -> Self {
        match atom {
            Atom::Sym(symbol) => {
                let (low, high) = bounds.get(symbol);
                Self { low, high: high.unwrap_or(i64::MAX) }
            }
            Atom::Node(node) => Self::of_node(node, bounds),
        }
    }

    fn of_node(node: &Node, bounds: &Bounds) -> Self {
        let mut args = node.args.iter().map(|arg| Self::of(arg, bounds));
        let Some(first) = args.next() else { return Self::ALL };
        args.fold(first, |a, b| match node.op {
            Op::FloorDiv => a.divide(b, arith::floor_div),
            Op::CeilDiv => a.divide(b, arith::ceil_div),
            Op::Mod => a.modulo(b),
            Op::Min => Self { low: a.low.min(b.low), high: a.high.min(b.high) },
            Op::Max => Self { low: a.low.max(b.low), high: a.high.max(b.high) },
            // Both sides have the value, or one side is 1 and the other has it.
            Op::Broadcast => Self { low: a.low.min(b.low), high: a.high.max(b.high) },
            Op::Product => a.mul(b),
        })
    }

    /// The least possible value, `i64::MIN` where it is not known.
    pub(super) fn min(self) -> i64 {
        self.low
    }

    /// Both ends, if both are known.
    pub(super) fn finite(self) -> Option<(i64, i64)> {
        (self.low != i64::MIN && self.high != i64::MAX).then_some((self.low, self.high))
    }

    fn add(self, other: Self) -> Self {
        let low = match (self.low, other.low) {
            (i64::MIN, _) | (_, i64::MIN) => i64::MIN,
            (a, b) => a.saturating_add(b),
        };
        let high = match (self.high, other.high) {
            (i64::MAX, _) | (_, i64::MAX) => i64::MAX,
            (a, b) => a.saturating_add(b),
        };
        Self { low, high }
    }

    fn ends(self) -> [i128; 2] {
        let low = if self.low == i64::MIN { -UNKNOWN } else { self.low.into() };
        let high = if self.high == i64::MAX { UNKNOWN } else { self.high.into() };
        [low, high]
    }

    fn mul(self, other: Self) -> Self {
        let product = |a: i128, b: i128| match (a, b) {
            // An unknown end is still a finite value, so it times 0 is 0.
            (0, _) | (_, 0) => 0,
            _ if a.abs() == UNKNOWN || b.abs() == UNKNOWN => a.signum() * b.signum() * UNKNOWN,
            _ => a * b,
        };
        let ([a, b], [c, d]) = (self.ends(), other.ends());
        let corners = [product(a, c), product(a, d), product(b, c), product(b, d)];
        let low = corners.into_iter().fold(UNKNOWN, i128::min);
        let high = corners.into_iter().fold(-UNKNOWN, i128::max);
        Self { low: saturate(low), high: saturate(high) }
    }

    /// Powers of one value; an even power is not negative, which the plain product does not know.
    fn power(self, power: u32) -> Self {
        if power == 1 {
            return self;
        }
        let mut result = Self::point(1);
        for _ in 0..power {
            result = result.mul(self);
        }
        if power.is_multiple_of(2) {
            result.low = result.low.max(0);
        }
        result
    }

    fn neg(self) -> Self {
        let [low, high] = self.ends();
        Self { low: saturate(-high), high: saturate(-low) }
    }

    /// A rounded quotient, which is monotone in the dividend, and in the divisor on either side
    /// of zero. A zero divisor has no value, so it is left out.
    fn divide(self, divisor: Self, rounded: fn(i64, i64) -> Option<i64>) -> Self {
        if divisor.high <= 0 {
            return if divisor.low == divisor.high && divisor.low == 0 {
                Self::ALL
            } else {
                self.neg().divide(divisor.neg(), rounded)
            };
        }
        if divisor.low < 0 {
            return Self::ALL;
        }
        let nearest = divisor.low.max(1);
        // Beyond an unknown end lies every divisor; the quotient then tends to 0, rounded.
        let furthest = |value: i64| match divisor.high {
            i64::MAX => rounded(value.signum(), 2),
            high => rounded(value, high),
        };
        let low = match self.low {
            i64::MIN => i64::MIN,
            low => match (rounded(low, nearest), furthest(low)) {
                (Some(a), Some(b)) => a.min(b),
                _ => i64::MIN,
            },
        };
        let high = match self.high {
            i64::MAX => i64::MAX,
            high => match (rounded(high, nearest), furthest(high)) {
                (Some(a), Some(b)) => a.max(b),
                _ => i64::MAX,
            },
        };
        Self { low, high }
    }

    fn modulo(self, divisor: Self) -> Self {
        if divisor.low >= 0 {
            let below = if divisor.high == i64::MAX { i64::MAX } else { (divisor.high - 1).max(0) };
            return if self.low >= 0 {
                let unchanged = self.high < divisor.low.max(1);
                let low = if unchanged { self.low } else { 0 };
                Self { low, high: self.high.min(below) }
            } else {
                Self { low: 0, high: below }
            };
        }
        let low = if divisor.low == i64::MIN { i64::MIN } else { divisor.low + 1 };
        let high = if divisor.high == i64::MAX { i64::MAX } else { (divisor.high - 1).max(0) };
        Self { low, high }
    }
}
