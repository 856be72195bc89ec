//! Old forms of operators that move or cut data: attributes that became inputs.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::{Attrs, Dim};
use deepseek_tensor::{Result, bail, ensure, err};

/// An operator whose integers `attr` became input 1: Squeeze, Unsqueeze, the
/// reductions, Reshape-1.
fn attr_to_input(c: &mut Call, attr: &str, required: bool) -> Result<Outputs> {
    let values: Option<Vec<i64>> = c.take(attr)?;
    let mut inputs = vec![Some(c.input(0)?)];
    ensure!(c.inputs.len() == 1, InvalidGraph, "expected 1 input, got {}", c.inputs.len());
    match values {
        Some(v) => inputs.push(Some(c.ints(&v)?)),
        None if required => bail!(InvalidGraph, "required attribute '{attr}' is missing"),
        None => {}
    }
    let attrs = std::mem::take(&mut c.attrs);
    c.last(&c.node.op_type, attrs, &inputs)
}

/// Squeeze before 13, the reductions before 13 or 18.
pub fn optional_axes(c: &mut Call) -> Result<Outputs> {
    attr_to_input(c, "axes", false)
}

/// Unsqueeze before 13.
pub fn required_axes(c: &mut Call) -> Result<Outputs> {
    attr_to_input(c, "axes", true)
}

/// Reshape before 5.
pub fn reshape_1(c: &mut Call) -> Result<Outputs> {
    attr_to_input(c, "shape", true)
}

/// Slice before 10.
pub fn slice_1(c: &mut Call) -> Result<Outputs> {
    let (starts, ends): (Vec<i64>, Vec<i64>) = (c.need("starts")?, c.need("ends")?);
    let axes: Option<Vec<i64>> = c.take("axes")?;
    let mut inputs = vec![c.input(0)?, c.ints(&starts)?, c.ints(&ends)?];
    if let Some(axes) = axes {
        inputs.push(c.ints(&axes)?);
    }
    c.last_of("Slice", Attrs::new(), &inputs)
}

/// Split before 13: sizes as an attribute, else equal parts.
pub fn split_2(c: &mut Call) -> Result<Outputs> {
    let axis = c.take("axis")?.unwrap_or(0i64);
    let attrs = Attrs::new().with("axis", axis);
    let data = c.input(0)?;
    if let Some(sizes) = c.opt(1) {
        return c.last_of("Split", attrs, &[data, sizes]); // Split-1 allows an input too
    }
    match c.take::<Vec<i64>>("split")? {
        Some(sizes) => {
            let sizes = c.ints(&sizes)?;
            c.last_of("Split", attrs, &[data, sizes])
        }
        None => c.last_of("Split", attrs.with("num_outputs", c.node.output.len() as i64), &[data]),
    }
}

/// Split 13: sizes as an input, else equal parts.
pub fn split_13(c: &mut Call) -> Result<Outputs> {
    let mut attrs = std::mem::take(&mut c.attrs);
    if c.opt(1).is_none() && attrs.get("num_outputs").is_none() {
        attrs.set("num_outputs", c.node.output.len() as i64);
    }
    let inputs = c.inputs.clone();
    c.last("Split", attrs, &inputs)
}

/// Pad before 11: `pads` (`paddings` in version 1) and `value` as attributes.
pub fn pad_2(c: &mut Call) -> Result<Outputs> {
    let pads: Vec<i64> = match c.take("pads")? {
        Some(pads) => pads,
        None => c.need("paddings")?,
    };
    let value = c.take("value")?.unwrap_or(0.0f32);
    let data = c.input(0)?;
    let pads = c.ints(&pads)?;
    let value = c.scalar(c.dtype(data)?, value.into())?;
    let attrs = std::mem::take(&mut c.attrs);
    c.last_of("Pad", attrs, &[data, pads, value])
}

/// TopK before 10: `k` as an attribute.
pub fn topk_1(c: &mut Call) -> Result<Outputs> {
    let k: i64 = c.need("k")?;
    let inputs = [c.input(0)?, c.ints(&[k])?];
    let attrs = std::mem::take(&mut c.attrs);
    c.last_of("TopK", attrs, &inputs)
}

