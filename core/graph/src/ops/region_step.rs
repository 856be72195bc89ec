//! What a step of a region computes.

use super::Pointwise;
use crate::{Attrs, EvalArgs, Graph, NoSubgraphs, Node, build_op};
use deepseek_tensor::{DType, Error, Result, Tensor, ensure};
use std::fmt;
use std::str::FromStr;

/// What a step of a [`Region`](super::Region) computes. In text it is its name and, in braces, its
/// parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepFunction {
    /// A function of floats.
    Pointwise(Pointwise),
    /// A function that takes or gives truth values, or folds rows.
    Other(&'static Other),
}

/// A function that takes or gives truth values, or folds rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Other {
    /// The operator's name, but `ToBool` and `ToF32` for `Cast`.
    name: &'static str,
    arity: usize,
    kind: Kind,
}

/// From which element types to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Floats to truth values.
    Compare,
    /// Truth values to truth values.
    Logic,
    /// A truth value and two floats to one of these.
    Select,
    /// A float to a truth value.
    ToBool,
    /// A truth value to `f32`.
    ToF32,
    /// The floats of a row to one.
    Fold,
}

/// In name order.
static OTHERS: &[Other] = &[
    Other { name: "And", arity: 2, kind: Kind::Logic },
    Other { name: "Equal", arity: 2, kind: Kind::Compare },
    Other { name: "Greater", arity: 2, kind: Kind::Compare },
    Other { name: "GreaterOrEqual", arity: 2, kind: Kind::Compare },
    Other { name: "Less", arity: 2, kind: Kind::Compare },
    Other { name: "LessOrEqual", arity: 2, kind: Kind::Compare },
    Other { name: "Not", arity: 1, kind: Kind::Logic },
    Other { name: "Or", arity: 2, kind: Kind::Logic },
    Other { name: "ReduceMax", arity: 1, kind: Kind::Fold },
    Other { name: "ReduceMean", arity: 1, kind: Kind::Fold },
    Other { name: "ReduceSum", arity: 1, kind: Kind::Fold },
    Other { name: "ToBool", arity: 1, kind: Kind::ToBool },
    Other { name: "ToF32", arity: 1, kind: Kind::ToF32 },
    Other { name: "Where", arity: 3, kind: Kind::Select },
    Other { name: "Xor", arity: 2, kind: Kind::Logic },
];

fn other(name: &str) -> Option<&'static Other> {
    OTHERS.binary_search_by(|o| o.name.cmp(name)).ok().map(|i| &OTHERS[i])
}

