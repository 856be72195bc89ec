//! Kernels of `deepseek-kernels-cpu` bound to operators: what each accepts, how its
//! weights are packed, how tensors become slices. No inner loop lives here.
//!
//! One file a family; each exports `KERNELS`, the better candidate for an operator
//! before the worse.

mod attention;
mod blocked;
mod conv;
mod elementwise;
mod gemm;
mod image;
mod movement;
mod narrow;
mod norm;
mod quant;
mod quant_conv;
mod reduce;
mod region;
mod rotary;
mod segment;

pub(crate) use elementwise::function;

use crate::registry::{Kernel, KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Attr, Dim};
use deepseek_kernels_cpu::convert::{bf16_to_f32, f16_to_f32};
use deepseek_tensor::{DType, Result, Tensor, ensure};

/// Every kernel, the better candidate for an operator before the worse.
pub fn all() -> impl Iterator<Item = &'static KernelDef> {
    [
        attention::KERNELS,
        blocked::KERNELS,
        conv::KERNELS,
        elementwise::KERNELS,
        gemm::KERNELS,
        image::KERNELS,
        movement::KERNELS,
        narrow::KERNELS,
        norm::KERNELS,
        quant::KERNELS,
        quant_conv::KERNELS,
        reduce::KERNELS,
        segment::KERNELS,
        region::KERNELS,
        rotary::KERNELS,
    ]
    .into_iter()
    .flatten()
}

/// A kernel from a closure, and the inputs it can work on in place.
struct FnKernel<F>(F, &'static [usize]);

impl<F: Fn(&mut KernelArgs) -> Result<()> + Send + Sync> Kernel for FnKernel<F> {
    fn run(&self, args: &mut KernelArgs) -> Result<()> {
        (self.0)(args)
    }

    fn in_place(&self) -> &[usize] {
        self.1
    }
}

/// Binds a closure under the name `{arch}-{dtypes}-{variant}`, with `scratch` floats.
fn bind(
    args: &PrepareArgs,
    dtypes: &str,
    variant: &str,
    scratch: Dim,
    run: impl Fn(&mut KernelArgs) -> Result<()> + Send + Sync + 'static,
) -> Result<Option<Prepared>> {
    Ok(Some(Prepared {
        name: args.isa.kernel_name(dtypes, variant),
        scratch_bytes: &scratch * size_of::<f32>() as i64,
        kernel: Box::new(FnKernel(run, &[])),
    }))
}

/// As [`bind`], without scratch, for a closure that can work in place on any one of
/// `inputs`: see [`Kernel::in_place`].
fn bind_in_place(
    args: &PrepareArgs,
    dtypes: &str,
    variant: &str,
    inputs: &'static [usize],
    run: impl Fn(&mut KernelArgs) -> Result<()> + Send + Sync + 'static,
) -> Result<Option<Prepared>> {
    Ok(Some(Prepared {
        name: args.isa.kernel_name(dtypes, variant),
        scratch_bytes: none(),
        kernel: Box::new(FnKernel(run, inputs)),
    }))
}

/// No scratch.
fn none() -> Dim {
    Dim::from(0i64)
}

/// Whether all present inputs and wanted outputs are `f32` tensors.
fn all_f32(args: &PrepareArgs) -> bool {
    let inputs = (0..args.node.inputs.len()).filter_map(|i| args.input(i));
    let outputs = (0..args.node.outputs.len()).filter_map(|i| args.output(i));
    inputs.chain(outputs).all(|f| f.dtype().is_ok_and(|d| d == DType::F32))
}

/// As [`all_f32`], but for the weights, input 1, which may be stored in `f16`.
fn f32_but_weights(args: &PrepareArgs) -> bool {
    let inputs = (0..args.node.inputs.len()).filter(|i| *i != 1).filter_map(|i| args.input(i));
    let outputs = (0..args.node.outputs.len()).filter_map(|i| args.output(i));
    inputs.chain(outputs).all(|f| f.dtype().is_ok_and(|d| d == DType::F32))
        && matches!(args.dtype(1), Some(DType::F32 | DType::F16))
}

/// Weights in `f32`: themselves, or 16-bit ones widened.
fn widened(args: &PrepareArgs, w: &Tensor) -> Result<Tensor> {
    let mut wide = vec![0.0f32; w.len()];
    match w.dtype() {
        DType::F16 => f16_to_f32(args.isa, args.pool, w.as_slice()?, &mut wide),
        DType::BF16 => bf16_to_f32(args.isa, args.pool, w.as_slice()?, &mut wide),
        _ => return Ok(w.clone()),
    }
    Tensor::from_vec(w.shape(), wide)
}

/// Attribute `name` of a node's operator as a float.
fn attr_f32(args: &PrepareArgs, name: &str) -> Option<f32> {
    match args.node.op.attrs().get(name) {
        Some(Attr::Float(x)) => Some(*x),
        _ => None,
    }
}

/// Attribute `name` of a node's operator as an integer.
fn attr_i64(args: &PrepareArgs, name: &str) -> Option<i64> {
    match args.node.op.attrs().get(name) {
        Some(Attr::Int(x)) => Some(*x),
        Some(Attr::Bool(b)) => Some(i64::from(*b)),
        _ => None,
    }
}

/// Elements of an `f32` input.
fn floats(t: &Tensor) -> Result<&[f32]> {
    t.as_slice::<f32>()
}

/// Fails unless the extents that a kernel found are those the plan promised.
fn expect_shape(what: &str, got: &[usize], want: &[usize]) -> Result<()> {
    ensure!(got == want, ShapeMismatch, "{what} has shape {got:?}, expected {want:?}");
    Ok(())
}