/// Concat before 4: the axis defaults to 1.
pub fn concat_1(c: &mut Call) -> Result<Outputs> {
    let axis = c.take("axis")?.unwrap_or(1i64);
    let inputs = c.inputs.clone();
    c.last("Concat", Attrs::new().with("axis", axis), &inputs)
}

/// Tile before 6: the number of copies along one axis, both as inputs.
pub fn tile_1(c: &mut Call) -> Result<Outputs> {
    let data = c.input(0)?;
    let rank = c.shape(data, "Tile-1")?.len();
    let known = |c: &Call, i: usize| -> Result<i64> {
        let dims = c.fact(c.input(i)?).as_dims();
        dims.as_deref().and_then(|d| d.first()?.as_const()).ok_or_else(|| {
            err!(Unsupported, "Tile-1 with input {i} not constant; export with opset 6 or newer")
        })
    };
    let (tiles, axis) = (known(c, 1)?, known(c, 2)?);
    let mut repeats = vec![1; rank];
    repeats[deepseek_graph::ops::util::normalize_axis(axis, rank)?] = tiles;
    let repeats = c.ints(&repeats)?;
    c.last_of("Tile", Attrs::new(), &[data, repeats])
}

/// Scatter is ScatterElements' first name.
pub fn scatter(c: &mut Call) -> Result<Outputs> {
    let (attrs, inputs) = (std::mem::take(&mut c.attrs), c.inputs.clone());
    c.last("ScatterElements", attrs, &inputs)
}

/// DFT 17: the axis as an attribute, 1 by default; an input later.
pub fn dft_17(c: &mut Call) -> Result<Outputs> {
    let axis = c.take("axis")?.unwrap_or(1i64);
    let inputs = [Some(c.input(0)?), c.opt(1), Some(c.int(axis)?)];
    let attrs = std::mem::take(&mut c.attrs);
    c.last("DFT", attrs, &inputs)
}

/// Softmax, LogSoftmax and Hardmax before 13 see a matrix: axes before `axis` (default
/// 1) are rows, the rest columns.
pub fn softmax_1(c: &mut Call) -> Result<Outputs> {
    let axis = c.take("axis")?.unwrap_or(1i64);
    let data = c.input(0)?;
    let last = Attrs::new().with("axis", -1i64);
    let rank = c.fact(data).rank();
    if axis == -1 || rank.is_some_and(|r| axis == r as i64 - 1) {
        return c.last_of(&c.node.op_type, last, &[data]);
    }
    let flat = c.one("Flatten", Attrs::new().with("axis", axis), &[data])?;
    let soft = c.one(&c.node.op_type, last, &[flat])?;
    let shape = c.one("Shape", Attrs::new(), &[data])?;
    c.last_of("Reshape", Attrs::new().with("allowzero", true), &[soft, shape])
}

/// GroupNormalization 18: scale and bias per group; per channel later.
pub fn group_norm_18(c: &mut Call) -> Result<Outputs> {
    let (x, scale, bias) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let groups: i64 = c.need("num_groups")?;
    let shape = c.shape(x, "GroupNormalization-18")?;
    let channels = shape.get(1).and_then(Dim::as_const).filter(|&n| groups > 0 && n % groups == 0);
    let Some(channels) = channels else {
        bail!(
            Unsupported,
            "GroupNormalization-18 needs a constant number of channels divisible by {groups}, \
             the input is {}; export with opset 21 or newer",
            c.fact(x)
        );
    };
    let (column, wide, flat) =
        (c.ints(&[groups, 1])?, c.ints(&[groups, channels / groups])?, c.ints(&[channels])?);
    let mut inputs = vec![x];
    for v in [scale, bias] {
        let v = c.one("Reshape", Attrs::new(), &[v, column])?;
        let v = c.one("Expand", Attrs::new(), &[v, wide])?;
        inputs.push(c.one("Reshape", Attrs::new(), &[v, flat])?);
    }
    let attrs = std::mem::take(&mut c.attrs).with("num_groups", groups);
    c.last_of("GroupNormalization", attrs, &inputs)
}
