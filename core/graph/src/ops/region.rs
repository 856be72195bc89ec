//! A straight-line program of elementwise functions, run in one pass over memory.
//!
//! Steps are text, one string each: a function (see [`StepFunction`]) of operands, which are inputs
//! `x0, x1, …`, results of earlier steps `t0, t1, …`, or numbers: `Mul(x0, 0.5)`,
//! `Clip{0.0, 6.0}(t3)`, `Where(x1, t4, -inf)`, `ReduceSum(t5)`.

use super::StepFunction;
use super::util::{broadcast_all, broadcast_shapes_all, cast_from_f64};
use crate::{Attr, AttrValue, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Error, Result, Tensor, bail, ensure, err};
use std::fmt;
use std::str::FromStr;

op! {
    /// Applies steps to the elements of its inputs, which are floats of one type or truth values
    /// and broadcast under numpy's rules. Every output has the broadcast shape: output `i` is the
    /// result of step `outputs[i]`, or of the last step if the list is empty. A step is rounded to
    /// the element type as the operator that it names. Steps that fold rows, such as `ReduceSum`,
    /// fold the last axis of the broadcast shape and give outputs of extent 1 along it, which no
    /// step reads.
    Region { steps: Vec<RegionStep> = vec![], outputs: Vec<i64> = vec![] }
}

/// One step of a [`Region`].
#[derive(Clone, Debug, PartialEq)]
pub struct RegionStep {
    /// What is computed.
    pub function: StepFunction,
    /// As many as the function takes.
    pub operands: Vec<Operand>,
}

/// What a step of a [`Region`] reads.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// An input of the region, by number.
    Input(usize),
    /// The result of an earlier step.
    Step(usize),
    /// A number.
    Literal(f32),
}

/// Numbers compare by bits.
impl PartialEq for Operand {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Operand::Input(a), Operand::Input(b)) | (Operand::Step(a), Operand::Step(b)) => a == b,
            (Operand::Literal(a), Operand::Literal(b)) => a.to_bits() == b.to_bits(),
            _ => false,
        }
    }
}

impl Region {
    /// The steps whose results are the outputs, in order.
    ///
    /// # Errors
    /// `InvalidGraph` if there is no such step.
    pub fn output_steps(&self) -> Result<Vec<usize>> {
        if self.outputs.is_empty() {
            return Ok(self.steps.len().checked_sub(1).into_iter().collect());
        }
        let step = |&i: &i64| {
            usize::try_from(i).ok().filter(|&i| i < self.steps.len()).ok_or_else(|| {
                err!(InvalidGraph, "output of step {i}, but there are {} steps", self.steps.len())
            })
        };
        self.outputs.iter().map(step).collect()
    }

    /// Checks that steps read inputs that exist and results of earlier steps.
    fn check(&self, inputs: usize) -> Result<()> {
        ensure!(!self.steps.is_empty(), InvalidGraph, "a region needs at least one step");
        for (i, step) in self.steps.iter().enumerate() {
            ensure!(
                step.operands.len() == step.function.arity(),
                InvalidGraph,
                "step {i} '{step}': {} takes {} operands",
                step.function,
                step.function.arity()
            );
            for operand in &step.operands {
                let exists = match *operand {
                    Operand::Input(n) => n < inputs,
                    Operand::Step(n) => n < i && !self.steps[n].function.folds(),
                    Operand::Literal(_) => true,
                };
                ensure!(
                    exists,
                    InvalidGraph,
                    "step {i} '{step}' reads {operand}; there are {inputs} inputs, and {i} steps \
                     before it, of which those that fold rows cannot be read"
                );
            }
        }
        Ok(())
    }

    /// The element type of the result of each step, for inputs of these types.
    ///
    /// # Errors
    /// `InvalidGraph` as for a step that reads what is not there; `DTypeMismatch` for one that
    /// does not take what it reads.
    pub fn dtypes(&self, inputs: &[DType]) -> Result<Vec<DType>> {
        self.check(inputs.len())?;
        let mut out: Vec<DType> = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            let operands = step.operands.iter().map(|operand| match *operand {
                Operand::Input(n) => Some(inputs[n]),
                Operand::Step(n) => Some(out[n]),
                Operand::Literal(_) => None,
            });
            let dtype = step.function.result(&operands.collect::<Vec<_>>());
            out.push(dtype.map_err(|e| e.context(format_args!("step {i} '{step}'")))?);
        }
        Ok(out)
    }

    /// Whether a step folds rows.
    pub fn folds(&self) -> bool {
        self.steps.iter().any(|s| s.function.folds())
    }
}

