//! Which numbers a value may hold, for what is not known exactly.

use crate::ops::util::{cast_from_f64, to_f64};
use crate::ops::{Operand, Region};
use crate::{EvalArgs, NoSubgraphs, Operator, Value};
use deepseek_tensor::{DType, Tensor};

/// Elements beyond which a constant is not looked through.
const MAX_SCAN: usize = 1 << 22;

/// All elements lie between `lo` and `hi`, both included; truth values are 0 and 1. Elements that
/// are not known are taken to be finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub lo: f64,
    pub hi: f64,
}

impl Span {
    /// Any finite number.
    pub const UNKNOWN: Span = Span { lo: f64::NEG_INFINITY, hi: f64::INFINITY };

    pub fn point(x: f64) -> Span {
        Span { lo: x, hi: x }
    }

    /// The one number, if there is but one.
    pub fn as_point(self) -> Option<f64> {
        (self.lo == self.hi).then_some(self.lo)
    }

    fn is(self, x: f64) -> bool {
        self.lo == x && self.hi == x
    }

    fn join(self, other: Span) -> Span {
        Span { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// What a constant holds.
    pub fn of(t: &Tensor) -> Span {
        if t.is_empty() || t.len() > MAX_SCAN || t.dtype() == DType::String {
            return Span::UNKNOWN;
        }
        let Ok(all) = to_f64(t) else { return Span::UNKNOWN };
        if all.iter().any(|x| x.is_nan()) {
            return Span::UNKNOWN;
        }
        let first = Span::point(all[0]);
        all.iter().fold(first, |s, &x| s.join(Span::point(x)))
    }

    /// What `op` gives for inputs in these spans, element by element, for each of its outputs.
    /// `dtypes` are those of the inputs.
    pub fn pointwise(op: &dyn Operator, inputs: &[Span], dtypes: &[DType]) -> Vec<Span> {
        if let Some(region) = op.downcast::<Region>() {
            return Span::region(region, inputs, dtypes).unwrap_or_default();
        }
        let scalars = scalars(inputs, dtypes);
        let exact = scalars.and_then(|scalars| {
            let values: Vec<_> = scalars.into_iter().map(|t| Some(Value::Tensor(t))).collect();
            let args = EvalArgs { inputs: &values, outputs: 1, env: &NoSubgraphs };
            point_of(op.eval(&args).ok()?.first()?.tensor().ok()?)
        });
        vec![exact.unwrap_or_else(|| Span::function(op.name(), inputs))]
    }

    /// The outputs of a region; `None` where it reads what is not there.
    fn region(region: &Region, inputs: &[Span], dtypes: &[DType]) -> Option<Vec<Span>> {
        let results = region.dtypes(dtypes).ok()?;
        let mut steps: Vec<Span> = Vec::with_capacity(region.steps.len());
        for step in &region.steps {
            let operands = step.operands.iter().map(|o| match *o {
                Operand::Input(i) => inputs.get(i).copied(),
                Operand::Step(i) => steps.get(i).copied(),
                Operand::Literal(x) => Some(Span::point(x.into())),
            });
            let operands = operands.collect::<Option<Vec<_>>>()?;
            let dtype = |o: &Operand| match *o {
                Operand::Input(i) => dtypes.get(i).copied().unwrap_or(DType::F32),
                Operand::Step(i) => results[i],
                Operand::Literal(_) => DType::F32,
            };
            if step.function.folds() {
                steps.push(Span::UNKNOWN);
                continue;
            }
            let exact = scalars(&operands, &step.operands.iter().map(dtype).collect::<Vec<_>>())
                .and_then(|scalars| point_of(&step.function.eval(&scalars).ok()?));
            let name = step.function.to_string();
            steps.push(exact.unwrap_or_else(|| Span::function(&name, &operands)));
        }
        region.output_steps().ok()?.into_iter().map(|i| steps.get(i).copied()).collect()
    }

    /// What the function `name` gives for operands in spans.
    fn function(name: &str, operands: &[Span]) -> Span {
        let span = match (name, operands) {
            ("Add", [a, b]) => Span { lo: a.lo + b.lo, hi: a.hi + b.hi },
            ("Sub", [a, b]) => Span { lo: a.lo - b.hi, hi: a.hi - b.lo },
            // What is hidden is finite, so nothing of it is left.
            ("Mul", [a, b]) if a.is(0.0) || b.is(0.0) => Span::point(0.0),
            ("And", [a, b]) if a.is(0.0) || b.is(0.0) => Span::point(0.0),
            ("Or", [a, b]) if a.is(1.0) || b.is(1.0) => Span::point(1.0),
            ("Where", [c, x, _]) if c.is(1.0) => *x,
            ("Where", [c, _, y]) if c.is(0.0) => *y,
            ("Where", [_, x, y]) => x.join(*y),
            ("Min", [a, b]) => Span { lo: a.lo.min(b.lo), hi: a.hi.min(b.hi) },
            ("Max", [a, b]) => Span { lo: a.lo.max(b.lo), hi: a.hi.max(b.hi) },
            ("Neg", [a]) => Span { lo: -a.hi, hi: -a.lo },
            ("Cast" | "ToF32", [a]) => *a,
            ("Greater", [a, b]) if a.lo > b.hi => Span::point(1.0),
            ("GreaterOrEqual", [a, b]) if a.lo >= b.hi => Span::point(1.0),
            ("Less", [a, b]) if a.hi < b.lo => Span::point(1.0),
            ("LessOrEqual", [a, b]) if a.hi <= b.lo => Span::point(1.0),
            _ => Span::UNKNOWN,
        };
        if span.lo.is_nan() || span.hi.is_nan() { Span::UNKNOWN } else { span }
    }
}

/// The inputs as tensors, if each is one number.
fn scalars(inputs: &[Span], dtypes: &[DType]) -> Option<Vec<Tensor>> {
    let scalar = |(s, &dtype): (&Span, &DType)| cast_from_f64(dtype, &[], &[s.as_point()?]).ok();
    inputs.iter().zip(dtypes).map(scalar).collect()
}

/// The one number that a tensor holds, if it is one.
fn point_of(t: &Tensor) -> Option<Span> {
    let x = *to_f64(t).ok()?.first()?;
    (!x.is_nan()).then(|| Span::point(x))
}
