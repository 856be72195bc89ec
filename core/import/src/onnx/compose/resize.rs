//! Resampling: Upsample, old Resize, old names of modes.

use crate::onnx::call::{Call, Outputs, direct};
use deepseek_graph::{Attrs, Dim, ValueId};
use deepseek_tensor::{Result, Tensor};

/// Upsample and Resize 10 sample at `x / scale`, rounded down.
fn asymmetric(c: &mut Call, scales: ValueId) -> Result<Outputs> {
    let mode = match c.take::<String>("mode")?.as_deref() {
        None | Some("nearest") => "nearest",
        Some("bilinear" | "linear" | "trilinear") => "linear",
        Some(other) => {
            deepseek_tensor::bail!(Unsupported, "mode '{other}'; use nearest or linear")
        }
    };
    let attrs = Attrs::new()
        .with("mode", mode.to_owned())
        .with("coordinate_transformation_mode", "asymmetric".to_owned())
        .with("nearest_mode", "floor".to_owned());
    let x = c.input(0)?;
    c.last("Resize", attrs, &[Some(x), None, Some(scales)])
}

/// Upsample 9 and Resize 10: scales as an input.
pub fn with_scales(c: &mut Call) -> Result<Outputs> {
    let scales = c.input(1)?;
    asymmetric(c, scales)
}

/// Upsample 7: scales as an attribute.
pub fn upsample_7(c: &mut Call) -> Result<Outputs> {
    let scales: Vec<f32> = c.need("scales")?;
    let scales = c.constant(Tensor::from_slice(&[scales.len()], &scales)?)?;
    asymmetric(c, scales)
}

/// Upsample 1: a scale each for height and width.
pub fn upsample_1(c: &mut Call) -> Result<Outputs> {
    let (h, w): (f32, f32) = (c.need("height_scale")?, c.need("width_scale")?);
    let scales = c.constant(Tensor::from_slice(&[4], &[1.0, 1.0, h, w])?)?;
    asymmetric(c, scales)
}

/// Resize 11 and newer: an empty tensor is how a file may say that an input is absent.
pub fn resize_11(c: &mut Call) -> Result<Outputs> {
    for i in 1..c.inputs.len() {
        let empty = |c: &Call, v| matches!(c.fact(v).shape(), Some([d]) if *d == Dim::from(0));
        if c.opt(i).is_some_and(|v| empty(c, v)) {
            c.inputs[i] = None;
        }
    }
    while c.inputs.last() == Some(&None) {
        c.inputs.pop();
    }
    direct(c)
}

/// GridSample 16 called its modes bilinear and bicubic.
pub fn grid_sample_16(c: &mut Call) -> Result<Outputs> {
    let mode = match c.take::<String>("mode")?.as_deref() {
        None | Some("bilinear") => "linear".to_owned(),
        Some("bicubic") => "cubic".to_owned(),
        Some(other) => other.to_owned(),
    };
    c.attrs.set("mode", mode);
    direct(c)
}

/// RoiAlign before 16 had no shift by half a pixel.
pub fn roi_align_10(c: &mut Call) -> Result<Outputs> {
    c.attrs.set("coordinate_transformation_mode", "output_half_pixel".to_owned());
    direct(c)
}
