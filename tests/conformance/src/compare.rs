//! Whether two values agree.

use deepseek_graph::Value;
use deepseek_graph::ops::util::to_f64;
use deepseek_tensor::{DType, Tensor};
use std::fmt::Write as _;

/// How close values must be.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the expected value.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
    /// Whether values are compared at all.
    pub values: bool,
}

/// Compares a result with the expected value.
///
/// # Errors
/// What differs: kind, element type, shape, or the first elements out of tolerance.
pub fn compare(got: &Value, want: &Value, tol: &Tolerance) -> Result<(), String> {
    match (got, want) {
        (Value::Tensor(g), Value::Tensor(w)) => tensors(g, w, tol),
        (Value::Sequence(_, g), Value::Sequence(_, w)) => {
            if g.len() != w.len() {
                return Err(format!("{} items, expected {}", g.len(), w.len()));
            }
            g.iter().zip(w.iter()).enumerate().try_for_each(|(i, (g, w))| {
                compare(g, w, tol).map_err(|e| format!("item {i}: {e}"))
            })
        }
        (Value::Optional(_, g), Value::Optional(_, w)) => match (g, w) {
            (None, None) => Ok(()),
            (Some(g), Some(w)) => compare(g, w, tol),
            (Some(_), None) => Err("something, expected nothing".to_owned()),
            (None, Some(_)) => Err("nothing, expected something".to_owned()),
        },
        _ => Err(format!("{}, expected {}", got.ty(), want.ty())),
    }
}

fn tensors(got: &Tensor, want: &Tensor, tol: &Tolerance) -> Result<(), String> {
    if (got.dtype(), got.shape()) != (want.dtype(), want.shape()) {
        return Err(format!(
            "{}{:?}, expected {}{:?}",
            got.dtype(),
            got.shape(),
            want.dtype(),
            want.shape()
        ));
    }
    if !tol.values {
        return Ok(());
    }
    let error = |e: deepseek_tensor::Error| e.to_string();
    if got.dtype() == DType::String {
        let (g, w) = (got.as_strings().map_err(error)?, want.as_strings().map_err(error)?);
        return differences(&g, &w, |g, w| g == w);
    }
    let rtol = if got.dtype() == DType::BF16 { tol.rtol.max(0.015625) } else { tol.rtol };
    let (g, w) = (to_f64(got).map_err(error)?, to_f64(want).map_err(error)?);
    differences(&g, &w, |g, w| close(*g, *w, rtol, tol.atol))
}

fn close(got: f64, want: f64, rtol: f64, atol: f64) -> bool {
    if got.is_nan() || want.is_nan() {
        return got.is_nan() && want.is_nan();
    }
    got == want
        || (got.is_finite() && want.is_finite() && (got - want).abs() <= atol + rtol * want.abs())
}

fn differences<T: std::fmt::Debug>(
    got: &[T],
    want: &[T],
    same: impl Fn(&T, &T) -> bool,
) -> Result<(), String> {
    let off: Vec<usize> = (0..want.len()).filter(|&i| !same(&got[i], &want[i])).collect();
    if off.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} of {} elements differ:", off.len(), want.len());
    for &i in off.iter().take(6) {
        let _ = write!(text, " [{i}] {:?} expected {:?};", got[i], want[i]);
    }
    Err(text)
}

/// Type, shape and the first elements of a value.
pub fn summary(v: &Value) -> String {
    match v {
        Value::Tensor(t) => {
            let mut text = format!("{}{:?}", t.dtype(), t.shape());
            let some = if t.dtype() == DType::String {
                format!(
                    "{:?}",
                    t.as_strings().unwrap_or_default().iter().take(12).collect::<Vec<_>>()
                )
            } else {
                match to_f64(t) {
                    Ok(v) => format!("{:?}", &v[..v.len().min(24)]),
                    Err(e) => e.to_string(),
                }
            };
            let _ = write!(text, " = {some}");
            text
        }
        Value::Sequence(_, items) => {
            format!(
                "sequence of {}: {:?}",
                items.len(),
                items.iter().map(summary).collect::<Vec<_>>()
            )
        }
        Value::Optional(_, None) => "nothing".to_owned(),
        Value::Optional(_, Some(v)) => format!("some {}", summary(v)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_nan_and_infinity() {
        let tol = Tolerance { rtol: 1e-3, atol: 1e-7, values: true };
        let t = |v: &[f32]| Value::from(Tensor::from_slice(&[v.len()], v).unwrap());
        let same = |a: &[f32], b: &[f32]| compare(&t(a), &t(b), &tol).is_ok();
        assert!(same(&[1.0009, f32::NAN, f32::INFINITY], &[1.0, f32::NAN, f32::INFINITY]));
        for (a, b) in [
            (1.002, 1.0),
            (f32::NAN, 1.0),
            (1.0, f32::NAN),
            (f32::INFINITY, f32::MAX),
            (f32::INFINITY, f32::NEG_INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            assert!(!same(&[a], &[b]), "{a} {b}");
        }
        assert!(!same(&[1.0, 2.0], &[1.0]));
    }
}
