//! A table from keys to values.

use super::util::{shaped_like, to_f64, to_i64, vec_for};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};
use std::collections::HashMap;

op! {
    /// Each element replaced by the value of the key that equals it, or by the default. Keys and
    /// values are given as lists or as tensors of rank 1, in one of the attributes each; the
    /// input has the keys' type, the result the values'. NaN matches NaN; of equal keys the
    /// last counts. (ONNX ai.onnx.ml LabelEncoder-4.)
    LabelEncoder {
        /// Default for `values_floats`.
        default_float: f32 = -0.0,
        /// Default for `values_int64s`.
        default_int64: i64 = -1,
        /// Default for `values_strings`.
        default_string: String = "_Unused".to_owned(),
        /// Default for `values_tensor`; without it −1, −0 or `_Unused` by type.
        default_tensor: Option<Tensor> = None,
        /// Keys of type f32.
        keys_floats: Vec<f32> = Vec::new(),
        /// Keys of type i64.
        keys_int64s: Vec<i64> = Vec::new(),
        /// Keys of type string.
        keys_strings: Vec<String> = Vec::new(),
        /// Keys of any type.
        keys_tensor: Option<Tensor> = None,
        /// Values of type f32.
        values_floats: Vec<f32> = Vec::new(),
        /// Values of type i64.
        values_int64s: Vec<i64> = Vec::new(),
        /// Values of type string.
        values_strings: Vec<String> = Vec::new(),
        /// Values of any type.
        values_tensor: Option<Tensor> = None,
    }
}

/// An element as something that can be looked up.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Int(i64),
    /// Bits of a double; one pattern for every NaN, none for negative zero.
    Float(u64),
}

fn keys(t: &Tensor) -> Result<Vec<Key<'_>>> {
    let dtype = t.dtype();
    if dtype == DType::String {
        return Ok(t.as_strings()?.into_iter().map(Key::Text).collect());
    }
    if dtype.is_float() {
        let canonical = |x: f64| if x.is_nan() { f64::NAN } else { x + 0.0 };
        return Ok(to_f64(t)?.into_iter().map(|x| Key::Float(canonical(x).to_bits())).collect());
    }
    Ok(to_i64(t)?.into_iter().map(Key::Int).collect())
}

/// The one list or tensor that is set.
fn only(
    what: &str,
    tensor: &Option<Tensor>,
    floats: &[f32],
    ints: &[i64],
    strings: &[String],
) -> Result<Tensor> {
    let set = [tensor.is_some(), !floats.is_empty(), !ints.is_empty(), !strings.is_empty()];
    let count = set.iter().filter(|&&set| set).count();
    ensure!(count == 1, InvalidGraph, "exactly one of {what}_* must be set, {count} are");
    match tensor {
        Some(t) => {
            ensure!(t.rank() <= 1, InvalidGraph, "{what}_tensor must have rank 1, is {t:?}");
            t.reshape(&[t.len()])
        }
        None if set[1] => Tensor::from_slice(&[floats.len()], floats),
        None if set[2] => Tensor::from_slice(&[ints.len()], ints),
        None => Tensor::from_strings(&[strings.len()], strings.to_vec()),
    }
}

impl LabelEncoder {
    fn keys(&self) -> Result<Tensor> {
        only("keys", &self.keys_tensor, &self.keys_floats, &self.keys_int64s, &self.keys_strings)
    }

    /// The values, and the default as one element more at the end.
    fn values(&self) -> Result<(Tensor, Tensor)> {
        let values = only(
            "values",
            &self.values_tensor,
            &self.values_floats,
            &self.values_int64s,
            &self.values_strings,
        )?;
        let dtype = values.dtype();
        let default = match (&self.default_tensor, dtype) {
            (Some(t), _) => {
                ensure!(
                    t.dtype() == dtype && t.len() == 1,
                    InvalidGraph,
                    "default_tensor must be one element of {dtype}, is {t:?}"
                );
                t.reshape(&[1])?
            }
            (None, DType::String) => Tensor::from_strings(&[1], vec![self.default_string.clone()])?,
            (None, DType::F32) if !self.values_floats.is_empty() => {
                Tensor::from_slice(&[1], &[self.default_float])?
            }
            (None, DType::I64) if !self.values_int64s.is_empty() => {
                Tensor::from_slice(&[1], &[self.default_int64])?
            }
            (None, dtype) => {
                let x = if dtype.is_float() { -0.0 } else { -1.0 };
                super::util::cast_from_f64(dtype, &[1], &[x])?
            }
        };
        Ok((values, default))
    }
}

impl Operator for LabelEncoder {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let (keys, (values, _)) = (self.keys()?, self.values()?);
        let dtype = args.dtype(0)?;
        ensure!(
            dtype == keys.dtype(),
            DTypeMismatch,
            "the input has type {dtype}, the keys {}",
            keys.dtype()
        );
        ensure!(
            keys.len() == values.len(),
            InvalidGraph,
            "{} keys for {} values",
            keys.len(),
            values.len()
        );
        Ok(vec![shaped_like(args, 0, values.dtype())?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let (table, (values, default)) = (self.keys()?, self.values()?);
        if table.dtype() != x.dtype() || table.len() != values.len() {
            bail!(InvalidGraph, "keys {table:?} and values {values:?} do not fit input {x:?}");
        }
        let places: HashMap<Key, usize> =
            keys(&table)?.into_iter().enumerate().map(|(i, k)| (k, i)).collect();
        let found = keys(x)?;
        let found = found.iter().map(|k| places.get(k).copied());
        if values.dtype() == DType::String {
            let (values, default) = (values.as_strings()?, default.as_strings()?);
            let mut out: Vec<String> = vec_for(x.shape())?;
            out.extend(found.map(|i| i.map_or(default[0], |i| values[i]).to_owned()));
            return Ok(vec![Tensor::from_strings(x.shape(), out)?.into()]);
        }
        let out = for_dtype!(values.dtype(), T in fixed => {
            let (values, default) = (values.to_vec::<T>()?, default.item::<T>()?);
            let mut out: Vec<T> = vec_for(x.shape())?;
            out.extend(found.map(|i| i.map_or(default, |i| values[i])));
            Tensor::from_vec(x.shape(), out)
        })?;
        Ok(vec![out.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    #[test]
    fn nan_is_a_key_and_the_last_of_equal_keys_counts() {
        let op = LabelEncoder {
            keys_floats: vec![f32::NAN, 0.0, 1.0, 1.0],
            values_strings: ["nan", "zero", "first", "last"].map(String::from).into(),
            ..Default::default()
        };
        let x = Tensor::from_slice(&[4], &[-f32::NAN, -0.0, 1.0, 2.0]).unwrap();
        let args = EvalArgs { inputs: &[Some(x.into())], outputs: 1, env: &NoSubgraphs };
        let got = op.eval(&args).unwrap();
        let got = got[0].tensor().unwrap();
        assert_eq!(got.as_strings().unwrap(), ["nan", "zero", "last", "_Unused"]);
    }
}
