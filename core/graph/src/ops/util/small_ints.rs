//! Small integer tensors: what shape rules know of them and operators read from them.

use super::{to_f64, to_i64};
use crate::{Dim, Fact, Known};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

/// `fact` with known integer contents, if they fit its type: rank 0 or 1 with as
/// many elements as `contents`, 32- or 64-bit integers.
pub(crate) fn with_contents(mut fact: Fact, contents: Option<Vec<Dim>>) -> Fact {
    let fits = |dims: &Vec<Dim>| {
        let len = match fact.shape() {
            Some([]) => Some(1),
            Some([n]) => n.as_const(),
            _ => None,
        };
        matches!(fact.dtype(), Ok(DType::I64 | DType::I32)) && len == Some(dims.len() as i64)
    };
    if let Some(dims) = contents.filter(fits) {
        fact.known = Some(Known::Dims(dims));
    }
    fact
}

/// The only element of an integer tensor.
///
/// # Errors
/// `InvalidArgument` unless there is exactly one; `DTypeMismatch` for floats.
pub(crate) fn scalar_i64(t: &Tensor, what: &str) -> Result<i64> {
    match to_i64(t)?[..] {
        [x] => Ok(x),
        _ => bail!(
            InvalidArgument,
            "{what} must be one integer, got a tensor of shape {:?}",
            t.shape()
        ),
    }
}

/// The elements of an integer tensor of rank 1 (or 0).
///
/// # Errors
/// `ShapeMismatch` for other ranks; `DTypeMismatch` for floats.
pub(crate) fn list_i64(t: &Tensor, what: &str) -> Result<Vec<i64>> {
    ensure!(
        t.rank() <= 1,
        ShapeMismatch,
        "{what} must be a list of integers, got shape {:?}",
        t.shape()
    );
    to_i64(t)
}

/// A number for each element such that numbers are ordered as elements are: NaN
/// above every number, both zeros equal, strings by their bytes.
///
/// # Errors
/// `Unsupported` for an element type that has no numbers.
pub(crate) fn order_keys(t: &Tensor) -> Result<Vec<u64>> {
    const TOP: u64 = 1 << 63;
    let dtype = t.dtype();
    if dtype == DType::String {
        let text = t.as_strings()?;
        let mut sorted = text.clone();
        sorted.sort_unstable();
        sorted.dedup();
        return Ok(text.iter().map(|s| sorted.partition_point(|x| x < s) as u64).collect());
    }
    if dtype.is_float() {
        let key = |x: f64| match x {
            x if x.is_nan() => u64::MAX,
            0.0 => TOP,
            x if x < 0.0 => !x.to_bits(),
            x => x.to_bits() | TOP,
        };
        return Ok(to_f64(t)?.into_iter().map(key).collect());
    }
    let flip = if dtype.is_signed_int() { TOP } else { 0 };
    Ok(to_i64(t)?.into_iter().map(|x| x as u64 ^ flip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_elements_do() {
        let f = [f32::NEG_INFINITY, -2.0, -0.5, 0.0, 1e-30, 3.0, f32::INFINITY, f32::NAN];
        let keys = order_keys(&Tensor::from_slice(&[8], &f).unwrap()).unwrap();
        assert!(keys.windows(2).all(|w| w[0] < w[1]), "{keys:?}");
        let zeros = order_keys(&Tensor::from_slice(&[2], &[0.0f32, -0.0]).unwrap()).unwrap();
        assert_eq!(zeros[0], zeros[1]);
        let keys = order_keys(&Tensor::from_slice(&[3], &[i64::MIN, -1, 5]).unwrap()).unwrap();
        assert!(keys.windows(2).all(|w| w[0] < w[1]));
        let keys = order_keys(&Tensor::from_slice(&[2], &[5, u64::MAX]).unwrap()).unwrap();
        assert!(keys[0] < keys[1]);
    }
}
