//! Numbers in scalar references.
//!
//! Two ways to write one over many element types: [`for_dtype!`](crate::for_dtype)
//! monomorphises a body over the Rust types of the elements (exact for integers),
//! and [`to_f64`]/[`cast_from_f64`] compute in double precision and round once
//! (for floats of every width).

use deepseek_tensor::{DType, Element, Result, Tensor, bail, narrow};
use half::{bf16, f16};

/// A numeric element: conversions and wrapping arithmetic.
pub trait Num: Element + PartialOrd {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// The value as a double; 64-bit integers may round.
    fn to_f64(self) -> f64;
    /// The nearest value, ties to even for floats; truncation toward zero, saturating,
    /// for integers.
    fn from_f64(x: f64) -> Self;
    /// Sum; wraps in integers.
    fn add(self, other: Self) -> Self;
    /// Difference; wraps in integers.
    fn sub(self, other: Self) -> Self;
    /// Product; wraps in integers.
    fn mul(self, other: Self) -> Self;
}

macro_rules! num_int {
    ($($t:ty),*) => {$(impl Num for $t {
        const ZERO: Self = 0;
        const ONE: Self = 1;
        fn to_f64(self) -> f64 { self as f64 }
        fn from_f64(x: f64) -> Self { x as $t }
        fn add(self, o: Self) -> Self { self.wrapping_add(o) }
        fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
        fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
    })*};
}
num_int!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! num_float {
    ($($t:ty, $zero:expr, $one:expr, $to:expr, $from:expr);* $(;)?) => {$(impl Num for $t {
        const ZERO: Self = $zero;
        const ONE: Self = $one;
        fn to_f64(self) -> f64 { $to(self) }
        fn from_f64(x: f64) -> Self { $from(x) }
        fn add(self, o: Self) -> Self { $from($to(self) + $to(o)) }
        fn sub(self, o: Self) -> Self { $from($to(self) - $to(o)) }
        fn mul(self, o: Self) -> Self { $from($to(self) * $to(o)) }
    })*};
}
num_float! {
    f32, 0.0, 1.0, f64::from, |x| x as f32;
    f64, 0.0, 1.0, |x| x, |x| x;
    f16, f16::ZERO, f16::ONE, f16::to_f64, f16::from_f64;
    bf16, bf16::ZERO, bf16::ONE, bf16::to_f64, bf16::from_f64;
}

