//! Operators on blocked channels: `[N, C, H, W]` as `[N, ⌈C / lanes⌉, H, W, lanes]`.
//!
//! They appear in lowered graphs only. Each means what an operator of the portable set means between
//! the two changes of layout, and its reference is that. What the last block holds beyond the
//! channels has no meaning.

use deepseek_graph::ops::util::AutoPad;
use deepseek_graph::ops::{
    AveragePool, Conv, FusedConv, GlobalAveragePool, MaxPool, Mul, Pointwise,
};
use deepseek_graph::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};

op! {
    /// `[N, C, H, W]` with blocks of `lanes` channels; what is missing in the last block is zero.
    ToBlocked { lanes: i64 = 0 }
}

op! {
    /// The `channels` of blocked x as `[N, C, H, W]`.
    FromBlocked { channels: i64 = 0 }
}

op! {
    /// `FusedConv` whose result and residual are blocked, and whose input is unless `planes`.
    BlockedConv {
        activation: Option<Pointwise> = None,
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        lanes: i64 = 0,
        pads: Vec<i64> = vec![],
        planes: bool = false,
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// `MaxPool` or, if `average`, `AveragePool` of blocked channels.
    BlockedPool {
        auto_pad: AutoPad = AutoPad::NotSet,
        average: bool = false,
        ceil_mode: bool = false,
        count_include_pad: bool = false,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// `GlobalAveragePool` of `channels` blocked channels; the result `[N, C, 1, 1]` is not blocked.
    BlockedMean { channels: i64 = 0 }
}

op! {
    /// Blocked x times `[N, C, 1, 1]`, which is not blocked.
    BlockedScale {}
}

op! {
    /// Every pixel of blocked x `times[0]` times along the height and `times[1]` along the width.
    BlockedRepeat { times: Vec<i64> = vec![] }
}

/// Extents of an input of known rank.
fn extents<'a, const RANK: usize>(args: &InferArgs<'a>, i: usize) -> Result<&'a [Dim; RANK]> {
    let shape = args.shape(i).and_then(|s| s.try_into().ok());
    shape.ok_or_else(|| err!(ShapeMismatch, "input {i} must have rank {RANK}"))
}

/// A blocked image of `channels`.
fn blocked(batch: &Dim, channels: i64, [h, w]: [&Dim; 2], lanes: i64) -> Result<Fact> {
    ensure!(lanes > 0 && channels >= 0, InvalidGraph, "{channels} channels in blocks of {lanes}");
    let blocks = Dim::from(channels).ceil_div(&Dim::from(lanes));
    let shape = [batch.clone(), blocks, h.clone(), w.clone(), Dim::from(lanes)];
    Ok(Fact::tensor(DType::F32, shape))
}

/// `[N, C, H, W]` as `[N, blocks, H, W, lanes]`.
pub(super) fn block(x: &Tensor, lanes: usize) -> Result<Tensor> {
    ensure!(x.rank() == 4 && lanes > 0, ShapeMismatch, "{:?} in blocks of {lanes}", x.shape());
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
    let blocks = c.div_ceil(lanes);
    let (x, plane) = (x.to_vec::<f32>()?, h * w);
    let mut y = vec![0.0f32; n * blocks * lanes * plane];
    for (i, v) in x.into_iter().enumerate() {
        let (image, channel, p) = (i / plane / c, i / plane % c, i % plane);
        y[((image * blocks + channel / lanes) * plane + p) * lanes + channel % lanes] = v;
    }
    Tensor::from_vec(&[n, blocks, h, w, lanes], y)
}

/// `[N, blocks, H, W, lanes]` as `[N, channels, H, W]`.
fn unblock(x: &Tensor, channels: usize) -> Result<Tensor> {
    ensure!(x.rank() == 5, ShapeMismatch, "blocked channels of shape {:?}", x.shape());
    let [n, blocks, h, w, lanes] = [0, 1, 2, 3, 4].map(|i| x.shape()[i]);
    ensure!(
        channels.div_ceil(lanes) == blocks,
        ShapeMismatch,
        "{channels} channels in {blocks} blocks of {lanes}"
    );
    let y = x.permute(&[0, 1, 4, 2, 3])?.to_contiguous()?.reshape(&[n, blocks * lanes, h, w])?;
    y.slice_axis(1, 0, 1, channels)?.to_contiguous()
}

