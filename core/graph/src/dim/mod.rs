//! Symbolic dimensions: integer formulas over named sizes.
//!
//! A model is planned once and run at many sizes, so a dimension is not a number but a
//! formula such as `2*seq+1` over [`Symbol`]s. Shape rules build these formulas, the verifier
//! compares them, the memory planner multiplies them into bytes, and a run evaluates them.
//! All of that rests on one question, "are these two the same?", so every [`Dim`] is kept in a
//! canonical form and equality is structural.
//!
//! **Canonical form.** A polynomial with integer coefficients over *atoms*: symbols, and opaque
//! nodes for what is not polynomial (`floordiv`, `ceildiv`, `mod`, `min`, `max`, `broadcast`).
//! Products expand, like terms merge, zero terms vanish, terms are in graded lexicographic order.
//! Rejected: keeping trees and proving equality on demand, because the same question is asked of
//! the same formulas many thousand times while shapes are inferred.
//!
//! **Symbols are sizes.** A symbol is never negative; [`Bindings`], [`Bounds`] and
//! [`CompiledDim`] refuse negative values, and simplification relies on it (`min(n,-1)` is `-1`).
//! Formulas themselves may be negative (`seq-8`).
//!
//! **Simplification may widen the domain, never change a value.** `(a*b)/b` is `a` although the
//! division is undefined at `b = 0`; `broadcast(8,n)` is `8` although `n` must be 1 or 8. Whoever
//! builds the formula keeps such a condition as a check of its own.
//! [`Dim::try_broadcast`] reports what is already wrong when the formula is built.
//!
//! **Nothing here panics or grows without bound.** A coefficient outside `i64` and a formula
//! beyond the size limits give a *poisoned* dimension, which absorbs everything and evaluates to
//! an error. A product that would expand to more than 64 terms stays an opaque product.
//!
//! Division rounds toward negative infinity and `mod` has the sign of the divisor, as in Python:
//! `a = b*floordiv(a,b) + mod(a,b)`.
//!
//! ```text
//! let seq = Dim::sym("seq");
//! let kv = &seq + Dim::sym("past");
//! assert_eq!((&kv * 64 * Dim::sym("batch")).floor_div(&kv), Dim::parse("64*batch")?);
//! ```

mod arith;
mod bounds;
mod compile;
mod cover;
mod error;
mod eval;
mod expr;
mod parse;
mod prove;
mod simplify;
mod text;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::Arc;

pub use bounds::{Bounds, Range};
pub use compile::CompiledDim;
pub use error::DimError;
pub use eval::Bindings;

use expr::{Atom, Poison, Repr};

/// The name of an unknown size, such as `batch`. Clones share the text; equality, order and hash
/// are those of the name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol called `name`. Any text is a valid name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name, unquoted.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Symbol {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<&Symbol> for Symbol {
    fn from(symbol: &Symbol) -> Self {
        symbol.clone()
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One dimension: an integer formula in canonical form, so `==` is equality of formulas.
///
/// It has no `Ord`: the order of two values depends on the bindings (see [`Dim::cmp_under`]), and
/// `Ord::min` would answer where [`Dim::min`] is meant. For a stable listing there is
/// [`Dim::cmp_structure`]. A constant takes no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dim(Repr);

impl Dim {
    /// The formula that is the symbol `name` alone.
    pub fn sym(name: &str) -> Self {
        Self::from(Symbol::new(name))
    }

    /// The poisoned formula: the result of arithmetic whose coefficients leave `i64`. Every
    /// operation on it gives it back; evaluating it is [`DimError::Overflow`].
    pub fn overflow() -> Self {
        Self(Repr::Poison(Poison::Overflow))
    }

    const fn constant(value: i64) -> Self {
        Self(Repr::Const(value))
    }

    /// The value, if the formula is a constant.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the formula is a constant. A poisoned formula is not.
    pub fn is_const(&self) -> bool {
        self.as_const().is_some()
    }

    /// The symbol, if the formula is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match self.as_atom() {
            Some(Atom::Sym(symbol)) => Some(symbol),
            _ => None,
        }
    }

    /// Why the formula has no value at all, if it is poisoned: [`DimError::Overflow`] or
    /// [`DimError::TooComplex`].
    pub fn poison(&self) -> Option<DimError> {
        match self.0 {
            Repr::Poison(Poison::Overflow) => Some(DimError::Overflow { expr: self.clone() }),
            Repr::Poison(Poison::TooComplex) => Some(DimError::TooComplex),
            _ => None,
        }
    }

    /// Every symbol that the formula mentions, sorted by name.
    pub fn symbols(&self) -> BTreeSet<Symbol> {
        let mut found = BTreeSet::new();
        self.visit_symbols(&mut |symbol| {
            if !found.contains(symbol) {
                found.insert(symbol.clone());
            }
        });
        found
    }

    /// A total order of formulas, for sorting and keys. It is arbitrary, but the same in every
    /// run, and says nothing about values: constants come first, in ascending order.
    pub fn cmp_structure(&self, other: &Dim) -> Ordering {
        self.0.cmp(&other.0)
    }

    /// The sum of all items; 0 of none. Faster than adding one by one.
    pub fn sum<D: Borrow<Dim>>(dims: impl IntoIterator<Item = D>) -> Self {
        expr::sum(dims)
    }

    /// The product of all items; 1 of none.
    pub fn product<D: Borrow<Dim>>(dims: impl IntoIterator<Item = D>) -> Self {
        dims.into_iter().fold(Self::constant(1), |product, dim| expr::mul(&product, dim.borrow()))
    }
}

