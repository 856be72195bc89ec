//! Writing elements by index into a copy of a tensor.

use super::gather::{element_places, tuple_places};
use super::util::{Num, Sink, Source, around, list_i64, normalize_axis, with_contents};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err, num_elements};

attr_enum! {
    /// How an update meets the element that is already there.
    Reduction {
        /// The update replaces it; of several, the last one.
        None = "none",
        /// Their sum.
        Add = "add",
        /// Their product.
        Mul = "mul",
        /// The greater one; NaN if either is.
        Max = "max",
        /// The lesser one; NaN if either is.
        Min = "min"
    }
}

/// A copy of `data` into which run `i` of `updates`, `run` elements long, is written
/// or reduced at `places[i]`, in order.
fn scatter(
    data: &Tensor,
    updates: &Tensor,
    places: &[usize],
    run: usize,
    reduction: Reduction,
) -> Result<Tensor> {
    ensure!(
        data.dtype() == updates.dtype(),
        DTypeMismatch,
        "data of {} and updates of {} differ; insert a Cast",
        data.dtype(),
        updates.dtype()
    );
    if reduction == Reduction::None {
        let mut sink = Sink::zeros(data.dtype(), data.shape())?;
        sink.copy(0, &Source::of(data)?, 0, data.len())?;
        let source = Source::of(updates)?;
        for (i, &at) in places.iter().enumerate() {
            sink.copy(at, &source, i * run, run)?;
        }
        return sink.finish();
    }
    if data.dtype() == DType::Bool {
        let mut out = data.to_vec::<bool>()?;
        let f = match reduction {
            Reduction::Add | Reduction::Max | Reduction::None => |a: bool, b: bool| a | b,
            Reduction::Mul | Reduction::Min => |a: bool, b: bool| a & b,
        };
        reduce(&mut out, &updates.to_vec::<bool>()?, places, run, f);
        return Tensor::from_vec(data.shape(), out);
    }
    for_dtype!(data.dtype(), T in numeric => {
        let mut out = data.to_vec::<T>()?;
        let new = updates.to_vec::<T>()?;
        // NaN is the only value that has no order, not even with itself.
        let nan = |a: T| a.partial_cmp(&a).is_none();
        let (out_ref, new) = (&mut out, &new);
        match reduction {
            Reduction::None => {}
            Reduction::Add => reduce(out_ref, new, places, run, Num::add),
            Reduction::Mul => reduce(out_ref, new, places, run, Num::mul),
            Reduction::Max => {
                reduce(out_ref, new, places, run, |a, b| if nan(a) || a >= b { a } else { b })
            }
            Reduction::Min => {
                reduce(out_ref, new, places, run, |a, b| if nan(a) || a <= b { a } else { b })
            }
        }
        Tensor::from_vec(data.shape(), out)
    })
}

fn reduce<T: Copy>(out: &mut [T], new: &[T], places: &[usize], run: usize, f: impl Fn(T, T) -> T) {
    for (i, &at) in places.iter().enumerate() {
        for (o, &x) in out[at..][..run].iter_mut().zip(&new[i * run..]) {
            *o = f(*o, x);
        }
    }
}

/// The fact of a result that is input 0 with some elements replaced.
fn like_data(args: &InferArgs) -> Result<Fact> {
    args.expect_inputs(3, 3)?;
    args.expect_same_dtype(0, 2)?;
    let dtype = args.dtype(1)?;
    ensure!(
        matches!(dtype, DType::I32 | DType::I64),
        DTypeMismatch,
        "indices must be i32 or i64, got {dtype}; insert a Cast"
    );
    Ok(Fact { ty: args.fact(0)?.ty.clone(), known: None })
}

op! {
    /// A copy of `x` in which the element at `i…`, with `i[axis]` replaced by
    /// `indices[i…]`, takes `updates[i…]`. (ONNX ScatterElements-18.)
    ScatterElements {
        /// Axis that is indexed.
        axis: i64 = 0,
        /// How an update meets the element that is there.
        reduction: Reduction = Reduction::None
    }
}

