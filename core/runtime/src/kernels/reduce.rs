//! Reductions over one contiguous group of axes, in `f32`.

use super::{attr_i64, bind, floats, none};
use crate::registry::{KernelDef, PrepareArgs, Prepared};
use deepseek_graph::Fact;
use deepseek_graph::ops::util::normalize_axes;
use deepseek_kernels_cpu::reduce::{Reduce, reduce};
use deepseek_tensor::{DType, Result, ensure};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "ReduceSum", prepare: |a| fold(a, Reduce::Sum) },
    KernelDef { op: "ReduceMean", prepare: |a| fold(a, Reduce::Mean) },
    KernelDef { op: "ReduceMax", prepare: |a| fold(a, Reduce::Max) },
    KernelDef { op: "ReduceMin", prepare: |a| fold(a, Reduce::Min) },
    KernelDef { op: "ReduceSumSquare", prepare: |a| fold(a, Reduce::SumSquares) },
    KernelDef { op: "ReduceL1", prepare: |a| fold(a, Reduce::SumAbs) },
];

fn fold(args: &PrepareArgs, how: Reduce) -> Result<Option<Prepared>> {
    let f32_in = args.dtype(0) == Some(DType::F32);
    let Some(rank) = args.input(0).and_then(Fact::rank).filter(|_| f32_in) else {
        return Ok(None);
    };
    let axes = match args.node.inputs.get(1).copied().flatten() {
        // Axes must be constants, and one run of neighbours.
        Some(_) => match args.input(1).and_then(Fact::as_dims) {
            Some(dims) => dims.iter().map(|d| d.as_const()).collect::<Option<Vec<i64>>>(),
            None => None,
        },
        None => Some(Vec::new()),
    };
    let Some(axes) = axes else { return Ok(None) };
    let mut axes = normalize_axes(&axes, rank)?;
    if axes.is_empty() {
        if attr_i64(args, "noop_with_empty_axes") == Some(1) {
            return Ok(None);
        }
        axes = (0..rank).collect();
    }
    axes.sort_unstable();
    let neighbours = axes.windows(2).all(|w| w[1] == w[0] + 1);
    if !neighbours || axes.is_empty() {
        return Ok(None);
    }
    let (first, end) = (axes[0], axes[0] + axes.len());
    bind(args, "f32", "reduce", none(), move |k| {
        let x = k.input(0)?.clone();
        ensure!(x.rank() == rank, ShapeMismatch, "rank {} against {rank}", x.rank());
        let outer = x.shape()[..first].iter().product::<usize>();
        let len = x.shape()[first..end].iter().product::<usize>();
        let inner = x.shape()[end..].iter().product::<usize>();
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        ensure!(y.len() == outer * inner, ShapeMismatch, "{outer}×{inner} results for {}", y.len());
        reduce(k.isa, k.pool, how, outer, len, inner, floats(&x)?, y);
        Ok(())
    })
}
