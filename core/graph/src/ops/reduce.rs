//! Reductions over axes: one rule, ten ways to fold.

use super::util::{
    axes_last, cast_from_f64, cast_from_i64, filled, normalize_axes, to_f64, to_i64,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};

/// How the elements that differ only along the reduced axes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident: $fold:ident;)*) => {$(
        op! {
            $(#[$doc])*
            ///
            /// Input 1 (optional, `i64[n]`) names the axes. Without axes all are reduced, or, with
            /// `noop_with_empty_axes`, none: then each element is folded alone. `keepdims` leaves
            /// reduced axes in place with extent 1. Floats accumulate in double precision;
            /// integers wrap, or are exact and truncate toward zero where the result is not an
            /// integer.
            $name { keepdims: bool = true, noop_with_empty_axes: bool = false }
        }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer(args, Fold::$fold, self.keepdims, self.noop_with_empty_axes)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let x = args.tensor(0)?;
                let axes = args.opt(1)?.map(to_i64).transpose()?;
                let axes = resolve(axes.as_deref(), self.noop_with_empty_axes, x.rank())?;
                Ok(vec![reduce(x, &axes, self.keepdims, Fold::$fold)?.into()])
            }
        }
    )*};
}

reductions! {
    /// `Σ x`; 0 over no elements. (ONNX ReduceSum-13.)
    ReduceSum: Sum;
    /// `Σ x / n`; not a number over no elements. (ONNX ReduceMean-18.)
    ReduceMean: Mean;
    /// `Π x`; 1 over no elements. (ONNX ReduceProd-18.)
    ReduceProd: Prod;
    /// The greatest element, not-a-number before all others, `true` before `false`; the least
    /// value of the type over no elements. (ONNX ReduceMax-20.)
    ReduceMax: Max;
    /// The least element, not-a-number before all others, `false` before `true`; the greatest
    /// value of the type over no elements. (ONNX ReduceMin-20.)
    ReduceMin: Min;
    /// `Σ |x|`; 0 over no elements. (ONNX ReduceL1-18.)
    ReduceL1: L1;
    /// `√Σ x²`; 0 over no elements. (ONNX ReduceL2-18.)
    ReduceL2: L2;
    /// `Σ x²`; 0 over no elements. (ONNX ReduceSumSquare-18.)
    ReduceSumSquare: SumSquare;
    /// `ln Σ x`; −∞ over no elements. (ONNX ReduceLogSum-28.)
    ReduceLogSum: LogSum;
    /// `ln Σ eˣ`, computed relative to the greatest element; −∞ over no elements.
    /// (ONNX ReduceLogSumExp-28.)
    ReduceLogSumExp: LogSumExp;
}

/// The reduced axes in ascending order.
fn resolve(axes: Option<&[i64]>, noop_if_empty: bool, rank: usize) -> Result<Vec<usize>> {
    match axes {
        None | Some([]) if noop_if_empty => Ok(Vec::new()),
        None | Some([]) => Ok((0..rank).collect()),
        Some(axes) => {
            let mut axes = normalize_axes(axes, rank)?;
            axes.sort_unstable();
            Ok(axes)
        }
    }
}

fn infer(args: &InferArgs, fold: Fold, keepdims: bool, noop: bool) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 2)?;
    let dtype = args.dtype(0)?;
    let orders = matches!(fold, Fold::Max | Fold::Min);
    ensure!(
        !dtype.is_packed()
            && !dtype.is_float8()
            && dtype != DType::String
            && (dtype != DType::Bool || orders),
        DTypeMismatch,
        "elements of type {dtype} cannot be reduced here; insert a Cast"
    );
    let absent = args.get(1).is_none();
    let axes = if absent { Some(Vec::new()) } else { args.ints(1) };
    let Some(shape) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
    let Some(axes) = axes else {
        return Ok(vec![infer_unknown_axes(args, dtype, shape, keepdims)]);
    };
    let axes = resolve(Some(&axes), noop, shape.len())?;
    if let (Some(dims), [0]) = (args.dims(0), &axes[..])
        && let Some(total) = reduce_dims(&dims, fold)
    {
        return Ok(vec![Fact::dims(dtype, vec![total], !keepdims)]);
    }
    Ok(vec![Fact::tensor(dtype, reduced_dims(shape, &axes, keepdims))])
}