impl Operator for ScatterElements {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let fact = like_data(args)?;
        if let Some(s) = args.shape(0) {
            normalize_axis(self.axis, s.len())?;
        }
        let contents = match (args.dims(0), args.ints(1), args.dims(2)) {
            (Some(mut data), Some(at), Some(new))
                if fact.rank() == Some(1)
                    && at.len() == new.len()
                    && self.reduction == Reduction::None =>
            {
                for (&i, x) in at.iter().zip(new) {
                    let i = super::util::wrap_index(i, data.len(), 0)?;
                    data[i] = x;
                }
                Some(data)
            }
            _ => None,
        };
        Ok(vec![with_contents(fact, contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices, updates) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
        ensure!(
            indices.shape() == updates.shape(),
            ShapeMismatch,
            "indices {:?} and updates {:?} differ in shape",
            indices.shape(),
            updates.shape()
        );
        let places = element_places(x.shape(), indices, self.axis)?;
        Ok(vec![scatter(x, updates, &places, 1, self.reduction)?.into()])
    }
}

op! {
    /// A copy of `x` in which the slice addressed by the tuple `indices[i…, :]` takes
    /// `updates[i…]`. (ONNX ScatterND-18.)
    ScatterND {
        /// How an update meets the elements that are there.
        reduction: Reduction = Reduction::None
    }
}

impl Operator for ScatterND {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        Ok(vec![like_data(args)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices, updates) = (args.tensor(0)?, args.tensor(1)?, args.tensor(2)?);
        let i = indices.shape();
        let tuple =
            *i.last().ok_or_else(|| err!(ShapeMismatch, "indices must have at least one axis"))?;
        ensure!(
            tuple <= x.rank(),
            ShapeMismatch,
            "index tuples of {tuple} address more than rank {}",
            x.rank()
        );
        let want = [&i[..i.len() - 1], &x.shape()[tuple..]].concat();
        ensure!(
            updates.shape() == want,
            ShapeMismatch,
            "updates have shape {:?}, data {:?} and indices {i:?} need {want:?}",
            updates.shape(),
            x.shape()
        );
        let run = num_elements(&x.shape()[tuple..])?;
        let places = tuple_places(x.shape(), indices, 0)?;
        Ok(vec![scatter(x, updates, &places, run, self.reduction)?.into()])
    }
}

attr_enum! {
    /// What happens to positions past the end of the cache.
    CacheMode {
        /// They are an error.
        Linear = "linear",
        /// They start over at the front.
        Circular = "circular"
    }
}

op! {
    /// A cache `[batch, …, capacity, …]` into which `update` `[batch, …, length, …]` is
    /// written along `axis`, from position `write_indices[b]` (`i64[batch]`, 0 where
    /// absent) of each batch entry on. (ONNX TensorScatter-24.)
    TensorScatter {
        /// Axis of positions; not the batch axis 0.
        axis: i64 = -2,
        /// What happens past the end.
        mode: CacheMode = CacheMode::Linear
    }
}

impl Operator for TensorScatter {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        args.expect_same_dtype(0, 1)?;
        if let Some(s) = args.shape(0) {
            self.axis(s.len())?;
        }
        Ok(vec![Fact { ty: args.fact(0)?.ty.clone(), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (cache, update) = (args.tensor(0)?, args.tensor(1)?);
        let axis = self.axis(cache.rank())?;
        let fits = cache.rank() == update.rank()
            && (0..cache.rank()).all(|a| match a == axis {
                true => update.shape()[a] <= cache.shape()[a],
                false => update.shape()[a] == cache.shape()[a],
            });
        ensure!(
            fits,
            ShapeMismatch,
            "an update of {:?} does not fit a cache of {:?} along axis {axis}",
            update.shape(),
            cache.shape()
        );
        let batch = cache.shape()[0];
        let starts = match args.opt(2)? {
            Some(t) => list_i64(t, "write_indices")?,
            None => vec![0; batch],
        };
        ensure!(
            starts.len() == batch,
            ShapeMismatch,
            "{} write indices for a batch of {batch}",
            starts.len()
        );
        let (outer, capacity, inner) = around(cache.shape(), axis);
        let length = update.shape()[axis];
        let mut places = Vec::new();
        for o in 0..outer {
            let start = starts[o / (outer / batch)];
            for i in 0..length as i64 {
                let at = start.saturating_add(i);
                let at = match self.mode {
                    CacheMode::Circular => at.rem_euclid(capacity as i64),
                    CacheMode::Linear => at,
                };
                ensure!(
                    (0..capacity as i64).contains(&at),
                    InvalidArgument,
                    "writing {length} positions from {start} leaves a cache of {capacity}"
                );
                places.push((o * capacity + at as usize) * inner);
            }
        }
        Ok(vec![scatter(cache, update, &places, inner, Reduction::None)?.into()])
    }
}

impl TensorScatter {
    fn axis(&self, rank: usize) -> Result<usize> {
        let axis = normalize_axis(self.axis, rank)?;
        ensure!(axis != 0, InvalidArgument, "axis 0 is the batch, not a position");
        Ok(axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_wins_from_either_side() {
        let data = Tensor::from_slice(&[4], &[f32::NAN, 1.0, 1.0, 1.0]).unwrap();
        let new = Tensor::from_slice(&[4], &[2.0, f32::NAN, 2.0, 0.0]).unwrap();
        let run = |r| scatter(&data, &new, &[0, 1, 2, 3], 1, r).unwrap().to_vec::<f32>().unwrap();
        let (max, min) = (run(Reduction::Max), run(Reduction::Min));
        assert!(max[0].is_nan() && max[1].is_nan() && min[0].is_nan() && min[1].is_nan());
        assert_eq!((&max[2..], &min[2..]), (&[2.0, 1.0][..], &[1.0, 0.0][..]));
    }

    #[test]
    fn of_several_updates_the_last_stays_and_all_reduce() {
        let data = Tensor::from_slice(&[2], &[1u8, 250]).unwrap();
        let new = Tensor::from_slice(&[3], &[7u8, 9, 10]).unwrap();
        let run = |r| scatter(&data, &new, &[0, 0, 1], 1, r).unwrap().to_vec::<u8>().unwrap();
        assert_eq!(run(Reduction::None), [9, 10]);
        assert_eq!(run(Reduction::Add), [17, 4], "integers wrap");
    }
}
