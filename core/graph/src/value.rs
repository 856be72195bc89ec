//! What flows along an edge: at run time a [`Value`], at compile time a [`Fact`].

use crate::Dim;
use deepseek_tensor::{DType, Result, Tensor, bail};
use std::fmt;
use std::sync::Arc;

/// Type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A tensor: element type and, where the rank is known, extents.
    Tensor(DType, Option<Vec<Dim>>),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value or nothing.
    Optional(Box<Type>),
}

impl Type {
    /// A tensor type of known rank.
    pub fn tensor(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Type::Tensor(dtype, Some(shape.into()))
    }

    /// Whether a run-time value may flow where this type is declared. Symbols match
    /// any extent; [`crate::Bindings`] checks that they agree.
    pub fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (Type::Tensor(dtype, shape), Value::Tensor(t)) => {
                t.dtype() == *dtype
                    && shape.as_ref().is_none_or(|s| {
                        s.len() == t.rank()
                            && s.iter()
                                .zip(t.shape())
                                .all(|(d, &n)| d.as_const().is_none_or(|c| c == n as i64))
                    })
            }
            (Type::Sequence(element), Value::Sequence(_, items)) => {
                items.iter().all(|v| element.admits(v))
            }
            (Type::Optional(inner), Value::Optional(_, v)) => {
                v.as_ref().is_none_or(|v| inner.admits(v))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(dtype, None) => write!(f, "{dtype}[...]"),
            Type::Tensor(dtype, Some(shape)) => {
                write!(f, "{dtype}[")?;
                for (i, d) in shape.iter().enumerate() {
                    write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Optional(t) => write!(f, "optional({t})"),
        }
    }
}

/// Contents of an integer or other small tensor that are known at compile time.
#[derive(Clone, Debug)]
pub enum Known {
    /// All elements are constants.
    Tensor(Tensor),
    /// Elements of a tensor of rank 0 or 1, some of them symbolic: what `Shape` and
    /// arithmetic on its result yield. All are integers, though the element type may
    /// be a float: exporters scale extents so.
    Dims(Vec<Dim>),
}

/// Everything the compiler knows about a value.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The type.
    pub ty: Type,
    /// The contents, where known.
    pub known: Option<Known>,
}

impl Fact {
    /// A tensor of known rank and unknown contents.
    pub fn tensor(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Fact { ty: Type::tensor(dtype, shape), known: None }
    }

    /// A tensor whose rank is known or not.
    pub fn maybe_ranked(dtype: DType, shape: Option<Vec<Dim>>) -> Self {
        Fact { ty: Type::Tensor(dtype, shape), known: None }
    }

    /// A tensor of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        Fact { ty: Type::Tensor(dtype, None), known: None }
    }

    /// The fact about a constant. Contents of large constants are known too: the
    /// tensor is shared, not copied.
    pub fn constant(tensor: Tensor) -> Self {
        let shape: Vec<Dim> = tensor.shape().iter().map(|&d| Dim::from(d)).collect();
        Fact { ty: Type::tensor(tensor.dtype(), shape), known: Some(Known::Tensor(tensor)) }
    }

    /// An integer tensor of rank 1 (rank 0 with `scalar`) with known, possibly
    /// symbolic contents.
    pub fn dims(dtype: DType, dims: Vec<Dim>, scalar: bool) -> Self {
        let shape = if scalar { vec![] } else { vec![Dim::from(dims.len())] };
        Fact { ty: Type::tensor(dtype, shape), known: Some(Known::Dims(dims)) }
    }

    /// Element type of a tensor.
    ///
    /// # Errors
    /// `DTypeMismatch` if the value is not a tensor.
    pub fn dtype(&self) -> Result<DType> {
        match &self.ty {
            Type::Tensor(dtype, _) => Ok(*dtype),
            other => bail!(DTypeMismatch, "expected a tensor, got {other}"),
        }
    }

    /// Extents of a tensor, if it is one and its rank is known.
    pub fn shape(&self) -> Option<&[Dim]> {
        match &self.ty {
            Type::Tensor(_, shape) => shape.as_deref(),
            _ => None,
        }
    }

    /// Rank of a tensor, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape().map(<[Dim]>::len)
    }

    /// The constant tensor, if all contents are known numbers.
    pub fn as_constant(&self) -> Option<Tensor> {
        match self.known.as_ref()? {
            Known::Tensor(t) => Some(t.clone()),
            Known::Dims(dims) => {
                let v: Vec<i64> = dims.iter().map(Dim::as_const).collect::<Option<_>>()?;
                let shape: &[usize] = if self.rank() == Some(0) { &[] } else { &[v.len()] };
                match self.dtype().ok()? {
                    DType::I64 => Tensor::from_vec(shape, v).ok(),
                    DType::I32 => {
                        let v: Vec<i32> =
                            v.into_iter().map(|x| x.try_into().ok()).collect::<Option<_>>()?;
                        Tensor::from_vec(shape, v).ok()
                    }
                    _ => None,
                }
            }
        }
    }

    /// Contents of an integer tensor of rank 0 or 1 as dimension expressions, if
    /// known. Limited to 4,096 elements, so a large constant is not taken for a shape.
    pub fn as_dims(&self) -> Option<Vec<Dim>> {
        match self.known.as_ref()? {
            Known::Dims(dims) => Some(dims.clone()),
            Known::Tensor(t) if t.rank() <= 1 && t.len() <= 4096 => match t.dtype() {
                DType::I64 => Some(t.iter::<i64>().ok()?.map(Dim::from).collect()),
                DType::I32 => Some(t.iter::<i32>().ok()?.map(|x| Dim::from(x as i64)).collect()),
                _ => None,
            },
            Known::Tensor(_) => None,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ty.fmt(f)
    }
}

/// A run-time value. Sequences and optionals carry their element type, so an
/// empty one still has a type.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values of one type.
    Sequence(Type, Arc<Vec<Value>>),
    /// A value or nothing.
    Optional(Type, Option<Box<Value>>),
}

impl Value {
    /// The most precise type of this value.
    pub fn ty(&self) -> Type {
        match self {
            Value::Tensor(t) => {
                Type::tensor(t.dtype(), t.shape().iter().map(|&d| Dim::from(d)).collect::<Vec<_>>())
            }
            Value::Sequence(element, _) => Type::Sequence(Box::new(element.clone())),
            Value::Optional(inner, _) => Type::Optional(Box::new(inner.clone())),
        }
    }

    /// The tensor.
    ///
    /// # Errors
    /// `DTypeMismatch` if the value is a sequence or an optional.
    pub fn tensor(&self) -> Result<&Tensor> {
        match self {
            Value::Tensor(t) => Ok(t),
            other => bail!(DTypeMismatch, "expected a tensor, got {}", other.ty()),
        }
    }

    /// The items of a sequence.
    ///
    /// # Errors
    /// `DTypeMismatch` if the value is not a sequence.
    pub fn sequence(&self) -> Result<&[Value]> {
        match self {
            Value::Sequence(_, items) => Ok(items),
            other => bail!(DTypeMismatch, "expected a sequence, got {}", other.ty()),
        }
    }
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Self {
        Value::Tensor(t)
    }
}
