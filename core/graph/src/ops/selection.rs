//! Results whose extent depends on the data: Compress, NonZero, Unique.

use super::util::{around, normalize_axis, order_keys, take_axis, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Known, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};

op! {
    /// The slices along `axis` (without it, the elements) for which input 1, `bool[n]`,
    /// is true; slices beyond its end are left out. (ONNX Compress-28.)
    Compress {
        /// Axis whose slices are selected; absent, the input counts as flat.
        axis: Option<i64> = None
    }
}

impl Operator for Compress {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let condition = args.dtype(1)?;
        ensure!(
            condition == DType::Bool,
            DTypeMismatch,
            "the condition must be bool, got {condition}; insert a Cast"
        );
        let count = match args.fact(1)?.known.as_ref() {
            Some(Known::Tensor(t)) => Dim::from(t.iter::<bool>()?.filter(|b| *b).count()),
            _ => args.fresh("selected"),
        };
        let shape = match (self.axis, args.shape(0)) {
            (None, _) => Some(vec![count]),
            (Some(_), None) => None,
            (Some(axis), Some(s)) => {
                let axis = normalize_axis(axis, s.len())?;
                let mut out = s.to_vec();
                out[axis] = count;
                Some(out)
            }
        };
        Ok(vec![Fact::maybe_ranked(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let x = if self.axis.is_none() { x.reshape(&[x.len()])? } else { x.clone() };
        let axis = normalize_axis(self.axis.unwrap_or(0), x.rank())?;
        let keep: Vec<usize> = args
            .tensor(1)?
            .iter::<bool>()?
            .enumerate()
            .filter(|(_, k)| *k)
            .map(|(i, _)| i)
            .collect();
        if let Some(last) = keep.last() {
            ensure!(
                *last < x.shape()[axis],
                ShapeMismatch,
                "the condition selects position {last} of an axis of extent {}",
                x.shape()[axis]
            );
        }
        Ok(vec![take_axis(&x, axis, &keep, None)?.into()])
    }
}

op! {
    /// Indices of the elements that are not zero (not empty, for strings), `i64[rank, n]`,
    /// in row-major order. (ONNX NonZero-13.)
    NonZero {}
}

impl Operator for NonZero {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        args.dtype(0)?;
        let rank = match args.shape(0) {
            Some(s) => Dim::from(s.len()),
            None => args.fresh("rank"),
        };
        Ok(vec![Fact::tensor(DType::I64, [rank, args.fresh("count")])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let flags: Vec<bool> = match x.dtype() {
            DType::String => x.as_strings()?.iter().map(|s| !s.is_empty()).collect(),
            d if d.is_int() => to_i64(x)?.into_iter().map(|v| v != 0).collect(),
            _ => to_f64(x)?.into_iter().map(|v| v != 0.0).collect(),
        };
        let hits: Vec<usize> =
            flags.iter().enumerate().filter(|(_, f)| **f).map(|(i, _)| i).collect();
        let mut out = vec![0i64; x.rank() * hits.len()];
        let mut step = 1;
        for axis in (0..x.rank()).rev() {
            let extent = x.shape()[axis];
            for (o, &at) in out[axis * hits.len()..].iter_mut().zip(&hits) {
                *o = (at / step % extent) as i64;
            }
            step *= extent.max(1);
        }
        Ok(vec![Tensor::from_vec(&[x.rank(), hits.len()], out)?.into()])
    }
}

op! {
    /// The distinct elements (or slices along `axis`); for each of them the position of
    /// its first occurrence; for each element which distinct one it is; and how often
    /// each occurs (all `i64`). NaNs count as one value, above all others.
    /// (ONNX Unique-28.)
    Unique {
        /// Axis whose slices are compared; absent, the input counts as flat.
        axis: Option<i64> = None,
        /// Whether results ascend; otherwise they come in order of first occurrence.
        sorted: bool = true
    }
}

impl Operator for Unique {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = args.dtype(0)?;
        let count = args.fresh("distinct");
        let (values, all) = match (self.axis, args.shape(0)) {
            (None, Some(s)) => (Some(vec![count.clone()]), Dim::product(s)),
            (None, None) => (Some(vec![count.clone()]), args.fresh("elements")),
            (Some(_), None) => (None, args.fresh("slices")),
            (Some(axis), Some(s)) => {
                let axis = normalize_axis(axis, s.len())?;
                let mut out = s.to_vec();
                out[axis] = count.clone();
                (Some(out), s[axis].clone())
            }
        };
        let list = |d: &Dim| Fact::tensor(DType::I64, [d.clone()]);
        let values = Fact::maybe_ranked(dtype, values);
        Ok(vec![values, list(&count), list(&all), list(&count)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let x = if self.axis.is_none() { x.reshape(&[x.len()])? } else { x.clone() };
        let axis = normalize_axis(self.axis.unwrap_or(0), x.rank())?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let keys = order_keys(&x)?;
        let key = |slice: usize| {
            let keys = &keys;
            (0..outer).flat_map(move |o| &keys[(o * extent + slice) * inner..][..inner])
        };
        let mut order: Vec<usize> = (0..extent).collect();
        order.sort_by(|&a, &b| key(a).cmp(key(b)).then(a.cmp(&b)));
        // Runs of equal slices; each starts with its first occurrence.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for slice in order {
            match groups.last_mut() {
                Some(group) if key(group[0]).eq(key(slice)) => group.push(slice),
                _ => groups.push(vec![slice]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let first: Vec<usize> = groups.iter().map(|g| g[0]).collect();
        let mut inverse = vec![0i64; extent];
        for (i, slice) in groups.iter().enumerate().flat_map(|(i, g)| g.iter().map(move |s| (i, s)))
        {
            inverse[*slice] = i as i64;
        }
        let list = |v: Vec<i64>| Ok(Tensor::from_vec(&[v.len()], v)?.into());
        Ok(vec![
            take_axis(&x, axis, &first, None)?.into(),
            list(first.iter().map(|&i| i as i64).collect())?,
            list(inverse)?,
            list(groups.iter().map(|g| g.len() as i64).collect())?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn unique(op: Unique, x: Tensor) -> Vec<Tensor> {
        let inputs = [Some(x.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 4, env: &NoSubgraphs };
        op.eval(&args).unwrap().iter().map(|v| v.tensor().unwrap().clone()).collect()
    }

    #[test]
    fn unique_strings_keep_the_order_of_occurrence_if_unsorted() {
        let text = ["b", "a", "b", "c"].map(String::from).to_vec();
        let x = Tensor::from_strings(&[2, 2], text).unwrap();
        let out = unique(Unique { axis: None, sorted: false }, x);
        assert_eq!(out[0].as_strings().unwrap(), ["b", "a", "c"]);
        assert_eq!(out[1].to_vec::<i64>().unwrap(), [0, 1, 3]);
        assert_eq!(out[2].to_vec::<i64>().unwrap(), [0, 1, 0, 2]);
        assert_eq!(out[3].to_vec::<i64>().unwrap(), [2, 1, 1]);
    }

    #[test]
    fn nan_is_one_value() {
        let x = Tensor::from_slice(&[4], &[f32::NAN, 1.0, -f32::NAN, -0.0]).unwrap();
        let out = unique(Unique::default(), x);
        assert_eq!(out[0].shape(), [3]);
        assert_eq!(out[3].to_vec::<i64>().unwrap(), [1, 1, 2]);
    }
}
