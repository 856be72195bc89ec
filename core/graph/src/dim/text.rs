//! Printing. What is printed parses back to the same formula (see `parse` for the grammar),
//! except a poisoned one, whose text is no formula.

use std::fmt::{self, Display, Formatter};

use super::expr::{Atom, Node, Op, Poison, Repr};
use super::{Dim, Symbol};

/// Whether a character can stand in a name without quotes.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | ':' | '#')
}

/// The name of an operation in text.
pub(super) fn op_name(op: Op) -> &'static str {
    match op {
        Op::FloorDiv => "floordiv",
        Op::CeilDiv => "ceildiv",
        Op::Mod => "mod",
        Op::Min => "min",
        Op::Max => "max",
        Op::Broadcast => "broadcast",
        Op::Product => "product",
    }
}

impl Display for Symbol {
    /// The name, in backticks unless it is plain; a backtick in it is doubled.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.name();
        let plain = name.starts_with(|c: char| is_plain(c) && !c.is_ascii_digit());
        if plain && name.chars().all(is_plain) {
            return f.write_str(name);
        }
        write!(f, "`{}`", name.replace('`', "``"))
    }
}

impl Display for Dim {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Repr::Const(value) => return write!(f, "{value}"),
            Repr::Poison(Poison::Overflow) => return f.write_str("<overflow>"),
            Repr::Poison(Poison::TooComplex) => return f.write_str("<too complex>"),
            Repr::Expr(_) => {}
        }
        for (i, term) in self.terms().iter().enumerate() {
            match (i, term.coef < 0) {
                (_, true) => f.write_str("-")?,
                (0, false) => {}
                (_, false) => f.write_str("+")?,
            }
            let mut star = "";
            if term.coef.unsigned_abs() != 1 || term.mono.is_one() {
                write!(f, "{}", term.coef.unsigned_abs())?;
                star = "*";
            }
            for factor in &term.mono.0 {
                for _ in 0..factor.power {
                    f.write_str(star)?;
                    Display::fmt(&factor.atom, f)?;
                    star = "*";
                }
            }
        }
        Ok(())
    }
}

impl Display for Atom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sym(symbol) => Display::fmt(symbol, f),
            Self::Node(node) => Display::fmt(&**node, f),
        }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.op, &*self.args) {
            // In brackets, so that it meets no other factor before it is whole.
            (Op::Product, [a, b]) => return write!(f, "(({a})*({b}))"),
            // The reader means this by it: `ceildiv` by a constant is stored as `floordiv`.
            (Op::FloorDiv, [a, d]) => {
                if let Some(d) = d.as_const().filter(|d| *d > 1 && a.constant_term() == d - 1) {
                    return write!(f, "ceildiv({},{d})", a - (d - 1));
                }
            }
            _ => {}
        }
        f.write_str(op_name(self.op))?;
        let mut open = "(";
        for arg in &self.args {
            write!(f, "{open}{arg}")?;
            open = ",";
        }
        f.write_str(")")
    }
}