/// What remains of `shape` when `axes` are reduced.
fn reduced_dims(shape: &[Dim], axes: &[usize], keepdims: bool) -> Vec<Dim> {
    let all = shape.iter().enumerate();
    if keepdims {
        all.map(|(i, d)| if axes.contains(&i) { Dim::from(1) } else { d.clone() }).collect()
    } else {
        all.filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect()
    }
}

/// The fact when the axes are only known at run time: how many there are decides the rank.
fn infer_unknown_axes(args: &InferArgs, dtype: DType, shape: &[Dim], keepdims: bool) -> Fact {
    let count = args.shape(1).and_then(|s| s.first()).and_then(Dim::as_const);
    let rank = match count {
        _ if keepdims => Some(shape.len()),
        Some(n) if n > 0 => shape.len().checked_sub(n as usize),
        _ => None,
    };
    let dims = |rank: usize| (0..rank).map(|i| args.fresh(&format!("dim{i}"))).collect::<Vec<_>>();
    Fact::maybe_ranked(dtype, rank.map(dims))
}

/// The reduction of a shape tensor, where it is a formula over dimensions.
fn reduce_dims(dims: &[Dim], fold: Fold) -> Option<Dim> {
    let (first, rest) = dims.split_first()?;
    match fold {
        Fold::Sum => Some(Dim::sum(dims)),
        Fold::Prod => Some(Dim::product(dims)),
        Fold::Max => Some(rest.iter().fold(first.clone(), |a, b| a.max(b))),
        Fold::Min => Some(rest.iter().fold(first.clone(), |a, b| a.min(b))),
        _ => None,
    }
}

fn reduce(x: &Tensor, axes: &[usize], keepdims: bool, fold: Fold) -> Result<Tensor> {
    let shape: Vec<usize> = if keepdims {
        (0..x.rank()).map(|a| if axes.contains(&a) { 1 } else { x.shape()[a] }).collect()
    } else {
        (0..x.rank()).filter(|a| !axes.contains(a)).map(|a| x.shape()[a]).collect()
    };
    let (view, _) = axes_last(x, axes)?;
    let (outer, inner) = view.shape().split_at(x.rank() - axes.len());
    let (rows, len) = (num_elements(outer)?, num_elements(inner)?);
    let dtype = x.dtype();
    if dtype == DType::Bool {
        let data = to_i64(&view)?;
        let out = fold_rows(&data, rows, len, |row| match fold {
            Fold::Max => row.contains(&1) as i64,
            _ => !row.contains(&0) as i64,
        })?;
        return cast_from_i64(dtype, &shape, &out);
    }
    let real = matches!(fold, Fold::L2 | Fold::LogSum | Fold::LogSumExp);
    if dtype.is_float() || real {
        let out = fold_rows(&to_f64(&view)?, rows, len, |row| fold_floats(fold, row))?;
        return cast_from_f64(dtype, &shape, &out);
    }
    ensure!(
        fold != Fold::Mean || len > 0 || rows == 0,
        InvalidArgument,
        "the mean of no integers is undefined: shape {:?} over axes {axes:?}",
        x.shape()
    );
    for_dtype!(dtype, T in int => {
        let data = view.to_vec::<T>()?;
        let out = if fold == Fold::Mean {
            fold_rows(&data, rows, len, |row| {
                (row.iter().map(|&v| v as i128).sum::<i128>() / row.len() as i128) as T
            })?
        } else {
            fold_rows(&data, rows, len, |row| fold_ints(fold, row))?
        };
        Tensor::from_vec(&shape, out)
    })
}

/// One result for each of `rows` rows of `len` elements; `len` may be 0.
fn fold_rows<T: Clone + Num>(
    data: &[T],
    rows: usize,
    len: usize,
    fold: impl Fn(&[T]) -> T,
) -> Result<Vec<T>> {
    let mut out = filled(rows, T::ZERO)?;
    for (i, o) in out.iter_mut().enumerate() {
        *o = fold(&data[i * len..][..len]);
    }
    Ok(out)
}