impl Operator for Region {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, usize::MAX)?;
        let inputs = (0..args.len()).map(|i| args.dtype(i)).collect::<Result<Vec<_>>>()?;
        let mut floats = inputs.iter().filter(|d| **d != DType::Bool);
        if let Some(first) = floats.next() {
            ensure!(first.is_float(), DTypeMismatch, "expected floats, got {first}; insert a Cast");
            if let Some(other) = floats.find(|d| *d != first) {
                bail!(DTypeMismatch, "inputs are {first} and {other}; insert a Cast");
            }
        }
        let dtypes = self.dtypes(&inputs)?;
        let shape = broadcast_all((0..args.len()).map(|i| args.shape(i)))?;
        let output = |i: usize| {
            let mut shape = shape.clone();
            if self.steps[i].function.folds()
                && let Some(shape) = &mut shape
            {
                let last = shape.last_mut().ok_or_else(|| {
                    err!(ShapeMismatch, "step {i} '{}' folds rows of a scalar", self.steps[i])
                })?;
                *last = 1.into();
            }
            Ok(Fact::maybe_ranked(dtypes[i], shape))
        };
        self.output_steps()?.into_iter().map(output).collect()
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let inputs = (0..args.len()).map(|i| args.tensor(i)).collect::<Result<Vec<_>>>()?;
        let types: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
        self.dtypes(&types)?;
        let shape = broadcast_shapes_all(inputs.iter().map(|t| t.shape()))?;
        let dtype = types.into_iter().find(|d| *d != DType::Bool).unwrap_or(DType::F32);
        let mut results: Vec<Tensor> = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            let folds = step.function.folds();
            let operands = step.operands.iter().map(|operand| {
                let operand = match *operand {
                    Operand::Input(n) => inputs[n].clone(),
                    Operand::Step(n) => results[n].clone(),
                    Operand::Literal(v) => cast_from_f64(dtype, &[], &[f64::from(v)])?,
                };
                // A row counts as often as it is repeated.
                if folds { operand.broadcast_to(&shape)?.to_contiguous() } else { Ok(operand) }
            });
            let operands = operands.collect::<Result<Vec<_>>>()?;
            let result = step.function.eval(&operands);
            results.push(result.map_err(|e| e.context(format_args!("step {i} '{step}'")))?);
        }
        let output = |i: usize| match self.steps[i].function.folds() {
            true => Ok(results[i].clone().into()),
            false => Ok(results[i].broadcast_to(&shape)?.to_contiguous()?.into()),
        };
        self.output_steps()?.into_iter().map(output).collect()
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Input(n) => write!(f, "x{n}"),
            Operand::Step(n) => write!(f, "t{n}"),
            Operand::Literal(v) => write!(f, "{v:?}"),
        }
    }
}

impl FromStr for Operand {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let index =
            |digits: &str| digits.parse().map_err(|_| err!(InvalidGraph, "'{text}' is no operand"));
        match text.as_bytes() {
            [b'x', ..] => index(&text[1..]).map(Operand::Input),
            [b't', ..] => index(&text[1..]).map(Operand::Step),
            _ => match text.parse::<f32>() {
                Ok(v) if !v.is_nan() => Ok(Operand::Literal(v)),
                _ => Err(err!(InvalidGraph, "'{text}' is no operand: expected x0, t0 or a number")),
            },
        }
    }
}

