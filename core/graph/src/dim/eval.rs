//! Values of formulas: evaluation, substitution, and solving for symbols from actual sizes.

use std::collections::BTreeMap;

use super::expr::{Atom, Op};
use super::simplify::build;
use super::{Dim, DimError, Symbol, arith};

/// Sizes of symbols. None is negative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    map: BTreeMap<Symbol, i64>,
}

impl Bindings {
    /// No symbol bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds a symbol. [`DimError::Negative`] for a negative value, [`DimError::Mismatch`] if the
    /// symbol already has another value.
    pub fn bind(&mut self, symbol: impl Into<Symbol>, value: i64) -> Result<(), DimError> {
        let symbol = symbol.into();
        if value < 0 {
            return Err(DimError::Negative { symbol, value });
        }
        let bound = *self.map.entry(symbol.clone()).or_insert(value);
        expect_equal(&Dim::from(symbol), bound, value)
    }

    /// The value of the symbol called `name`.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.map.get(name).copied()
    }

    /// Symbols and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Symbol, i64)> {
        self.map.iter().map(|(symbol, &value)| (symbol, value))
    }

    /// Learns from an actual size.
    ///
    /// If every symbol of `dim` is known, its value must be `actual`. If one is unknown and the
    /// formula is linear in it, that symbol is bound to the exact solution (`2*seq+1 = 9` gives
    /// `seq = 4`).
    ///
    /// # Errors
    /// [`DimError::Mismatch`] or [`DimError::NoSolution`] if `dim` cannot be `actual`;
    /// [`DimError::Unsolvable`] if it does not determine its unknown symbols *yet*: unify the
    /// other sizes and try again. Nothing is bound on error.
    pub fn unify(&mut self, dim: &Dim, actual: i64) -> Result<(), DimError> {
        if let Some(symbol) = dim.as_symbol() {
            return self.bind(symbol.clone(), actual);
        }
        let mut unbound = Vec::new();
        let mut known = BTreeMap::new();
        for symbol in dim.symbols() {
            match self.map.get(&symbol) {
                Some(&value) => {
                    known.insert(symbol, Dim::from(value));
                }
                None => unbound.push(symbol),
            }
        }
        if unbound.is_empty() {
            return expect_equal(dim, dim.eval(self)?, actual);
        }
        let partial = dim.substitute(&known);
        if let Some(error) = partial.poison() {
            return Err(error);
        }
        if let Some(value) = partial.as_const() {
            return expect_equal(dim, value, actual);
        }
        let Some((factor, symbol, offset)) = partial.as_linear() else {
            return Err(DimError::Unsolvable { expr: dim.clone(), actual, unbound });
        };
        let distance = i128::from(actual) - i128::from(offset);
        let solution = i64::try_from(distance / i128::from(factor)).ok();
        let exact = distance % i128::from(factor) == 0;
        match solution.filter(|value| exact && *value >= 0) {
            Some(value) => self.bind(symbol, value),
            None => Err(DimError::NoSolution { expr: dim.clone(), symbol, actual }),
        }
    }
}

fn expect_equal(expr: &Dim, expected: i64, actual: i64) -> Result<(), DimError> {
    if expected == actual {
        return Ok(());
    }
    Err(DimError::Mismatch { expr: expr.clone(), expected, actual })
}

impl Dim {
    /// The value of the formula.
    ///
    /// # Errors
    /// [`DimError::Unbound`], [`DimError::Overflow`], [`DimError::TooComplex`],
    /// [`DimError::DivisionByZero`] and [`DimError::Broadcast`]. Arithmetic is checked at every
    /// step, so a sum may overflow though its total would fit.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, DimError> {
        if let Some(error) = self.poison() {
            return Err(error);
        }
        let overflow = || DimError::Overflow { expr: self.clone() };
        let mut total = 0i64;
        for term in &*self.terms() {
            let mut product = 1i64;
            for factor in &term.mono.0 {
                let value = eval_atom(&factor.atom, bindings)?;
                for _ in 0..factor.power {
                    product = product.checked_mul(value).ok_or_else(overflow)?;
                }
            }
            product = product.checked_mul(term.coef).ok_or_else(overflow)?;
            total = total.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(total)
    }

    /// The formula with symbols replaced, all at once. A replacement must not be negative for any
    /// binding that it will see, as a symbol is not: what is already simplified relies on it.
    pub fn substitute(&self, replacements: &BTreeMap<Symbol, Dim>) -> Dim {
        let mut touched = false;
        if !replacements.is_empty() {
            self.visit_symbols(&mut |symbol| touched |= replacements.contains_key(symbol));
        }
        if !touched {
            return self.clone();
        }
        let terms: Vec<Dim> = self
            .terms()
            .iter()
            .map(|term| {
                let mut product = Dim::from(term.coef);
                for factor in &term.mono.0 {
                    let value = match &factor.atom {
                        Atom::Sym(symbol) => match replacements.get(symbol) {
                            Some(value) => value.clone(),
                            None => Dim::from(symbol),
                        },
                        Atom::Node(node) => {
                            let args: Vec<Dim> =
                                node.args.iter().map(|arg| arg.substitute(replacements)).collect();
                            build(node.op, &args)
                        }
                    };
                    for _ in 0..factor.power {
                        product *= &value;
                    }
                }
                product
            })
            .collect();
        Dim::sum(terms)
    }

    /// `(factor, symbol, offset)` of `factor*symbol+offset`.
    fn as_linear(&self) -> Option<(i64, Symbol, i64)> {
        let terms = self.terms();
        let (term, offset) = match &*terms {
            [term] => (term, 0),
            [term, offset] if offset.mono.is_one() => (term, offset.coef),
            _ => return None,
        };
        match term.mono.as_atom()? {
            Atom::Sym(symbol) => Some((term.coef, symbol.clone(), offset)),
            Atom::Node(_) => None,
        }
    }
}

fn eval_atom(atom: &Atom, bindings: &Bindings) -> Result<i64, DimError> {
    let node = match atom {
        Atom::Sym(symbol) => {
            let value = bindings.map.get(symbol).copied();
            return value.ok_or_else(|| DimError::Unbound { symbol: symbol.clone() });
        }
        Atom::Node(node) => node,
    };
    let mut args = node.args.iter();
    let mut value = args.next().map_or(Ok(0), |arg| arg.eval(bindings))?;
    for arg in args {
        value = apply(node.op, value, arg.eval(bindings)?, || atom.clone().into_dim())?;
    }
    Ok(value)
}

/// One operation on values; `expr` names it in an error.
pub(super) fn apply(
    op: Op,
    left: i64,
    right: i64,
    expr: impl Fn() -> Dim,
) -> Result<i64, DimError> {
    let value = match op {
        Op::FloorDiv | Op::CeilDiv | Op::Mod if right == 0 => {
            return Err(DimError::DivisionByZero { expr: expr() });
        }
        Op::FloorDiv => arith::floor_div(left, right),
        Op::CeilDiv => arith::ceil_div(left, right),
        Op::Mod => arith::floor_mod(left, right),
        Op::Min => Some(left.min(right)),
        Op::Max => Some(left.max(right)),
        Op::Broadcast if left == right || right == 1 => Some(left),
        Op::Broadcast if left == 1 => Some(right),
        Op::Broadcast => return Err(DimError::Broadcast { expr: expr(), left, right }),
        Op::Product => left.checked_mul(right),
    };
    value.ok_or_else(|| DimError::Overflow { expr: expr() })
}