fn fold_floats(fold: Fold, row: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| row.iter().map(|&x| f(x)).sum::<f64>();
    match fold {
        // `+ 0.0`: the sum of no floats is −0 in Rust.
        Fold::Sum => sum(|x| x) + 0.0,
        Fold::Mean => sum(|x| x) / row.len() as f64,
        Fold::Prod => row.iter().product(),
        Fold::Max => row.iter().copied().fold(f64::NEG_INFINITY, greater),
        Fold::Min => -row.iter().map(|x| -x).fold(f64::NEG_INFINITY, greater),
        Fold::L1 => sum(f64::abs) + 0.0,
        Fold::L2 => sum(|x| x * x).sqrt() + 0.0,
        Fold::SumSquare => sum(|x| x * x) + 0.0,
        Fold::LogSum => (sum(|x| x) + 0.0).ln(),
        Fold::LogSumExp => {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, greater);
            if max.is_infinite() {
                return max;
            }
            max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
        }
    }
}

/// The greater of two; not-a-number wins.
fn greater(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn fold_ints<T: Num>(fold: Fold, row: &[T]) -> T {
    let all = row.iter().copied();
    let abs = |x: T| if x < T::ZERO { T::ZERO.sub(x) } else { x };
    match fold {
        Fold::Prod => all.fold(T::ONE, T::mul),
        Fold::Max => all.fold(T::from_f64(f64::NEG_INFINITY), |a, b| if b > a { b } else { a }),
        Fold::Min => all.fold(T::from_f64(f64::INFINITY), |a, b| if b < a { b } else { a }),
        Fold::L1 => all.fold(T::ZERO, |a, b| a.add(abs(b))),
        Fold::SumSquare => all.fold(T::ZERO, |a, b| a.add(b.mul(b))),
        _ => all.fold(T::ZERO, T::add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Type};

    fn floats(x: &Tensor, axes: &[usize], fold: Fold) -> Vec<f32> {
        reduce(x, axes, true, fold).unwrap().to_vec().unwrap()
    }

    #[test]
    fn reducing_nothing_gives_the_neutral_element() {
        let x = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
        let inf = f32::INFINITY;
        for (fold, want) in [
            (Fold::Sum, 0.0),
            (Fold::Prod, 1.0),
            (Fold::Max, -inf),
            (Fold::Min, inf),
            (Fold::L2, 0.0),
            (Fold::LogSum, -inf),
            (Fold::LogSumExp, -inf),
        ] {
            assert_eq!(floats(&x, &[1], fold), [want, want], "{fold:?}");
        }
        assert!(floats(&x, &[1], Fold::Mean)[0].is_nan());
        assert!(floats(&x, &[0], Fold::Sum).is_empty());
        let x = Tensor::zeros(DType::I8, &[0]).unwrap();
        let max = reduce(&x, &[0], false, Fold::Max).unwrap();
        assert_eq!(max.to_vec::<i8>().unwrap(), [i8::MIN]);
        assert!(reduce(&x, &[0], false, Fold::Mean).is_err());
    }

    #[test]
    fn integers_stay_exact_and_nan_wins() {
        let x = Tensor::from_slice(&[3], &[i64::MAX, i64::MAX - 2, -7]).unwrap();
        let mean = reduce(&x, &[0], false, Fold::Mean).unwrap();
        assert_eq!(mean.item::<i64>().unwrap(), ((2 * (i64::MAX as i128) - 9) / 3) as i64);
        let x = Tensor::from_slice(&[3], &[1.0f32, f32::NAN, 2.0]).unwrap();
        assert!(floats(&x, &[0], Fold::Max)[0].is_nan() && floats(&x, &[0], Fold::Min)[0].is_nan());
        let x = Tensor::from_slice(&[2, 2], &[true, false, true, true]).unwrap();
        let all = reduce(&x, &[1], false, Fold::Min).unwrap();
        assert_eq!(all.to_vec::<bool>().unwrap(), [false, true]);
    }

    #[test]
    fn a_product_over_a_shape_stays_a_formula() {
        let mut g = Graph::new("g");
        let ty = Type::tensor(DType::F32, [Dim::sym("b"), Dim::from(3i64)]);
        let x = g.add_input("x", ty).unwrap();
        let axes = g.add_constant("axes", Tensor::from_slice(&[1], &[-1i64]).unwrap()).unwrap();
        let y = g.add("y", ReduceSum { keepdims: false, ..Default::default() }, &[x, axes]);
        assert_eq!(g.fact(y.unwrap()).to_string(), "f32[b]");
        let dims = [Dim::sym("b"), Dim::from(3i64)];
        assert_eq!(reduce_dims(&dims, Fold::Prod), Some(Dim::sym("b") * 3));
    }
}
