//! How near two sets of outputs are.

use deepseek_graph::Value;
use deepseek_tensor::{DType, Error, Result, Tensor, ensure, err};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A caller's measure: the outputs of the model in `f32` and in less, for one sample, by name; 1 means as
/// good as in `f32`.
pub type Measure = Arc<dyn Fn(&[(String, Value)], &[(String, Value)]) -> Result<f64> + Send + Sync>;

/// What the accuracy of a model in less than `f32` is measured by; 1 is that of `f32`.
#[derive(Clone, Default)]
pub enum Metric {
    /// Cosine of the outputs of a sample with those in `f32`, the worst output of a model that has
    /// several, on average over samples.
    #[default]
    Cosine,
    /// The part of rows (last axis) of the first output of floats whose greatest element is at the
    /// same place.
    Top1,
    /// The caller's, on average over samples.
    Custom(Measure),
}

impl Metric {
    /// `cosine`, `top1` or `custom`.
    pub fn name(&self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Top1 => "top1",
            Metric::Custom(_) => "custom",
        }
    }

    /// The measure over samples.
    ///
    /// # Errors
    /// `InvalidArgument` if the outputs are such that it says nothing, or a caller's measure is no number.
    pub(super) fn of(
        &self,
        names: &[String],
        want: &[Vec<Value>],
        got: &[Vec<Value>],
    ) -> Result<f64> {
        let (mut sum, mut weight) = (0.0, 0.0);
        for (want, got) in want.iter().zip(got) {
            let (value, n) = match self {
                Metric::Cosine => (cosine(want, got)?, 1.0),
                Metric::Top1 => top1(want, got)?,
                Metric::Custom(f) => {
                    let named = |v: &[Value]| {
                        names.iter().cloned().zip(v.iter().cloned()).collect::<Vec<_>>()
                    };
                    (f(&named(want), &named(got))?, 1.0)
                }
            };
            ensure!(
                !value.is_nan(),
                InvalidArgument,
                "the metric {} gave a NaN; check the outputs of the model on these samples",
                self.name()
            );
            sum += value;
            weight += n;
        }
        ensure!(weight > 0.0, InvalidArgument, "there is no sample to measure accuracy with");
        Ok(sum / weight)
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "cosine" => Ok(Metric::Cosine),
            "top1" | "top-1" => Ok(Metric::Top1),
            _ => Err(err!(InvalidArgument, "'{s}' is no metric; use cosine or top1")),
        }
    }
}

fn floats(v: &Value) -> Option<Vec<f32>> {
    let t = v.tensor().ok().filter(|t| t.dtype() == DType::F32)?;
    t.to_vec::<f32>().ok()
}

/// The least cosine of any output of floats; 1 where there is none.
fn cosine(want: &[Value], got: &[Value]) -> Result<f64> {
    let mut least = 1f64;
    for (a, b) in want.iter().zip(got) {
        let (Some(a), Some(b)) = (floats(a), floats(b)) else { continue };
        // A different number of elements, as after a selection, has nothing in common.
        if a.len() != b.len() {
            return Ok(0.0);
        }
        let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
        for (a, b) in a.iter().zip(&b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            ab += a * b;
            aa += a * a;
            bb += b * b;
        }
        let c = if aa == 0.0 && bb == 0.0 { 1.0 } else { ab / (aa.sqrt() * bb.sqrt()) };
        // Numbers of the model in f32 that are not finite have no cosine.
        ensure!(
            aa.is_finite(),
            InvalidArgument,
            "an output of the model in f32 is not finite on a calibration sample"
        );
        least = least.min(if c.is_finite() { c } else { 0.0 });
    }
    Ok(least)
}

fn place(row: &[f32]) -> usize {
    let best = row.iter().enumerate().reduce(|a, b| if *b.1 > *a.1 { b } else { a });
    best.map_or(0, |(i, _)| i)
}

fn top1(want: &[Value], got: &[Value]) -> Result<(f64, f64)> {
    let pair = want.iter().zip(got).find_map(|(a, b)| {
        let width = |t: &Tensor| t.shape().last().copied().filter(|n| *n > 0);
        let width = width(a.tensor().ok()?)?;
        Some((floats(a)?, floats(b)?, width))
    });
    let (a, b, width) = pair.ok_or_else(|| {
        err!(InvalidArgument, "the metric top1 needs an output of floats with an axis of classes")
    })?;
    let rows = a.len() / width;
    if a.len() != b.len() {
        return Ok((0.0, rows as f64));
    }
    let same = a.chunks(width).zip(b.chunks(width)).filter(|(a, b)| place(a) == place(b)).count();
    Ok((same as f64, rows as f64))
}
