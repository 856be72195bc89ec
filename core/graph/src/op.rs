//! What an operator is: attributes, a shape rule and a scalar reference.
//!
//! An operator lives in one file under `ops/`. Its struct comes from
//! [`op!`](crate::op); its [`Operator`] impl gives the two meanings: [`infer`]
//! maps what is known about the inputs to what is known about the outputs, and
//! [`eval`] is the plain, slow, right computation that every fast kernel is held
//! against. Neither knows a device, a thread or a file.
//!
//! [`infer`]: Operator::infer
//! [`eval`]: Operator::eval

use crate::{Attrs, Dim, Fact, Graph, Value};
use deepseek_tensor::{Code, DType, Result, Tensor, bail, ensure, err};
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// Identity of an operator; implemented by [`op!`](crate::op).
pub trait OpInfo: Any + Debug + Send + Sync {
    /// Name, as in text form and in the kernel registry.
    fn name(&self) -> &'static str;
    /// All attributes, defaults included.
    fn attrs(&self) -> Attrs;
    /// For downcasting to the concrete operator.
    fn as_any(&self) -> &dyn Any;
}

/// Construction from attributes; implemented by [`op!`](crate::op).
pub trait FromAttrs: Sized {
    /// Name, as [`OpInfo::name`].
    const NAME: &'static str;
    /// The operator, absent attributes at their defaults.
    ///
    /// # Errors
    /// `InvalidGraph` for an attribute of the wrong kind, `Unsupported` for an unknown one.
    fn from_attrs(attrs: Attrs) -> Result<Self>;
}

/// The meaning of an operator.
pub trait Operator: OpInfo {
    /// What is known about the outputs, given what is known about the inputs. One
    /// fact per output that the operator can have; surplus ones are ignored. An
    /// extent that depends on data is [`InferArgs::fresh`]; an unknown rank is
    /// [`Fact::unranked`].
    ///
    /// # Errors
    /// `ShapeMismatch`, `DTypeMismatch` or `InvalidGraph` where the inputs cannot
    /// fit: both sides in the message, without the node name, which the caller adds.
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>>;

    /// The outputs, computed element by element. Inputs have the types that `infer`
    /// accepted, but extents are checked again: this is what untrusted graphs reach.
    ///
    /// # Errors
    /// As `infer`, plus `OutOfMemory` and errors in the data (an index out of range).
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>>;

    /// Subgraphs, in the order that [`Env::run_graph`] numbers them.
    fn subgraphs(&self) -> Vec<&Arc<Graph>> {
        Vec::new()
    }

    /// Whether equal inputs give equal outputs, so that a constant call may be folded.
    fn is_pure(&self) -> bool {
        true
    }
}

impl dyn Operator {
    /// This operator as `T`, if it is one.
    pub fn downcast<T: Operator>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }
}

/// Arguments of [`Operator::infer`].
pub struct InferArgs<'a> {
    /// Path of the node, from which fresh symbols take their names.
    pub node: &'a str,
    /// Facts of the inputs; `None` where an optional input is absent.
    pub inputs: &'a [Option<&'a Fact>],
    /// Number of outputs the node has.
    pub outputs: usize,
}

