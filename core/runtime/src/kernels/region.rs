//! Regions: programs of elementwise functions in `f32`.

use super::attention::Threads;
use super::elementwise::{function, function2};
use super::{all_f32, bind, floats};
use crate::registry::{KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::elementwise::{Binary, Unary};
use deepseek_kernels_cpu::region::{
    MAX_INPUTS, MAX_OUTPUTS, MAX_STEPS, Operand, Program, Source, Step, TILE, TILE_STEP, region,
};
use deepseek_tensor::Result;

pub(super) static KERNELS: &[KernelDef] = &[KernelDef { op: "Region", prepare }];

fn prepare(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::Region>() else { return Ok(None) };
    let wanted = args.node.outputs.iter().all(Option::is_some);
    let inputs = args.node.inputs.len();
    let outputs = op.output_steps()?;
    let named_once = (1..outputs.len()).all(|i| !outputs[..i].contains(&outputs[i]));
    let Some((steps, numbers)) = program(&op.steps) else { return Ok(None) };
    if !all_f32(args)
        || !wanted
        || !named_once
        || outputs.len() != args.node.outputs.len()
        || inputs > MAX_INPUTS
        || steps.len() > MAX_STEPS
        || outputs.len() > MAX_OUTPUTS
    {
        return Ok(None);
    }
    let outputs: Vec<usize> = outputs.iter().map(|&o| numbers[o]).collect();
    let program = Program::new(inputs, steps, &outputs);
    // What `region::tile` says, of the shape as far as it is known.
    let tile = match args.output(0).and_then(Fact::shape) {
        Some(shape) => {
            let step = Dim::from(TILE_STEP);
            let len = Dim::product(shape);
            Dim::from(TILE).min(&(&len.ceil_div(&step) * &step))
        }
        None => Dim::from(TILE),
    };
    let scratch = &tile * program.scratch_tiles(&Threads(args.threads)) as i64;
    bind(args, "f32", "region", scratch, move |k| {
        let inputs =
            (0..k.inputs.len()).map(|i| k.input(i).cloned()).collect::<Result<Vec<_>>>()?;
        let shape = k.outputs[0].shape().to_vec();
        let wide = inputs.iter().map(|t| t.broadcast_to(&shape)).collect::<Result<Vec<_>>>()?;
        let strides: Vec<&[isize]> = wide.iter().map(|t| t.strides()).collect();
        let (extents, strides) = collapse(&shape, &strides);
        let mut sources = Vec::with_capacity(inputs.len());
        for (t, strides) in inputs.iter().zip(&strides) {
            sources.push(Source { data: floats(t)?, strides });
        }
        let mut outputs =
            k.outputs.iter_mut().map(|o| o.as_slice_mut()).collect::<Result<Vec<_>>>()?;
        region(k.isa, k.pool, &program, &extents, &sources, &mut outputs, k.scratch);
        Ok(())
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
        let made = match (step.function.name(), step.function.arity()) {
            (_, 1) => Step::Unary(function(&step.function)?, operand(0)),
            // The kernel of Pow squares where the exponent is two, and so does this.
            ("Pow", _) if operand(1) == Operand::Literal(2.0) => {
                Step::Unary(Unary::Square, operand(0))
            }
            ("SwiGLU", _) => {
                let (gate, value) = (operand(0), operand(1));
                out.push(Step::Unary(Unary::Silu, gate));
                Step::Binary(Binary::Mul, Operand::Step(out.len() - 1), value)
            }
            _ => Step::Binary(function2(&step.function)?, operand(0), operand(1)),
        };
        out.push(made);
        numbers.push(out.len() - 1);
    }
    Some((out, numbers))
}

/// Drops axes of extent 1 and joins neighbours that all operands walk as one; at least one axis
/// stays. Strides of broadcast contiguous operands are never negative.
fn collapse(shape: &[usize], strides: &[&[isize]]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut extents: Vec<usize> = Vec::with_capacity(shape.len());
    let mut out: Vec<Vec<usize>> = vec![Vec::with_capacity(shape.len()); strides.len()];
    for (axis, &extent) in shape.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        let here = |i: usize| strides[i][axis] as usize;
        let joins = !extents.is_empty()
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
