//! Undoing a max pooling.

use super::conv::expect_floats;
use super::util::{
    AutoPad, TransposedWindow, Window, filled, pool_kernel, to_dims, to_i64, usize_dims,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Result, Tensor, ensure, err, num_elements};

op! {
    /// Puts each element of x `[N, C, D1…]` where the second input, indices of the same
    /// shape, says, and zeros elsewhere. The indices count the elements of the flat
    /// output `[N, C, stride·(D − 1) + kernel − pads…]`. With the third input, the
    /// wanted output shape, that output lies in the corner of one of the wanted shape.
    /// Of several elements for one place the last stays. (ONNX MaxUnpool-22.)
    MaxUnpool {
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

impl MaxUnpool {
    /// The window of the pooling being undone.
    pub fn window(&self) -> TransposedWindow<'_> {
        TransposedWindow {
            window: Window {
                strides: &self.strides,
                dilations: &[],
                pads: &self.pads,
                auto_pad: AutoPad::NotSet,
                ceil_mode: false,
            },
            output_padding: &[],
            output_shape: &[],
        }
    }

    fn dims(&self, x: &[Dim]) -> Result<Vec<Dim>> {
        ensure!(
            x.len() >= 3,
            ShapeMismatch,
            "unpooling takes [batch, channels, spatial axes…], got rank {}",
            x.len()
        );
        let kernel = to_dims(&pool_kernel(&self.kernel_shape)?);
        let mut shape = x[..2].to_vec();
        shape.extend(self.window().output_dims(&x[2..], &kernel)?);
        Ok(shape)
    }
}

impl Operator for MaxUnpool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let dtype = expect_floats(args, &[0])?;
        let Some(x) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let mut shape = self.dims(x)?;
        if args.get(2).is_some() {
            shape = match args.dims(2) {
                Some(wanted) => wanted,
                None => (0..x.len()).map(|i| args.fresh(&format!("extent{i}"))).collect(),
            };
            ensure!(
                shape.len() == x.len(),
                ShapeMismatch,
                "the wanted shape has {} axes, x has {}",
                shape.len(),
                x.len()
            );
        }
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices) = (args.tensor(0)?, args.tensor(1)?);
        ensure!(
            x.shape() == indices.shape(),
            ShapeMismatch,
            "x has the shape {:?}, its indices {:?}; they must be equal",
            x.shape(),
            indices.shape()
        );
        let inner = self
            .dims(&to_dims(x.shape()))?
            .iter()
            .map(|d| d.as_const().and_then(|d| usize::try_from(d).ok()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| err!(ShapeMismatch, "the output extents overflow"))?;
        let count = num_elements(&inner)?;
        let outer = match args.opt(2)? {
            Some(t) => usize_dims(&to_i64(t)?)?,
            None => inner.clone(),
        };
        ensure!(
            outer.len() == inner.len() && inner.iter().zip(&outer).all(|(i, o)| i <= o),
            ShapeMismatch,
            "unpooling gives {inner:?}, which does not lie in the wanted shape {outer:?}"
        );
        let indices = to_i64(indices)?;
        if let Some(bad) = indices.iter().find(|&&i| i < 0 || i as u64 >= count as u64) {
            return Err(err!(
                InvalidArgument,
                "index {bad} lies outside the {count} elements of {inner:?}"
            ));
        }
        let total = num_elements(&outer)?;
        for_dtype!(x.dtype(), T in numeric => {
            let mut y = filled(total, T::ZERO)?;
            for (v, &i) in x.iter::<T>()?.zip(&indices) {
                y[relocate(i as usize, &inner, &outer)] = v;
            }
            Ok(vec![Tensor::from_vec(&outer, y)?.into()])
        })
    }
}

/// The flat index in shape `outer` of the element at flat index `i` in shape `inner`.
fn relocate(mut i: usize, inner: &[usize], outer: &[usize]) -> usize {
    let (mut out, mut step) = (0, 1);
    for (&n, &m) in inner.iter().zip(outer).rev() {
        out += i % n * step;
        i /= n;
        step *= m;
    }
    out
}
