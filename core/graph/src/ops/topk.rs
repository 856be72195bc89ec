//! The greatest or least elements along an axis.

use super::util::{Sink, Source, around, normalize_axis, order_keys, scalar_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Dims, Result, Tensor, ensure};

op! {
    /// The `k` greatest (least) elements along `axis` and their positions (`i64`), best
    /// first; of equal ones the first, and NaN is greatest. `k` is input 1, one integer.
    /// (ONNX TopK-24.)
    TopK {
        /// Axis that shrinks to `k`.
        axis: i64 = -1,
        /// Whether the greatest are wanted.
        largest: bool = true,
        /// Whether the results must be in order; they always are.
        sorted: bool = true
    }
}

impl Operator for TopK {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        args.dtype(1)?;
        let Some(s) = args.shape(0) else {
            return Ok(vec![Fact::unranked(dtype), Fact::unranked(DType::I64)]);
        };
        let axis = normalize_axis(self.axis, s.len())?;
        let k = match args.dims(1).as_deref() {
            Some([k]) => k.clone(),
            _ => args.fresh("k"),
        };
        if let (Some(k), Some(n)) = (k.as_const(), s[axis].as_const()) {
            expect_k(k, n, axis)?;
        }
        let mut out: Vec<Dim> = s.to_vec();
        out[axis] = k;
        Ok(vec![Fact::tensor(dtype, out.clone()), Fact::tensor(DType::I64, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let k = scalar_i64(args.tensor(1)?, "k")?;
        expect_k(k, extent as i64, axis)?;
        let k = k as usize;
        let mut shape = Dims::from_slice(x.shape());
        shape[axis] = k;
        let keys = order_keys(x)?;
        let (mut values, source) = (Sink::zeros(x.dtype(), &shape)?, Source::of(x)?);
        let mut places = vec![0i64; outer * k * inner];
        let mut lane: Vec<usize> = Vec::with_capacity(extent);
        for o in 0..outer {
            for i in 0..inner {
                let at = |p: usize| (o * extent + p) * inner + i;
                let rank = |&p: &usize| {
                    let key = keys[at(p)];
                    (if self.largest { !key } else { key }, p)
                };
                lane.clear();
                lane.extend(0..extent);
                if (1..extent).contains(&k) {
                    lane.select_nth_unstable_by_key(k - 1, rank);
                }
                lane.truncate(k);
                lane.sort_unstable_by_key(rank);
                for (j, &p) in lane.iter().enumerate() {
                    let to = (o * k + j) * inner + i;
                    values.copy(to, &source, at(p), 1)?;
                    places[to] = p as i64;
                }
            }
        }
        Ok(vec![values.finish()?.into(), Tensor::from_vec(&shape, places)?.into()])
    }
}

fn expect_k(k: i64, extent: i64, axis: usize) -> Result<()> {
    ensure!(
        (0..=extent).contains(&k),
        InvalidArgument,
        "k is {k}, axis {axis} has {extent} elements"
    );
    Ok(())
}