/// Runs a body for the Rust type of an element type:
/// `for_dtype!(t.dtype(), T in numeric => { … })`. The sets are `numeric` (floats
/// of 16 bits and more, all integers of 8 bits and more), `float`, `int` and
/// `fixed` (numeric and bool). Any other type is an `Unsupported` error from the
/// enclosing function, which must return `Result`.
#[macro_export]
macro_rules! for_dtype {
    ($dtype:expr, $t:ident in numeric => $body:expr) => {
        $crate::for_dtype!(@ $dtype, $t, $body, "a number",
            F32 f32, F64 f64, F16 half::f16, BF16 half::bf16, I8 i8, I16 i16, I32 i32, I64 i64,
            U8 u8, U16 u16, U32 u32, U64 u64)
    };
    ($dtype:expr, $t:ident in float => $body:expr) => {
        $crate::for_dtype!(@ $dtype, $t, $body, "a float of 16 to 64 bits",
            F32 f32, F64 f64, F16 half::f16, BF16 half::bf16)
    };
    ($dtype:expr, $t:ident in int => $body:expr) => {
        $crate::for_dtype!(@ $dtype, $t, $body, "an integer of 8 to 64 bits",
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
    ($dtype:expr, $t:ident in fixed => $body:expr) => {
        $crate::for_dtype!(@ $dtype, $t, $body, "a number or bool",
            F32 f32, F64 f64, F16 half::f16, BF16 half::bf16, I8 i8, I16 i16, I32 i32, I64 i64,
            U8 u8, U16 u16, U32 u32, U64 u64, Bool bool)
    };
    (@ $dtype:expr, $t:ident, $body:expr, $what:literal, $($variant:ident $ty:ty),*) => {
        match $dtype {
            $(deepseek_tensor::DType::$variant => { type $t = $ty; $body })*
            other => deepseek_tensor::bail!(
                Unsupported, "elements of type {other} are not supported here, expected {}", $what
            ),
        }
    };
}

/// The elements, row-major, as doubles: floats of every width, integers, bools.
///
/// # Errors
/// `DTypeMismatch` for strings.
pub fn to_f64(t: &Tensor) -> Result<Vec<f64>> {
    let dtype = t.dtype();
    if dtype.is_packed() {
        let raw = t.unpack()?;
        return if dtype.is_float() {
            Ok(raw
                .iter::<u8>()?
                .map(|b| narrow::decode_float(dtype, b).expect("a narrow float").into())
                .collect())
        } else {
            to_f64(&raw)
        };
    }
    if dtype.is_float8() {
        let raw = t.bitcast(DType::U8)?;
        return Ok(raw
            .iter::<u8>()?
            .map(|b| narrow::decode_float(dtype, b).expect("a narrow float").into())
            .collect());
    }
    if dtype == DType::Bool {
        return Ok(t.iter::<bool>()?.map(|b| b as u8 as f64).collect());
    }
    for_dtype!(dtype, T in numeric => Ok(t.iter::<T>()?.map(Num::to_f64).collect()))
}

/// The elements, row-major, of an integer or bool tensor; `u64` wraps.
///
/// # Errors
/// `DTypeMismatch` for floats and strings.
#[expect(clippy::unnecessary_cast, reason = "unnecessary for one of the types")]
pub fn to_i64(t: &Tensor) -> Result<Vec<i64>> {
    let dtype = t.dtype();
    if dtype == DType::Bool {
        return Ok(t.iter::<bool>()?.map(i64::from).collect());
    }
    if dtype.is_packed() && dtype.is_int() {
        return to_i64(&t.unpack()?);
    }
    if !dtype.is_int() {
        bail!(DTypeMismatch, "expected integers, got {dtype}");
    }
    for_dtype!(dtype, T in int => Ok(t.iter::<T>()?.map(|x| x as i64).collect()))
}

/// A tensor of `dtype` from doubles: floats round to nearest even (8- and 4-bit
/// ones saturate), integers truncate toward zero and saturate, bool is "not zero".
///
/// # Errors
/// `ShapeMismatch` on a wrong count, `Unsupported` for strings and `f8e8m0`.
pub fn cast_from_f64(dtype: DType, shape: &[usize], data: &[f64]) -> Result<Tensor> {
    if dtype == DType::Bool {
        return Tensor::from_vec(shape, data.iter().map(|&x| x != 0.0).collect());
    }
    if dtype.is_float8() || dtype == DType::F4E2M1 {
        let mut bits = Vec::with_capacity(data.len());
        for &x in data {
            match narrow::encode_float(dtype, x as f32, true) {
                Some(b) => bits.push(b),
                None => bail!(Unsupported, "rounding to {dtype} needs a rounding mode; use Cast"),
            }
        }
        return if dtype.is_packed() {
            Tensor::from_unpacked(dtype, shape, &bits)
        } else {
            Tensor::from_bytes(dtype, shape, &bits)
        };
    }
    if dtype.is_packed() {
        let (lo, hi) = int_range(dtype);
        let bytes: Vec<u8> = data.iter().map(|&x| x.clamp(lo, hi) as i64 as u8).collect();
        return Tensor::from_unpacked(dtype, shape, &bytes);
    }
    for_dtype!(dtype, T in numeric => {
        Tensor::from_vec::<T>(shape, data.iter().map(|&x| T::from_f64(x)).collect())
    })
}

/// A tensor of an integer type (or bool) from integers; values wrap to the width.
///
/// # Errors
/// `ShapeMismatch` on a wrong count, `Unsupported` for other element types.
pub fn cast_from_i64(dtype: DType, shape: &[usize], data: &[i64]) -> Result<Tensor> {
    if dtype == DType::Bool {
        return Tensor::from_vec(shape, data.iter().map(|&x| x != 0).collect());
    }
    if dtype.is_packed() && dtype.is_int() {
        let bytes: Vec<u8> = data.iter().map(|&x| x as u8).collect();
        return Tensor::from_unpacked(dtype, shape, &bytes);
    }
    for_dtype!(dtype, T in int => {
        Tensor::from_vec::<T>(shape, data.iter().map(|&x| x as T).collect())
    })
}

/// Least and greatest value of a packed integer type.
fn int_range(dtype: DType) -> (f64, f64) {
    let bits = dtype.bits() as i32;
    if dtype.is_signed_int() {
        (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0)
    } else {
        (0.0, 2f64.powi(bits) - 1.0)
    }
}
