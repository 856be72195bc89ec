//! Regions: programs of elementwise functions in `f32` and truth values.

use super::attention::Threads;
use super::elementwise::{function, function2};
use super::{bind, floats};
use crate::registry::{KernelDef, Output, PrepareArgs, Prepared};
use deepseek_graph::ops::util::broadcast_all;
use deepseek_graph::{Dim, ops};
use deepseek_kernels_cpu::elementwise::{Binary, Unary};
use deepseek_kernels_cpu::reduce::Reduce;
use deepseek_kernels_cpu::region::{
    Data, Form, MAX_INPUTS, MAX_OUTPUTS, MAX_STEPS, Operand, Program, Sink, Source, Step, TILE,
    TILE_STEP, region,
};
use deepseek_tensor::{DType, Dims, Result, Tensor, broadcast_shapes, ensure};

pub(super) static KERNELS: &[KernelDef] = &[KernelDef { op: "Region", prepare }];

fn prepare(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Region>() else { return Ok(None) };
    let wanted = args.node.outputs.iter().all(Option::is_some);
    let inputs = args.node.inputs.len();
    let outputs = op.output_steps()?;
    let named_once = (1..outputs.len()).all(|i| !outputs[..i].contains(&outputs[i]));
    let ids = args.node.inputs.iter().chain(&args.node.outputs).flatten();
    let known = |d: DType| matches!(d, DType::F32 | DType::Bool);
    let typed = ids.clone().all(|id| args.graph.fact(*id).dtype().is_ok_and(known));
    let Some((steps, numbers)) = program(&op.steps) else { return Ok(None) };
    // Rows that are folded have an extent that is known.
    let row = row_extent(args, op);
    if !typed
        || !wanted
        || !named_once
        || outputs.len() != args.node.outputs.len()
        || inputs > MAX_INPUTS
        || steps.len() > MAX_STEPS
        || outputs.len() > MAX_OUTPUTS
        || (op.folds() && row.is_none())
    {
        return Ok(None);
    }
    let folded: Vec<bool> = outputs.iter().map(|&o| op.steps[o].function.folds()).collect();
    let mut forms = Vec::with_capacity(outputs.len());
    for (&o, id) in outputs.iter().zip(&args.node.outputs) {
        let Some(id) = id else { return Ok(None) };
        let truth = args.graph.fact(*id).dtype()? == DType::Bool;
        forms.push((numbers[o], if truth { Form::Truth } else { Form::Float }));
    }
    let program = Program::new(inputs, steps, &forms);
    let row = row.filter(|_| program.folds());
    // What `region::tile` or `region::row_tile` says, of the shape as far as it is known.
    let step = Dim::from(TILE_STEP);
    let most = Dim::from(TILE.max(row.unwrap_or(0)));
    let tile = match shape(args) {
        Some(shape) => {
            let len = Dim::product(&shape);
            let rounded = |n: &Dim| &n.ceil_div(&step) * &step;
            rounded(&most.min(&len))
        }
        None => &most.ceil_div(&step) * &step,
    };
    let scratch = &tile * program.scratch_tiles(&Threads(args.threads)) as i64;
    bind(args, "f32", "region", scratch, move |k| {
        let inputs =
            (0..k.inputs.len()).map(|i| k.input(i).cloned()).collect::<Result<Vec<_>>>()?;
        let shapes = inputs.iter().map(|t| t.shape());
        let shape = shapes.clone().try_fold(Dims::new(), |a, b| broadcast_shapes(&a, b))?;
        for (out, folded) in k.outputs.iter().zip(&folded) {
            let (last, lead) = shape.split_last().map_or((&1, &[][..]), |(l, lead)| (l, lead));
            let last = if *folded { &1 } else { last };
            let fits = match out.shape().split_last() {
                Some((l, rest)) => l == last && rest == lead,
                None => shape.is_empty(),
            };
            ensure!(fits, ShapeMismatch, "output {:?} of a region of {shape:?}", out.shape());
        }
        let wide = inputs.iter().map(|t| t.broadcast_to(&shape)).collect::<Result<Vec<_>>>()?;
        let strides: Vec<&[isize]> = wide.iter().map(|t| t.strides()).collect();
        let (extents, strides) = collapse(&shape, &strides, row.is_some());
        let mut sources = Vec::with_capacity(inputs.len());
        for (t, strides) in inputs.iter().zip(&strides) {
            sources.push(Source { data: data(t)?, strides });
        }
        let mut outputs = k.outputs.iter_mut().map(sink).collect::<Result<Vec<_>>>()?;
        region(k.isa, k.pool, &program, &extents, &sources, &mut outputs, k.scratch);
        Ok(())
    })
}

/// The shape that the steps compute over, as far as it is known.
fn shape(args: &PrepareArgs) -> Option<Vec<Dim>> {
    let shapes = args.node.inputs.iter().map(|id| args.graph.fact((*id)?).shape());
    broadcast_all(shapes).ok()?
}