impl<'a> InferArgs<'a> {
    /// Number of inputs, absent ones included.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent.
    pub fn fact(&self, i: usize) -> Result<&'a Fact> {
        self.get(i).ok_or_else(|| err!(InvalidGraph, "required input {i} is missing"))
    }

    /// Input `i`, if present.
    pub fn get(&self, i: usize) -> Option<&'a Fact> {
        self.inputs.get(i).copied().flatten()
    }

    /// Element type of input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent, `DTypeMismatch` if it is not a tensor.
    pub fn dtype(&self, i: usize) -> Result<DType> {
        self.fact(i)?.dtype().map_err(|e| e.context(format_args!("input {i}")))
    }

    /// Extents of input `i`; `None` where the rank is unknown or the input absent.
    pub fn shape(&self, i: usize) -> Option<&'a [Dim]> {
        self.get(i).and_then(Fact::shape)
    }

    /// Known integer contents of input `i` (see [`Fact::as_dims`]).
    pub fn dims(&self, i: usize) -> Option<Vec<Dim>> {
        self.get(i).and_then(Fact::as_dims)
    }

    /// Known constant integer contents of input `i`.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.dims(i)?.iter().map(Dim::as_const).collect()
    }

    /// Fails unless there are between `min` and `max` inputs.
    ///
    /// # Errors
    /// `InvalidGraph` naming both numbers.
    pub fn expect_inputs(&self, min: usize, max: usize) -> Result<()> {
        let n = self.inputs.len();
        ensure!((min..=max).contains(&n), InvalidGraph, "expected {min} to {max} inputs, got {n}");
        Ok(())
    }

    /// Fails unless inputs `a` and `b` have the same element type.
    ///
    /// # Errors
    /// `DTypeMismatch` naming both.
    pub fn expect_same_dtype(&self, a: usize, b: usize) -> Result<DType> {
        let (x, y) = (self.dtype(a)?, self.dtype(b)?);
        ensure!(
            x == y,
            DTypeMismatch,
            "inputs {a} and {b} must have one element type, got {x} and {y}; insert a Cast"
        );
        Ok(x)
    }

    /// A symbol for an extent that only running the node can tell.
    pub fn fresh(&self, what: &str) -> Dim {
        Dim::sym(&format!("{}.{what}", self.node))
    }
}

/// What an operator may ask of whoever runs it.
pub trait Env {
    /// Runs subgraph number `which` of the node, `graph`, on `inputs`.
    ///
    /// # Errors
    /// Those of the subgraph's nodes, `Cancelled`, `Timeout`.
    fn run_graph(&self, which: usize, graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>>;

    /// Fails if the run was cancelled or its deadline has passed. Operators that
    /// loop for long call this between iterations.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Arguments of [`Operator::eval`].
pub struct EvalArgs<'a> {
    /// The inputs; `None` where an optional input is absent.
    pub inputs: &'a [Option<Value>],
    /// Number of outputs the node has; an operator may skip the ones beyond.
    pub outputs: usize,
    /// Runs subgraphs and knows of cancellation.
    pub env: &'a dyn Env,
}

impl EvalArgs<'_> {
    /// Number of inputs, absent ones included.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent.
    pub fn value(&self, i: usize) -> Result<&Value> {
        match self.inputs.get(i) {
            Some(Some(v)) => Ok(v),
            _ => bail!(InvalidGraph, "required input {i} is missing"),
        }
    }

    /// Tensor input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent, `DTypeMismatch` if it is not a tensor.
    pub fn tensor(&self, i: usize) -> Result<&Tensor> {
        self.value(i)?.tensor().map_err(|e| e.context(format_args!("input {i}")))
    }

    /// Tensor input `i`, or `None` if it is absent.
    ///
    /// # Errors
    /// `DTypeMismatch` if it is present and not a tensor.
    pub fn opt(&self, i: usize) -> Result<Option<&Tensor>> {
        match self.inputs.get(i) {
            Some(Some(_)) => self.tensor(i).map(Some),
            _ => Ok(None),
        }
    }
}

/// How the text form and the importers find an operator by name.
pub struct OpDef {
    /// Name, as [`OpInfo::name`].
    pub name: &'static str,
    /// Construction from attributes.
    pub from_attrs: fn(Attrs) -> Result<Arc<dyn Operator>>,
}

impl OpDef {
    /// The definition of `T`.
    pub const fn of<T: Operator + FromAttrs>() -> Self {
        OpDef { name: T::NAME, from_attrs: |attrs| Ok(Arc::new(T::from_attrs(attrs)?)) }
    }
}

/// Builds the operator `name` from attributes.
///
/// # Errors
/// `Unsupported` if there is no such operator; otherwise as [`FromAttrs::from_attrs`].
pub fn build_op(name: &str, attrs: Attrs) -> Result<Arc<dyn Operator>> {
    match crate::ops::find(name) {
        Some(def) => (def.from_attrs)(attrs).map_err(|e| match e.code() {
            Code::Unsupported | Code::InvalidGraph => e.context(name),
            _ => e,
        }),
        None => bail!(Unsupported, "there is no operator '{name}'"),
    }
}
