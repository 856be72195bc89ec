//! Columns of blocks back to images: the transpose of cutting an image into windows.

use super::util::{
    AutoPad, Row, Window, WindowAxis, cast_from_f64, filled, for_each_row, live_taps, to_f64,
    to_i64, usize_dims,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// Adds every element of a block to the place in the image that the block covers.
    /// Inputs: x `[N, C · B1 · B2…, L]`, the image extents `[I1, I2…]` and the block extents
    /// `[B1, B2…]`; `L` is the number of places that the window of a block has in the
    /// image. y is `[N, C, I1, I2…]`. (ONNX Col2Im-18.)
    Col2Im { dilations: Vec<i64> = vec![], pads: Vec<i64> = vec![], strides: Vec<i64> = vec![] }
}

impl Col2Im {
    /// The window that cuts the blocks.
    pub fn window(&self) -> Window<'_> {
        Window {
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: AutoPad::NotSet,
            ceil_mode: false,
        }
    }
}

impl Operator for Col2Im {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = args.dtype(0)?;
        let rank = args.dims(1).map(|d| d.len()).or_else(|| match args.shape(1) {
            Some([n]) => n.as_const().map(|n| n as usize),
            _ => None,
        });
        let Some(rank) = rank else { return Ok(vec![Fact::unranked(dtype)]) };
        let (batch, rows) = match args.shape(0) {
            Some([n, rows, _]) => (n.clone(), Some(rows)),
            Some(x) => deepseek_tensor::bail!(
                ShapeMismatch,
                "expected [batch, channels · block, blocks], got {x:?}"
            ),
            None => (args.fresh("batch"), None),
        };
        let channels = match (rows, args.dims(2)) {
            (Some(rows), Some(block)) => rows.floor_div(&Dim::product(&block)),
            _ => args.fresh("channels"),
        };
        let image = args.dims(1);
        let mut shape = vec![batch, channels];
        shape.extend((0..rank).map(|i| match &image {
            Some(image) => image[i].clone(),
            None => args.fresh(&format!("extent{i}")),
        }));
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let image = usize_dims(&to_i64(args.tensor(1)?)?)?;
        let block = usize_dims(&to_i64(args.tensor(2)?)?)?;
        let axes = self.window().resolve(&image, &block)?;
        let taps = num_elements(&block)?;
        let blocks: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let places = num_elements(&blocks)?;
        let &[batch, rows, columns] = x.shape() else {
            deepseek_tensor::bail!(
                ShapeMismatch,
                "expected [batch, channels · block, blocks], got {:?}",
                x.shape()
            );
        };
        ensure!(
            rows.is_multiple_of(taps) && columns == places,
            ShapeMismatch,
            "{rows} rows of {columns} columns do not fit blocks of {block:?} at {blocks:?} places"
        );
        let mut shape = vec![batch, rows / taps];
        shape.extend_from_slice(&image);
        num_elements(&shape)?;
        let plane = num_elements(&image)?;
        let count = num_elements(&shape)?;
        let places = Places {
            axes: &axes,
            planes: num_elements(&[batch, rows / taps])?,
            plane,
            taps,
            places,
        };
        if x.dtype().is_float() {
            let mut y = filled(count, 0.0)?;
            places.add(&to_f64(x)?, &mut y, |a, b| a + b);
            return Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()]);
        }
        for_dtype!(x.dtype(), T in int => {
            let mut y = filled(count, T::ZERO)?;
            places.add(&x.to_vec::<T>()?, &mut y, Num::add);
            Ok(vec![Tensor::from_vec(&shape, y)?.into()])
        })
    }
}

struct Places<'a> {
    axes: &'a [WindowAxis],
    /// Batch times channels.
    planes: usize,
    /// Elements of an image plane.
    plane: usize,
    /// Elements of a block.
    taps: usize,
    /// Places that a block has in a plane.
    places: usize,
}

impl Places<'_> {
    /// Adds the columns `x` to the images `y`.
    fn add<T: Copy>(&self, x: &[T], y: &mut [T], add: impl Fn(T, T) -> T) {
        for (tap, flat) in live_taps(self.axes) {
            for p in 0..self.planes {
                let y = &mut y[p * self.plane..][..self.plane];
                let x = &x[(p * self.taps + flat) * self.places..][..self.places];
                for_each_row(self.axes, &tap, &mut |r: Row| {
                    let x = &x[r.output..][..r.len];
                    let y = y[r.input..].iter_mut().step_by(r.step);
                    y.zip(x).for_each(|(y, &x)| *y = add(*y, x));
                });
            }
        }
    }
}
