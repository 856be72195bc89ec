//! What can go wrong with a dimension, each with both sides of the mismatch.

use std::fmt;

use super::{Dim, Symbol};

/// Why a dimension has no value, or not the value that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DimError {
    /// A symbol of the formula has no value.
    Unbound {
        /// The symbol without a value.
        symbol: Symbol,
    },
    /// The value, a part of it, or a coefficient leaves `i64`.
    Overflow {
        /// The formula, or the part of it that overflows.
        expr: Dim,
    },
    /// The formula is beyond the size limits of this module.
    TooComplex,
    /// A divisor is zero.
    DivisionByZero {
        /// The division.
        expr: Dim,
    },
    /// Two sizes are neither equal nor is one of them 1.
    Broadcast {
        /// The broadcast.
        expr: Dim,
        /// The value of its left side.
        left: i64,
        /// The value of its right side.
        right: i64,
    },
    /// A formula whose symbols are all known disagrees with an actual size.
    Mismatch {
        /// The formula.
        expr: Dim,
        /// Its value.
        expected: i64,
        /// The actual size.
        actual: i64,
    },
    /// No size of the symbol makes the formula equal to the actual size.
    NoSolution {
        /// The formula.
        expr: Dim,
        /// The one symbol without a value.
        symbol: Symbol,
        /// The actual size.
        actual: i64,
    },
    /// The formula does not determine its unknown symbols; bind some of them and unify again.
    Unsolvable {
        /// The formula.
        expr: Dim,
        /// The actual size.
        actual: i64,
        /// The symbols without a value.
        unbound: Vec<Symbol>,
    },
    /// A symbol was given a negative value.
    Negative {
        /// The symbol.
        symbol: Symbol,
        /// Its value.
        value: i64,
    },
    /// A symbol's value is outside its bounds.
    OutOfBounds {
        /// The symbol.
        symbol: Symbol,
        /// Its value.
        value: i64,
        /// The least allowed value.
        min: i64,
        /// The greatest allowed value, if there is one.
        max: Option<i64>,
    },
    /// Bounds that no size satisfies, or whose minimum is negative.
    InvalidBounds {
        /// The symbol.
        symbol: Symbol,
        /// The minimum asked for.
        min: i64,
        /// The maximum asked for.
        max: Option<i64>,
    },
    /// Text that is not a dimension formula.
    Parse {
        /// The byte at which it goes wrong, from 0.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

impl fmt::Display for DimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound { symbol } => {
                write!(f, "symbol {symbol} has no value; bind it first")
            }
            Self::Overflow { expr } => {
                write!(f, "dimension {expr} overflows 64-bit integers; use smaller sizes")
            }
            Self::TooComplex => {
                f.write_str("dimension formula is too large; introduce a symbol for a part of it")
            }
            Self::DivisionByZero { expr } => write!(f, "dimension {expr} divides by zero"),
            Self::Broadcast { expr, left, right } => {
                write!(f, "dimension {expr}: {left} and {right} are neither equal nor is one 1")
            }
            Self::Mismatch { expr, expected, actual } => {
                write!(f, "dimension {expr} is {expected} here, but the actual size is {actual}")
            }
            Self::NoSolution { expr, symbol, actual } => {
                write!(f, "no size {symbol} makes dimension {expr} equal to the actual {actual}")
            }
            Self::Unsolvable { expr, actual, unbound } => {
                write!(f, "dimension {expr} = {actual} does not determine ")?;
                for (i, symbol) in unbound.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{symbol}")?;
                }
                f.write_str("; bind it by another input or explicitly")
            }
            Self::Negative { symbol, value } => {
                write!(f, "symbol {symbol} is {value}, but a size cannot be negative")
            }
            Self::OutOfBounds { symbol, value, min, max: Some(max) } => {
                write!(f, "symbol {symbol} is {value}, but its bounds are {min} to {max}")
            }
            Self::OutOfBounds { symbol, value, min, max: None } => {
                write!(f, "symbol {symbol} is {value}, but it must be at least {min}")
            }
            Self::InvalidBounds { symbol, min, max } => {
                write!(f, "bounds of symbol {symbol} need 0 <= min <= max, got min {min}")?;
                max.map_or(Ok(()), |max| write!(f, " and max {max}"))
            }
            Self::Parse { at, what } => write!(f, "dimension text is wrong at byte {at}: {what}"),
        }
    }
}

impl std::error::Error for DimError {}