impl fmt::Display for RegionStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.function)?;
        for (i, operand) in self.operands.iter().enumerate() {
            write!(f, "{}{operand}", if i == 0 { "(" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl FromStr for RegionStep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || err!(InvalidGraph, "'{text}' is no step: expected 'Add(x0, t0)'");
        let (function, rest) = text.split_once('(').ok_or_else(malformed)?;
        let list = rest.strip_suffix(')').ok_or_else(malformed)?;
        let function: StepFunction = function.parse()?;
        let operands =
            list.split(',').map(|o| o.trim().parse()).collect::<Result<Vec<Operand>>>()?;
        Ok(RegionStep { function, operands })
    }
}

impl AttrValue for Vec<RegionStep> {
    const EXPECTED: &'static str = "steps such as 'Add(x0, t0)'";
    fn into_attr(self) -> Option<Attr> {
        Some(Attr::Strs(self.iter().map(RegionStep::to_string).collect()))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Strs(v) => v.iter().map(|s| s.parse().ok()).collect(),
            Attr::Ints(v) if v.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attrs, NoSubgraphs, build_op};

    fn region(steps: &[&str], outputs: &[i64]) -> Result<std::sync::Arc<dyn Operator>> {
        let steps: Vec<String> = steps.iter().map(|s| s.to_string()).collect();
        build_op("Region", Attrs::new().with("steps", steps).with("outputs", outputs.to_vec()))
    }

    #[test]
    fn steps_run_in_order_and_outputs_broadcast() {
        let op = region(&["Add(x0, 1.0)", "Mul(t0, x1)", "Clip{-2.0, 6.0}(t1)"], &[2, 0]).unwrap();
        let x = Tensor::from_slice(&[2, 1], &[1.0f32, -3.0]).unwrap();
        let w = Tensor::from_slice(&[2], &[2.0f32, 5.0]).unwrap();
        let inputs = [Some(x.into()), Some(w.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 2, env: &NoSubgraphs };
        let got = op.eval(&args).unwrap();
        let list = |i: usize| got[i].tensor().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(list(0), [4.0, 6.0, -2.0, -2.0]);
        assert_eq!(list(1), [2.0, 2.0, -2.0, -2.0]);
        let facts: Vec<_> =
            inputs.iter().map(|v| Fact { ty: v.as_ref().unwrap().ty(), known: None }).collect();
        let inputs: Vec<_> = facts.iter().map(Some).collect();
        let inferred = op.infer(&InferArgs { node: "t", inputs: &inputs, outputs: 2 }).unwrap();
        assert_eq!(inferred.iter().map(Fact::to_string).collect::<Vec<_>>(), ["f32[2, 2]"; 2]);
    }

    #[test]
    fn truth_values_and_folds_have_their_types() {
        let steps = [
            "Greater(x0, 0.0)",
            "And(t0, x1)",
            "Where(t1, x0, -1.0)",
            "ReduceSum(t2)",
            "ToF32(t0)",
        ];
        let op = region(&steps, &[3, 1, 4]).unwrap();
        let x = Tensor::from_slice(&[2, 2], &[1.0f32, -3.0, 2.0, 5.0]).unwrap();
        let m = Tensor::from_slice(&[2], &[true, false]).unwrap();
        let inputs = [Some(x.into()), Some(m.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 3, env: &NoSubgraphs };
        let got = op.eval(&args).unwrap();
        let floats = |i: usize| got[i].tensor().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(floats(0), [0.0, 1.0]);
        assert_eq!(got[1].tensor().unwrap().to_vec::<bool>().unwrap(), [true, false, true, false]);
        assert_eq!(floats(2), [1.0, 0.0, 1.0, 1.0]);
        let facts: Vec<_> =
            inputs.iter().map(|v| Fact { ty: v.as_ref().unwrap().ty(), known: None }).collect();
        let inputs: Vec<_> = facts.iter().map(Some).collect();
        let inferred = op.infer(&InferArgs { node: "t", inputs: &inputs, outputs: 3 }).unwrap();
        let inferred: Vec<_> = inferred.iter().map(Fact::to_string).collect();
        assert_eq!(inferred, ["f32[2, 1]", "bool[2, 2]", "f32[2, 2]"]);
    }

    #[test]
    fn malformed_programs_are_refused() {
        for steps in
            [&["Add(x0)x"][..], &["Frob(x0)"], &["Add(x0, y)"], &["Add(x0, nan)"], &["Relu"]]
        {
            assert!(region(steps, &[]).is_err(), "{steps:?}");
        }
        let fact = Fact::tensor(DType::F32, [crate::Dim::from(2i64)]);
        let args = InferArgs { node: "t", inputs: &[Some(&fact)], outputs: 1 };
        for (steps, outputs) in [
            (&["Add(x0, x1)"][..], &[][..]),
            (&["Add(x0, t0)"], &[]),
            (&["Relu(x0, x0)"], &[]),
            (&["Relu(x0)"], &[1]),
            (&["Relu(x0)"], &[-1]),
            (&["Not(x0)"], &[]),
            (&["Where(x0, x0, x0)"], &[]),
            (&["Greater(x0, 1.0)", "Add(t0, x0)"], &[]),
            (&["ReduceSum(x0)", "Add(t0, x0)"], &[]),
            (&[], &[]),
        ] {
            assert!(region(steps, outputs).unwrap().infer(&args).is_err(), "{steps:?} {outputs:?}");
        }
    }
}