/// The last extent of that shape.
fn row_extent(args: &PrepareArgs, op: &ops::Region) -> Option<usize> {
    let last = || usize::try_from(shape(args)?.last()?.as_const()?).ok();
    op.folds().then(last)?
}

fn data(t: &Tensor) -> Result<Data<'_>> {
    Ok(match t.dtype() {
        DType::Bool => Data::Truth(t.as_bytes()?),
        _ => Data::Float(floats(t)?),
    })
}

fn sink(t: &mut Output) -> Result<Sink<'_>> {
    Ok(match t.dtype() {
        DType::Bool => Sink::Truth(t.as_bytes_mut()?),
        _ => Sink::Float(t.as_slice_mut()?),
    })
}

/// The steps for the kernel, and which of them holds the result of each step of the operator;
/// `None` if a function has no kernel.
fn program(steps: &[ops::RegionStep]) -> Option<(Vec<Step>, Vec<usize>)> {
    let (mut out, mut numbers) = (Vec::new(), Vec::new());
    for step in steps {
        let operand = |i: usize| match step.operands[i] {
            ops::Operand::Input(n) => Operand::Input(n),
            ops::Operand::Step(n) => Operand::Step(numbers[n]),
            ops::Operand::Literal(v) => Operand::Literal(v),
        };
        let f = match &step.function {
            ops::StepFunction::Pointwise(f) => f,
            ops::StepFunction::Other(_) => {
                let made = other(step.function.name(), &operand)?;
                out.push(made);
                numbers.push(out.len() - 1);
                continue;
            }
        };
        let made = match (f.name(), f.arity()) {
            (_, 1) => Step::Unary(function(f)?, operand(0)),
            // The kernel of Pow squares where the exponent is two, and so does this.
            ("Pow", _) if operand(1) == Operand::Literal(2.0) => {
                Step::Unary(Unary::Square, operand(0))
            }
            ("SwiGLU", _) => {
                let (gate, value) = (operand(0), operand(1));
                out.push(Step::Unary(Unary::Silu, gate));
                Step::Binary(Binary::Mul, Operand::Step(out.len() - 1), value)
            }
            _ => Step::Binary(function2(f)?, operand(0), operand(1)),
        };
        out.push(made);
        numbers.push(out.len() - 1);
    }
    Some((out, numbers))
}

/// The step for a function of truth values or of rows; truth values are the numbers 0 and 1.
fn other(name: &str, operand: &dyn Fn(usize) -> Operand) -> Option<Step> {
    let two = |f: Binary, a: usize, b: usize| Step::Binary(f, operand(a), operand(b));
    let fold = |how: Reduce| match operand(0) {
        Operand::Step(x) => Some(Step::Fold(how, x)),
        _ => None,
    };
    Some(match name {
        "And" => two(Binary::Min, 0, 1),
        "Or" => two(Binary::Max, 0, 1),
        "Xor" => two(Binary::NotEqual, 0, 1),
        "Not" => Step::Binary(Binary::Equal, operand(0), Operand::Literal(0.0)),
        "Equal" => two(Binary::Equal, 0, 1),
        "Less" => two(Binary::Less, 0, 1),
        "LessOrEqual" => two(Binary::LessOrEqual, 0, 1),
        "Greater" => two(Binary::Less, 1, 0),
        "GreaterOrEqual" => two(Binary::LessOrEqual, 1, 0),
        "ToBool" => Step::Binary(Binary::NotEqual, operand(0), Operand::Literal(0.0)),
        "ToF32" => Step::Unary(Unary::Abs, operand(0)),
        "Where" => Step::Select(operand(0), operand(1), operand(2)),
        "ReduceMax" => fold(Reduce::Max)?,
        "ReduceMean" => fold(Reduce::Mean)?,
        "ReduceSum" => fold(Reduce::Sum)?,
        _ => return None,
    })
}

/// Drops axes of extent 1 and joins neighbours that all operands walk as one; at least one axis
/// stays, and the last as it is if rows are `kept`. Strides of broadcast contiguous operands are never
/// negative.
fn collapse(shape: &[usize], strides: &[&[isize]], kept: bool) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut extents: Vec<usize> = Vec::with_capacity(shape.len());
    let mut out: Vec<Vec<usize>> = vec![Vec::with_capacity(shape.len()); strides.len()];
    for (axis, &extent) in shape.iter().enumerate() {
        let alone = kept && axis + 1 == shape.len();
        if extent == 1 && !alone {
            continue;
        }
        let here = |i: usize| strides[i][axis] as usize;
        let joins = !extents.is_empty()
            && !alone
            && out.iter().enumerate().all(|(i, s)| s.last() == Some(&(here(i) * extent)));
        match extents.last_mut() {
            Some(last) if joins => *last *= extent,
            _ => {
                extents.push(extent);
                out.iter_mut().for_each(|s| s.push(0));
            }
        }
        for (i, s) in out.iter_mut().enumerate() {
            *s.last_mut().expect("an axis was pushed") = here(i);
        }
    }
    if extents.is_empty() {
        extents.push(1);
        out.iter_mut().for_each(|s| s.push(0));
    }
    (extents, out)
}
