//! Formulas compiled for one list of symbols.
//!
//! A plan evaluates hundreds of formulas before every run over the same few symbols. A
//! [`CompiledDim`] is the formula as a postfix program whose symbols are indices, evaluated on a
//! stack of numbers without looking names up and, below 32 nested operands, without allocating.

use std::sync::Arc;

use smallvec::SmallVec;

use super::eval::apply;
use super::expr::{Atom, Node};
use super::{Dim, DimError, Symbol};

/// A formula over symbols given by position. See [`Dim::compile`].
#[derive(Clone, Debug)]
pub struct CompiledDim {
    program: Box<[Step]>,
    source: Dim,
}

#[derive(Clone)]
enum Step {
    Push(i64),
    /// Push the value at the index; the symbol is for messages.
    Load(usize, Symbol),
    Add,
    Mul,
    Scale(i64),
    Apply(Arc<Node>),
    Fail(Box<DimError>),
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Push(value) => write!(f, "push {value}"),
            Self::Load(index, symbol) => write!(f, "load {index} {symbol}"),
            Self::Add => f.write_str("add"),
            Self::Mul => f.write_str("mul"),
            Self::Scale(factor) => write!(f, "scale {factor}"),
            Self::Apply(node) => write!(f, "{:?}", node.op),
            Self::Fail(error) => write!(f, "fail: {error}"),
        }
    }
}

impl Dim {
    /// Compiles the formula for values listed in the order of `symbols`. A symbol of the formula
    /// that is not in the list makes evaluation fail with [`DimError::Unbound`].
    pub fn compile(&self, symbols: &[Symbol]) -> CompiledDim {
        let mut program = Vec::new();
        emit(self, symbols, &mut program);
        CompiledDim { program: program.into(), source: self.clone() }
    }
}

fn emit(dim: &Dim, symbols: &[Symbol], program: &mut Vec<Step>) {
    if let Some(error) = dim.poison() {
        program.push(Step::Fail(Box::new(error)));
        return;
    }
    let terms = dim.terms();
    if terms.is_empty() {
        program.push(Step::Push(0));
    }
    for (i, term) in terms.iter().enumerate() {
        if term.mono.is_one() {
            program.push(Step::Push(term.coef));
        }
        let mut first = true;
        for factor in &term.mono.0 {
            for _ in 0..factor.power {
                emit_atom(&factor.atom, symbols, program);
                if !first {
                    program.push(Step::Mul);
                }
                first = false;
            }
        }
        if term.coef != 1 && !term.mono.is_one() {
            program.push(Step::Scale(term.coef));
        }
        if i > 0 {
            program.push(Step::Add);
        }
    }
}

fn emit_atom(atom: &Atom, symbols: &[Symbol], program: &mut Vec<Step>) {
    match atom {
        Atom::Sym(symbol) => program.push(match symbols.iter().position(|s| s == symbol) {
            Some(index) => Step::Load(index, symbol.clone()),
            None => Step::Fail(Box::new(DimError::Unbound { symbol: symbol.clone() })),
        }),
        Atom::Node(node) => {
            for (i, arg) in node.args.iter().enumerate() {
                emit(arg, symbols, program);
                if i > 0 {
                    program.push(Step::Apply(node.clone()));
                }
            }
        }
    }
}

impl CompiledDim {
    /// The value, for `values` in the order of the symbols that the formula was compiled for.
    ///
    /// # Errors
    /// Those of [`Dim::eval`]; [`DimError::Unbound`] for a symbol past the end of `values`, and
    /// [`DimError::Negative`] for a negative value that the formula uses.
    pub fn eval(&self, values: &[i64]) -> Result<i64, DimError> {
        if let [Step::Push(value)] = *self.program {
            return Ok(value);
        }
        let mut stack: SmallVec<[i64; 32]> = SmallVec::new();
        // The top of the stack; every step but a push combines it with what lies below.
        let mut top = 0i64;
        let overflow = || DimError::Overflow { expr: self.source.clone() };
        for step in &self.program {
            match step {
                Step::Push(value) => {
                    stack.push(top);
                    top = *value;
                }
                Step::Load(index, symbol) => {
                    stack.push(top);
                    top = match values.get(*index) {
                        Some(&value) if value >= 0 => value,
                        Some(&value) => {
                            return Err(DimError::Negative { symbol: symbol.clone(), value });
                        }
                        None => return Err(DimError::Unbound { symbol: symbol.clone() }),
                    };
                }
                Step::Scale(factor) => top = top.checked_mul(*factor).ok_or_else(overflow)?,
                Step::Fail(error) => return Err(DimError::clone(error)),
                Step::Add => {
                    top = stack.pop().unwrap_or(0).checked_add(top).ok_or_else(overflow)?;
                }
                Step::Mul => {
                    top = stack.pop().unwrap_or(1).checked_mul(top).ok_or_else(overflow)?;
                }
                Step::Apply(node) => {
                    let expr = || Atom::Node(node.clone()).into_dim();
                    top = apply(node.op, stack.pop().unwrap_or(0), top, expr)?;
                }
            }
        }
        Ok(top)
    }

    /// The formula that was compiled.
    pub fn source(&self) -> &Dim {
        &self.source
    }
}
