//! Parsing, of text that may be hostile: length and nesting are limited, and formulas limit
//! themselves.
//!
//! ```text
//! sum     = ["-"] product { ("+" | "-") product }
//! product = factor { "*" factor }
//! factor  = integer | symbol | "(" sum ")" | "-" factor | function "(" sum "," sum ")"
//! symbol  = (letter | "_" | "." | "/" | ":" | "#") { the same | digit }
//!         | "`" { any character, "`" doubled } "`"
//! ```
//!
//! Functions are `floordiv`, `ceildiv`, `mod`, `min`, `max` and `broadcast`; the last three take
//! two or more arguments. A function's name is a symbol where no bracket follows. Letters are
//! ASCII. White space may stand between tokens.

use super::expr::Op;
use super::simplify::build;
use super::text::{is_plain, op_name};
use super::{Dim, DimError};

/// The longest text, in bytes.
const MAX_TEXT: usize = 1 << 16;
/// The deepest nesting of brackets and signs. More than formulas nest, as products and sums that
/// are printed in brackets take two.
const MAX_NESTING: u32 = 256;

impl Dim {
    /// The formula that `text` says, such as `2*seq+1`; the grammar is that of its `Display`.
    ///
    /// # Errors
    /// [`DimError::Parse`] with the position; [`DimError::Overflow`] and [`DimError::TooComplex`]
    /// for a formula beyond 64-bit coefficients or the size limits.
    pub fn parse(text: &str) -> Result<Dim, DimError> {
        let mut parser = Parser { text, at: 0, nesting: 0 };
        if text.len() > MAX_TEXT {
            parser.at = MAX_TEXT;
            return Err(parser.error("the text is longer than 65536 bytes"));
        }
        let dim = parser.sum()?;
        if parser.at < text.len() {
            return Err(parser.error("expected an operator or the end"));
        }
        dim.poison().map_or(Ok(dim), Err)
    }
}

impl std::str::FromStr for Dim {
    type Err = DimError;

    fn from_str(text: &str) -> Result<Self, DimError> {
        Self::parse(text)
    }
}

struct Parser<'a> {
    text: &'a str,
    /// The next byte, on a character boundary.
    at: usize,
    nesting: u32,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &'static str) -> DimError {
        DimError::Parse { at: self.at, what }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes the character, if it is next after white space.
    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        let taken = self.rest().starts_with(c);
        if taken {
            self.at += c.len_utf8();
        }
        taken
    }

    /// Takes characters while they are wanted.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn nested(&mut self, body: fn(&mut Self) -> Result<Dim, DimError>) -> Result<Dim, DimError> {
        if self.nesting == MAX_NESTING {
            return Err(self.error("brackets nest too deep"));
        }
        self.nesting += 1;
        let dim = body(self);
        self.nesting -= 1;
        dim
    }

    fn sum(&mut self) -> Result<Dim, DimError> {
        let negative = self.take('-');
        let mut terms = vec![self.product(negative)?];
        loop {
            if self.take('+') {
                terms.push(self.product(false)?);
            } else if self.take('-') {
                terms.push(self.product(true)?);
            } else {
                self.skip_space();
                return Ok(Dim::sum(terms));
            }
        }
    }

    fn product(&mut self, negative: bool) -> Result<Dim, DimError> {
        let mut product = self.factor(negative)?;
        while self.take('*') {
            product *= self.factor(false)?;
        }
        Ok(product)
    }

    /// One factor, negated here if asked: so the least integer is no overflow.
    fn factor(&mut self, negative: bool) -> Result<Dim, DimError> {
        self.skip_space();
        let signed = |dim: Dim| if negative { -dim } else { dim };
        match self.rest().chars().next() {
            Some('0'..='9') => self.integer(negative),
            Some('`') => self.quoted().map(signed),
            Some('(') => {
                self.at += 1;
                let dim = self.nested(Self::sum)?;
                self.close()?;
                Ok(signed(dim))
            }
            Some('-') => {
                self.at += 1;
                self.nested(|parser| parser.factor(true)).map(signed)
            }
            Some(c) if is_plain(c) => {
                let name = self.take_while(is_plain);
                if self.take('(') { self.call(name) } else { Ok(Dim::sym(name)) }.map(signed)
            }
            _ => Err(self.error("expected a number, a symbol or a bracket")),
        }
    }

    fn integer(&mut self, negative: bool) -> Result<Dim, DimError> {
        let start = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit());
        if self.rest().starts_with(is_plain) {
            return Err(self.error("a symbol that starts with a digit needs backticks"));
        }
        // 2^63 has no positive i64, so the sign goes with the digits.
        let value = if negative { format!("-{digits}").parse() } else { digits.parse::<i64>() };
        value
            .map(Dim::from)
            .map_err(|_| DimError::Parse { at: start, what: "the number does not fit 64 bits" })
    }

    fn quoted(&mut self) -> Result<Dim, DimError> {
        let start = self.at;
        let mut name = String::new();
        self.at += 1;
        loop {
            name.push_str(self.take_while(|c| c != '`'));
            if !self.rest().starts_with('`') {
                self.at = start;
                return Err(self.error("the backtick has no partner"));
            }
            self.at += 1;
            if !self.rest().starts_with('`') {
                return Ok(Dim::sym(&name));
            }
            name.push('`');
            self.at += 1;
        }
    }

    /// The arguments of the function, after its open bracket.
    fn call(&mut self, name: &str) -> Result<Dim, DimError> {
        let ops = [Op::FloorDiv, Op::CeilDiv, Op::Mod, Op::Min, Op::Max, Op::Broadcast];
        let Some(op) = ops.into_iter().find(|op| op_name(*op) == name) else {
            return Err(
                self.error("unknown function; it is floordiv, ceildiv, mod, min, max or broadcast")
            );
        };
        let mut args = vec![self.nested(Self::sum)?];
        while self.take(',') {
            args.push(self.nested(Self::sum)?);
        }
        let variadic = matches!(op, Op::Min | Op::Max | Op::Broadcast);
        if args.len() < 2 || args.len() > 2 && !variadic {
            return Err(self.error("the function takes two arguments"));
        }
        self.close()?;
        Ok(build(op, &args))
    }

    fn close(&mut self) -> Result<(), DimError> {
        if self.take(')') { Ok(()) } else { Err(self.error("expected a closing bracket")) }
    }
}