/// All channels of blocked x, those of no meaning included.
fn all(x: &Tensor) -> Result<Tensor> {
    ensure!(x.rank() == 5, ShapeMismatch, "blocked channels of shape {:?}", x.shape());
    unblock(x, x.shape()[1] * x.shape()[4])
}

fn count(n: i64) -> Result<usize> {
    usize::try_from(n).map_err(|_| err!(InvalidGraph, "{n} channels or lanes"))
}

impl Operator for ToBlocked {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let [n, c, h, w] = extents(args, 0)?;
        let channels = c.as_const().ok_or_else(|| err!(ShapeMismatch, "{c} channels"))?;
        Ok(vec![blocked(n, channels, [h, w], self.lanes)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![block(args.tensor(0)?, count(self.lanes)?)?.into()])
    }
}

impl Operator for FromBlocked {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let [n, _, h, w, _] = extents(args, 0)?;
        let shape = [n.clone(), Dim::from(self.channels), h.clone(), w.clone()];
        Ok(vec![Fact::tensor(DType::F32, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![unblock(args.tensor(0)?, count(self.channels)?)?.into()])
    }
}

impl BlockedConv {
    /// A convolution with an activation, in blocks of `lanes` channels.
    pub fn new(conv: &Conv, activation: Option<Pointwise>, lanes: usize, planes: bool) -> Self {
        let Conv { auto_pad, dilations, group, kernel_shape, pads, strides } = conv.clone();
        let lanes = lanes as i64;
        BlockedConv {
            activation,
            auto_pad,
            dilations,
            group,
            kernel_shape,
            lanes,
            pads,
            planes,
            strides,
        }
    }

    /// The convolution alone, on channels that are not blocked.
    pub fn conv(&self) -> Conv {
        let BlockedConv { auto_pad, dilations, group, kernel_shape, pads, strides, .. } =
            self.clone();
        Conv { auto_pad, dilations, group, kernel_shape, pads, strides }
    }
}

impl Operator for BlockedConv {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        let w = extents::<4>(args, 1)?;
        let fixed = |d: &Dim| d.as_const().ok_or_else(|| err!(ShapeMismatch, "{d} channels"));
        let (out, each) = (fixed(&w[0])?, fixed(&w[1])?);
        let x = if self.planes {
            args.fact(0)?.clone()
        } else {
            let [n, _, h, w, _] = extents(args, 0)?;
            let channels = Dim::from(each.saturating_mul(self.group));
            Fact::tensor(DType::F32, [n.clone(), channels, h.clone(), w.clone()])
        };
        let inputs = [Some(&x), args.get(1), args.get(2)];
        let conv = FusedConv::new(&self.conv(), None);
        let y = conv.infer(&InferArgs { inputs: &inputs, ..*args })?;
        let [n, _, h, w] = y[0].shape().unwrap_or_default() else {
            return Err(err!(ShapeMismatch, "a convolution of rank 4 gives {}", y[0]));
        };
        Ok(vec![blocked(n, out, [h, w], self.lanes)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let w = args.tensor(1)?;
        ensure!(w.rank() == 4, ShapeMismatch, "weights of shape {:?}", w.shape());
        let x = match self.planes {
            true => args.tensor(0)?.clone(),
            false => unblock(args.tensor(0)?, w.shape()[1] * count(self.group)?)?,
        };
        let residual = args.opt(3)?.map(|r| unblock(r, w.shape()[0])).transpose()?;
        let inputs = [
            Some(x.into()),
            args.inputs[1].clone(),
            args.inputs.get(2).cloned().flatten(),
            residual.map(Value::from),
        ];
        let op = FusedConv::new(&self.conv(), self.activation);
        let y = op.eval(&EvalArgs { inputs: &inputs, ..*args })?;
        Ok(vec![block(y[0].tensor()?, count(self.lanes)?)?.into()])
    }
}

impl BlockedPool {
    /// The pooling of the greatest.
    pub fn max(op: &MaxPool) -> Self {
        let op = op.clone();
        BlockedPool {
            auto_pad: op.auto_pad,
            average: false,
            ceil_mode: op.ceil_mode,
            count_include_pad: false,
            dilations: op.dilations,
            kernel_shape: op.kernel_shape,
            pads: op.pads,
            strides: op.strides,
        }
    }

