//! Element-wise work: one loop per element type, broadcasting, and the dtype
//! checks that go with it.
//!
//! A scalar reference names a function of elements; [`map`] and [`zip`] run it over
//! tensors of any strides. [`map_float`] is the form for functions that are
//! computed in double precision and rounded once. Results are allocated fallibly:
//! two small inputs may broadcast to a huge output.

use super::Num;
use crate::{Fact, InferArgs, for_dtype};
use deepseek_tensor::{DType, Element, Result, Tensor, bail, broadcast_shapes, err, num_elements};

/// A set of element types that an operator accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats of 16 bits and more, and integers of 8 bits and more.
    Number,
    /// Floats of 16 bits and more.
    Float,
    /// Floats of 8 bits and more.
    AnyFloat,
    /// Integers of 8 bits and more.
    Int,
    /// `bool`.
    Bool,
    /// Numbers and `bool`.
    Fixed,
    /// Everything that has an equality: numbers, `bool`, strings.
    Comparable,
    /// Text.
    Text,
}

impl Kind {
    /// Whether `dtype` is in the set.
    pub fn admits(self, dtype: DType) -> bool {
        let wide_float = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        let wide_int = dtype.is_int() && !dtype.is_packed();
        match self {
            Kind::Number => wide_float || wide_int,
            Kind::Float => wide_float,
            Kind::AnyFloat => wide_float || dtype.is_float8(),
            Kind::Int => wide_int,
            Kind::Bool => dtype == DType::Bool,
            Kind::Fixed => wide_float || wide_int || dtype == DType::Bool,
            Kind::Comparable => {
                wide_float || wide_int || matches!(dtype, DType::Bool | DType::String)
            }
            Kind::Text => dtype == DType::String,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Kind::Number => "a float of 16 to 64 bits or an integer of 8 to 64 bits",
            Kind::Float => "a float of 16 to 64 bits",
            Kind::AnyFloat => "a float of 8 to 64 bits",
            Kind::Int => "an integer of 8 to 64 bits",
            Kind::Bool => "bool",
            Kind::Fixed => "a number or bool",
            Kind::Comparable => "a number, bool or string",
            Kind::Text => "string",
        }
    }

    /// Element type of input `i`, which must be in the set.
    ///
    /// # Errors
    /// `InvalidGraph` if the input is absent, `DTypeMismatch` if its type is not in the set.
    pub fn expect(self, args: &InferArgs, i: usize) -> Result<DType> {
        let dtype = args.dtype(i)?;
        if !self.admits(dtype) {
            bail!(
                DTypeMismatch,
                "input {i} has elements of type {dtype}, expected {}; insert a Cast",
                self.text()
            );
        }
        Ok(dtype)
    }
}

/// The fact of a result that has the shape of input `i`.
///
/// # Errors
/// `InvalidGraph` if the input is absent.
pub fn shaped_like(args: &InferArgs, i: usize, dtype: DType) -> Result<Fact> {
    Ok(Fact::maybe_ranked(dtype, args.fact(i)?.shape().map(<[_]>::to_vec)))
}

/// An empty vector with room for the elements of `shape`.
///
/// # Errors
/// `ShapeMismatch` if the count overflows, `OutOfMemory` if they do not fit.
pub fn vec_for<T>(shape: &[usize]) -> Result<Vec<T>> {
    let n = num_elements(shape)?;
    let mut out = Vec::new();
    out.try_reserve_exact(n)
        .map_err(|_| err!(OutOfMemory, "{n} elements of shape {shape:?} do not fit in memory"))?;
    Ok(out)
}

/// `f` of every element.
///
/// # Errors
/// `DTypeMismatch` if `A` is not the element type, `OutOfMemory`.
pub fn map<A: Element, R: Element>(t: &Tensor, f: impl FnMut(A) -> R) -> Result<Tensor> {
    let mut out = vec_for(t.shape())?;
    if t.is_contiguous() {
        out.extend(t.as_slice::<A>()?.iter().copied().map(f));
    } else {
        out.extend(t.iter::<A>()?.map(f));
    }
    Tensor::from_vec(t.shape(), out)
}

/// `f` of every pair of elements, shapes broadcast.
///
/// # Errors
/// `ShapeMismatch` if they do not broadcast, `DTypeMismatch` if `A` and `B` are not the
/// element types, `OutOfMemory`.
pub fn zip<A: Element, B: Element, R: Element>(
    a: &Tensor,
    b: &Tensor,
    mut f: impl FnMut(A, B) -> R,
) -> Result<Tensor> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    let mut out = vec_for(&shape)?;
    if a.shape() == b.shape() && a.is_contiguous() && b.is_contiguous() {
        let pairs = a.as_slice::<A>()?.iter().zip(b.as_slice::<B>()?);
        out.extend(pairs.map(|(&x, &y)| f(x, y)));
    } else {
        let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
        out.extend(a.iter::<A>()?.zip(b.iter::<B>()?).map(|(x, y)| f(x, y)));
    }
    Tensor::from_vec(&shape, out)
}

/// `f` of every element of a float tensor, in double precision, rounded once.
///
/// # Errors
/// `Unsupported` unless the elements are floats of 16 bits or more, `OutOfMemory`.
pub fn map_float(t: &Tensor, f: &dyn Fn(f64) -> f64) -> Result<Tensor> {
    for_dtype!(t.dtype(), T in float => map(t, |x: T| T::from_f64(f(x.to_f64()))))
}