impl Default for Dim {
    /// The constant 0.
    fn default() -> Self {
        Self::constant(0)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::constant(value)
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Self::constant(value.into())
    }
}

impl From<usize> for Dim {
    /// A size above `i64::MAX` gives [`Dim::overflow`].
    fn from(value: usize) -> Self {
        i64::try_from(value).map_or_else(|_| Self::overflow(), Self::constant)
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Atom::Sym(symbol).into_dim()
    }
}

impl From<&Symbol> for Dim {
    fn from(symbol: &Symbol) -> Self {
        Self::from(symbol.clone())
    }
}

impl From<&Dim> for Dim {
    fn from(dim: &Dim) -> Self {
        dim.clone()
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn sub(a: &Dim, b: &Dim) -> Dim {
    expr::add(a, &expr::scale(b, -1))
}

/// `a op b` for every mix of values, references and `i64`, and `a op= b`.
macro_rules! operator {
    ($trait:ident $method:ident $assign:ident $assign_method:ident $function:path) => {
        operator!(@pair $trait $method $function, Dim, Dim);
        operator!(@pair $trait $method $function, Dim, &Dim);
        operator!(@pair $trait $method $function, &Dim, Dim);
        operator!(@pair $trait $method $function, &Dim, &Dim);
        operator!(@pair $trait $method $function, Dim, i64);
        operator!(@pair $trait $method $function, &Dim, i64);
        operator!(@pair $trait $method $function, i64, Dim);
        operator!(@pair $trait $method $function, i64, &Dim);

        impl<D: Into<Dim>> $assign<D> for Dim {
            fn $assign_method(&mut self, other: D) {
                *self = $function(self, &other.into());
            }
        }
    };
    (@pair $trait:ident $method:ident $function:path, $left:ty, $right:ty) => {
        impl $trait<$right> for $left {
            type Output = Dim;

            fn $method(self, other: $right) -> Dim {
                $function(operator!(@borrow self, $left), operator!(@borrow other, $right))
            }
        }
    };
    (@borrow $value:ident, &Dim) => { $value };
    (@borrow $value:ident, Dim) => { &$value };
    (@borrow $value:ident, i64) => { &Dim::constant($value) };
    (@borrow $value:ident, $other:ty) => { &Dim::from($value) };
}

operator!(Add add AddAssign add_assign expr::add);
operator!(Sub sub SubAssign sub_assign sub);
operator!(Mul mul MulAssign mul_assign expr::mul);

impl Neg for Dim {
    type Output = Dim;

    fn neg(self) -> Dim {
        expr::scale(&self, -1)
    }
}

impl Neg for &Dim {
    type Output = Dim;

    fn neg(self) -> Dim {
        expr::scale(self, -1)
    }
}
