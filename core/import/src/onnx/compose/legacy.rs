//! Old forms of arithmetic, activations, normalisation and recurrence; constants.

use crate::onnx::call::{Call, Outputs, direct};
use deepseek_graph::{Attr, Attrs, ValueId};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};

/// Binary operators before 7: broadcasting must be asked for, and `axis` says where
/// the second operand's axes start.
pub fn broadcast(c: &mut Call) -> Result<Outputs> {
    let (a, mut b) = (c.input(0)?, c.input(1)?);
    let on = c.take("broadcast")?.unwrap_or(false);
    if let (true, Some(axis)) = (on, c.take::<i64>("axis")?) {
        b = align(c, a, b, axis)?;
    }
    let attrs = std::mem::take(&mut c.attrs);
    c.last_of(&c.node.op_type, attrs, &[a, b])
}

/// Adds axes after `b`'s own so that they start at axis `axis` of `a`.
fn align(c: &mut Call, a: ValueId, b: ValueId, axis: i64) -> Result<ValueId> {
    let (ra, rb) = (
        c.shape(a, "broadcasting along an axis")?.len(),
        c.shape(b, "broadcasting along an axis")?.len(),
    );
    let start = deepseek_graph::ops::util::normalize_axis(axis, ra.max(1))?;
    let trailing = ra.checked_sub(start + rb).ok_or_else(|| {
        err!(ShapeMismatch, "an operand of rank {rb} does not fit rank {ra} from axis {axis} on")
    })?;
    if trailing == 0 || rb == 0 {
        return Ok(b);
    }
    let axes: Vec<i64> = (rb..rb + trailing).map(|i| i as i64).collect();
    let axes = c.ints(&axes)?;
    c.one("Unsqueeze", Attrs::new(), &[b, axes])
}

/// PRelu before 7: a slope of one element per channel.
pub fn prelu_1(c: &mut Call) -> Result<Outputs> {
    let (x, mut slope) = (c.input(0)?, c.input(1)?);
    let one = c.shape(slope, "PRelu")?;
    if one.len() == 1 && one[0].as_const() != Some(1) {
        slope = align(c, x, slope, 1)?;
    }
    c.last_of("PRelu", Attrs::new(), &[x, slope])
}

/// Clip before 11: bounds as attributes.
pub fn clip_1(c: &mut Call) -> Result<Outputs> {
    let x = c.input(0)?;
    let dtype = c.dtype(x)?;
    let mut inputs = vec![Some(x)];
    for name in ["min", "max"] {
        inputs.push(match c.take::<f32>(name)? {
            Some(v) => Some(c.scalar(dtype, v.into())?),
            None => None,
        });
    }
    c.last("Clip", Attrs::new(), &inputs)
}

/// Dropout before 12 at inference: the identity, with a mask of `true` (before 10 of
/// the data's type).
pub fn dropout_1(c: &mut Call) -> Result<Outputs> {
    c.take::<f32>("ratio")?;
    c.take::<bool>("is_test")?;
    let x = c.input(0)?;
    if !c.wants(1) {
        return c.last_of("Identity", Attrs::new(), &[x]);
    }
    let both = c.emit("Dropout", Attrs::new(), &[Some(x)], 2)?;
    if c.version >= 10 {
        return c.alias(&both);
    }
    let mask = c.one("Cast", Attrs::new().with("to", c.dtype(x)?), &[both[1]])?;
    c.alias(&[both[0], mask])
}

/// BatchNormalization before 14 at inference.
pub fn batch_norm_1(c: &mut Call) -> Result<Outputs> {
    let spatial = c.take("spatial")?.unwrap_or(true);
    ensure!(
        spatial,
        Unsupported,
        "BatchNormalization with spatial=0; export with opset 9 or newer"
    );
    c.take::<bool>("is_test")?;
    ensure!(
        (1..c.node.output.len()).all(|i| !c.wants(i)),
        Unsupported,
        "BatchNormalization in training mode before opset 14; export with opset 14 or newer"
    );
    direct(c)
}

/// Cast before 6: the element type by name.
pub fn cast_1(c: &mut Call) -> Result<Outputs> {
    let to: String = c.need("to")?;
    let dtype = DType::parse(&to.to_lowercase())
        .map_err(|e| err!(InvalidGraph, "attribute 'to': {}", e.message()))?;
    let x = c.input(0)?;
    c.last_of("Cast", Attrs::new().with("to", dtype), &[x])
}

/// Gemm before 7: broadcasting of `C` must be asked for.
pub fn gemm_1(c: &mut Call) -> Result<Outputs> {
    c.take::<bool>("broadcast")?;
    direct(c)
}

/// Selu before 6 had rounder constants.
pub fn selu_1(c: &mut Call) -> Result<Outputs> {
    for (name, value) in [("alpha", 1.6732f32), ("gamma", 1.0507)] {
        if c.attrs.get(name).is_none() {
            c.attrs.set(name, value);
        }
    }
    direct(c)
}

/// Recurrent layers before 7: `output_sequence` says what the outputs say too.
pub fn rnn_1(c: &mut Call) -> Result<Outputs> {
    c.take::<bool>("output_sequence")?;
    direct(c)
}

/// LpPool and GlobalLpPool 1: the exponent is a float.
pub fn lp_pool_1(c: &mut Call) -> Result<Outputs> {
    let p = c.take("p")?.unwrap_or(2.0f32);
    ensure!(p >= 1.0 && p.fract() == 0.0, Unsupported, "the exponent {p}; use a whole number");
    c.attrs.set("p", p as i64);
    direct(c)
}

/// Sum, Mean, Max, Min of one or more values.
pub fn variadic(c: &mut Call) -> Result<Outputs> {
    ensure!(!c.inputs.is_empty(), InvalidGraph, "needs at least one input");
    direct(c)
}

/// Constants in all their forms.
pub fn constant(c: &mut Call) -> Result<Outputs> {
    ensure!(c.inputs.is_empty(), InvalidGraph, "Constant takes no inputs");
    let attrs = std::mem::take(&mut c.attrs);
    let mut values = attrs.iter();
    let (Some((name, value)), None) = (values.next(), values.next()) else {
        bail!(InvalidGraph, "Constant needs one value, got {}", attrs.iter().count());
    };
    let t = match (name, value.clone()) {
        ("value" | "sparse_value", Attr::Tensor(t)) => t,
        ("value_float", Attr::Float(v)) => Tensor::scalar(v)?,
        ("value_int", Attr::Int(v)) => Tensor::scalar(v)?,
        ("value_string", Attr::Str(v)) => Tensor::from_strings(&[], vec![v])?,
        ("value_floats", Attr::Floats(v)) => Tensor::from_vec(&[v.len()], v)?,
        ("value_ints", Attr::Ints(v)) => Tensor::from_vec(&[v.len()], v)?,
        ("value_strings", Attr::Strs(v)) => Tensor::from_strings(&[v.len()], v)?,
        (name, value) => {
            bail!(Unsupported, "Constant with attribute '{name}' of kind {}", value.kind())
        }
    };
    if !c.wants(0) {
        return c.alias(&[]);
    }
    let name = c.g.unique_name(&format!("{}{}", c.frame.prefix, c.node.output[0]));
    let id = c.g.add_constant(&name, t)?;
    c.alias(&[id])
}