impl StepFunction {
    /// The function that `node` applies to its first [`StepFunction::arity`] inputs, if it is one
    /// of `f32` and truth values. Reductions are one if they fold the last axis, of two or more,
    /// and leave it in place.
    pub fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let dtype = |i: usize| graph.fact(node.inputs.get(i).copied().flatten()?).dtype().ok();
        let name = node.op.name();
        if name == "Cast" {
            let to = node.op.downcast::<super::Cast>()?.to;
            return match (dtype(0)?, to) {
                (DType::F32, DType::Bool) => other("ToBool"),
                (DType::Bool, DType::F32) => other("ToF32"),
                _ => None,
            }
            .map(StepFunction::Other);
        }
        let Some(found) = other(name) else {
            let f = Pointwise::of(graph, node)?;
            let floats = (0..f.arity()).all(|i| dtype(i) == Some(DType::F32));
            return floats.then_some(StepFunction::Pointwise(f));
        };
        let function = StepFunction::Other(found);
        let all = |from: usize, want| (from..found.arity).all(|i| dtype(i) == Some(want));
        let fits = node.outputs.len() == 1
            && match found.kind {
                Kind::Compare => all(0, DType::F32),
                Kind::Logic => all(0, DType::Bool),
                Kind::Select => dtype(0) == Some(DType::Bool) && all(1, DType::F32),
                Kind::Fold => all(0, DType::F32) && folds_last(graph, node).unwrap_or(false),
                Kind::ToBool | Kind::ToF32 => false,
            };
        fits.then_some(function)
    }

    /// The name, without parameters.
    pub fn name(&self) -> &'static str {
        match self {
            StepFunction::Pointwise(f) => f.name(),
            StepFunction::Other(o) => o.name,
        }
    }

    /// How many operands it takes.
    pub fn arity(&self) -> usize {
        match self {
            StepFunction::Pointwise(f) => f.arity(),
            StepFunction::Other(o) => o.arity,
        }
    }

    /// Whether it makes one element of each row of its operand.
    pub fn folds(&self) -> bool {
        matches!(self, StepFunction::Other(Other { kind: Kind::Fold, .. }))
    }

    /// The element type of the result for operands of these types; `None` stands for a number,
    /// which has the type of the others.
    ///
    /// # Errors
    /// `DTypeMismatch` if the function does not take them.
    pub fn result(&self, operands: &[Option<DType>]) -> Result<DType> {
        let floats = |from: &[Option<DType>]| -> Result<DType> {
            let mut known = from.iter().flatten();
            let dtype = known.next().copied().unwrap_or(DType::F32);
            ensure!(
                dtype.is_float() && known.all(|d| *d == dtype),
                DTypeMismatch,
                "{self} takes floats of one type, got {}",
                shown(operands)
            );
            Ok(dtype)
        };
        let truths = |from: &[Option<DType>]| {
            ensure!(
                from.iter().all(|d| *d == Some(DType::Bool)),
                DTypeMismatch,
                "{self} takes truth values, got {}",
                shown(operands)
            );
            Ok(DType::Bool)
        };
        match self {
            StepFunction::Pointwise(_) => floats(operands),
            StepFunction::Other(o) => match o.kind {
                Kind::Compare | Kind::ToBool => floats(operands).map(|_| DType::Bool),
                Kind::Logic => truths(operands),
                Kind::ToF32 => truths(operands).map(|_| DType::F32),
                Kind::Select => truths(&operands[..1]).and_then(|_| floats(&operands[1..])),
                Kind::Fold => floats(operands),
            },
        }
    }

    /// The function of tensors, which broadcast; of the whole rows of one if it
    /// [folds](StepFunction::folds).
    ///
    /// # Errors
    /// What the operator reports.
    pub fn eval(&self, args: &[Tensor]) -> Result<Tensor> {
        let o = match self {
            StepFunction::Pointwise(f) => return f.eval(args),
            StepFunction::Other(o) => o,
        };
        let mut inputs: Vec<_> = args.iter().map(|t| Some(t.clone().into())).collect();
        let op = match o.kind {
            Kind::ToBool => build_op("Cast", Attrs::new().with("to", DType::Bool))?,
            Kind::ToF32 => build_op("Cast", Attrs::new().with("to", DType::F32))?,
            Kind::Fold => {
                inputs.push(Some(Tensor::from_vec(&[1], vec![-1i64])?.into()));
                build_op(o.name, Attrs::new())?
            }
            _ => build_op(o.name, Attrs::new())?,
        };
        op.eval(&EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs })?[0].tensor().cloned()
    }
}

fn shown(dtypes: &[Option<DType>]) -> String {
    let one = |d: &Option<DType>| d.map_or("a number".to_owned(), |d| d.to_string());
    dtypes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether a reduction folds the last axis, of two or more, and leaves it in place.
fn folds_last(graph: &Graph, node: &Node) -> Option<bool> {
    let rank = graph.fact(node.inputs[0]?).rank()?;
    let axes = graph.fact(node.inputs.get(1).copied().flatten()?).as_dims()?;
    let [axis] = &axes[..] else { return None };
    let keeps = !matches!(node.op.attrs().get("keepdims"), Some(crate::Attr::Bool(false)));
    let axis = axis.as_const()?;
    Some(rank >= 2 && keeps && (axis == -1 || axis == rank as i64 - 1))
}

impl fmt::Display for StepFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepFunction::Pointwise(p) => p.fmt(f),
            StepFunction::Other(o) => f.write_str(o.name),
        }
    }
}

impl FromStr for StepFunction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match other(text) {
            Some(o) => Ok(StepFunction::Other(o)),
            None => text.parse().map(StepFunction::Pointwise),
        }
    }
}