    /// The pooling of means.
    pub fn average(op: &AveragePool) -> Self {
        let op = op.clone();
        BlockedPool {
            auto_pad: op.auto_pad,
            average: true,
            ceil_mode: op.ceil_mode,
            count_include_pad: op.count_include_pad,
            dilations: op.dilations,
            kernel_shape: op.kernel_shape,
            pads: op.pads,
            strides: op.strides,
        }
    }

    /// The operator on channels that are not blocked.
    fn plain(&self) -> Box<dyn Operator> {
        let op = self.clone();
        if self.average {
            Box::new(AveragePool {
                auto_pad: op.auto_pad,
                ceil_mode: op.ceil_mode,
                count_include_pad: op.count_include_pad,
                dilations: op.dilations,
                kernel_shape: op.kernel_shape,
                pads: op.pads,
                strides: op.strides,
            })
        } else {
            Box::new(MaxPool {
                auto_pad: op.auto_pad,
                ceil_mode: op.ceil_mode,
                dilations: op.dilations,
                kernel_shape: op.kernel_shape,
                pads: op.pads,
                strides: op.strides,
                ..MaxPool::default()
            })
        }
    }
}

impl Operator for BlockedPool {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let [n, blocks, h, w, lanes] = extents(args, 0)?;
        let x = Fact::tensor(DType::F32, [n.clone(), blocks.clone(), h.clone(), w.clone()]);
        let y = self.plain().infer(&InferArgs { inputs: &[Some(&x)], ..*args })?;
        let mut shape = y[0].shape().unwrap_or_default().to_vec();
        shape.push(lanes.clone());
        Ok(vec![Fact::tensor(DType::F32, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let lanes = x.shape().get(4).copied().unwrap_or(0);
        let inputs = [Some(all(x)?.into())];
        let y = self.plain().eval(&EvalArgs { inputs: &inputs, ..*args })?;
        Ok(vec![block(y[0].tensor()?, lanes)?.into()])
    }
}

impl Operator for BlockedMean {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let n = extents::<5>(args, 0)?[0].clone();
        let one = Dim::from(1i64);
        Ok(vec![Fact::tensor(DType::F32, [n, Dim::from(self.channels), one.clone(), one])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let inputs = [Some(unblock(args.tensor(0)?, count(self.channels)?)?.into())];
        GlobalAveragePool {}.eval(&EvalArgs { inputs: &inputs, ..*args })
    }
}

impl Operator for BlockedScale {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        extents::<4>(args, 1)?;
        Ok(vec![Fact::tensor(DType::F32, extents::<5>(args, 0)?.clone())])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, scale) = (args.tensor(0)?, args.tensor(1)?);
        let lanes = x.shape().get(4).copied().unwrap_or(0);
        let channels = scale.shape().get(1).copied().unwrap_or(0);
        let inputs = [Some(unblock(x, channels)?.into()), Some(scale.clone().into())];
        let y = Mul::default().eval(&EvalArgs { inputs: &inputs, ..*args })?;
        Ok(vec![block(y[0].tensor()?, lanes)?.into()])
    }
}

impl BlockedRepeat {
    /// Times along height and width.
    ///
    /// # Errors
    /// `InvalidGraph` if there are not two positive numbers.
    pub fn factors(&self) -> Result<[usize; 2]> {
        match self.times[..] {
            [h, w] if h > 0 && w > 0 => Ok([count(h)?, count(w)?]),
            _ => Err(err!(InvalidGraph, "pixels repeated {:?} times", self.times)),
        }
    }
}

impl Operator for BlockedRepeat {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let mut shape = extents::<5>(args, 0)?.to_vec();
        for (d, n) in shape[2..4].iter_mut().zip(self.factors()?) {
            *d = &*d * n as i64;
        }
        Ok(vec![Fact::tensor(DType::F32, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        ensure!(x.rank() == 5, ShapeMismatch, "blocked channels of shape {:?}", x.shape());
        let [n, blocks, h, w, lanes] = [0, 1, 2, 3, 4].map(|i| x.shape()[i]);
        let [down, across] = self.factors()?;
        let x = x.reshape(&[n, blocks, h, 1, w, 1, lanes])?;
        let y = x.broadcast_to(&[n, blocks, h, down, w, across, lanes])?.to_contiguous()?;
        Ok(vec![y.reshape(&[n, blocks, h * down, w * across, lanes])?.into()])
    }
}
