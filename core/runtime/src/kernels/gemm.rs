//! Matrix products in `f32`. A constant right operand is packed once.

use super::elementwise::function;
use super::{all_f32, attr_f32, attr_i64, bind, expect_shape, floats};
use crate::registry::{KernelArgs, KernelDef, PrepareArgs, Prepared};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::{self, Bias, Epilogue, Lhs, Mat, Out, PackedB, Rhs, Shape};
use deepseek_tensor::{Result, Tensor, broadcast_shapes, ensure};
use std::sync::Arc;

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "FusedMatMul", prepare: fused },
    KernelDef { op: "Gemm", prepare: gemm_op },
    KernelDef { op: "MatMul", prepare: |args| product(args, Finish::default()) },
];

/// What a product does besides multiplying; bias and residual are inputs 2 and 3.
#[derive(Clone, Copy)]
struct Finish {
    alpha: f32,
    trans_b: bool,
    activation: Option<Unary>,
}

impl Default for Finish {
    fn default() -> Self {
        Finish { alpha: 1.0, trans_b: false, activation: None }
    }
}

impl Finish {
    /// The epilogue for rows of `n` columns, `rows` of them; the residual is dense.
    fn epilogue<'a>(
        &self,
        bias: Option<&'a Tensor>,
        residual: Option<&'a Tensor>,
        rows: usize,
        n: usize,
    ) -> Result<Epilogue<'a>> {
        let bias = match bias {
            Some(b) => {
                expect_shape("the bias", b.shape(), &[n])?;
                Bias::Cols(floats(b)?)
            }
            None => Bias::None,
        };
        let residual = match residual {
            Some(r) => {
                ensure!(
                    r.len() == rows * n,
                    ShapeMismatch,
                    "a residual of shape {:?} for {rows} rows of {n}",
                    r.shape()
                );
                Some(Mat::dense(floats(r)?, n))
            }
            None => None,
        };
        let Finish { alpha, activation, .. } = *self;
        Ok(Epilogue { alpha, bias, residual, activation, ..Epilogue::default() })
    }
}

fn fused(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::FusedMatMul>() else { return Ok(None) };
    let activation = match &op.activation {
        Some(f) => match function(f) {
            Some(unary) => Some(unary),
            None => return Ok(None),
        },
        None => None,
    };
    product(args, Finish { alpha: op.alpha, trans_b: op.trans_b, activation })
}

fn product(args: &PrepareArgs, finish: Finish) -> Result<Option<Prepared>> {
    let (Some(a), Some(b)) =
        (args.input(0).and_then(Fact::shape), args.input(1).and_then(Fact::shape))
    else {
        return Ok(None);
    };
    // A vector operand drops an axis; too rare for a kernel of its own.
    if !all_f32(args) || a.len() < 2 || b.len() < 2 {
        return Ok(None);
    }
    if b.len() == 2
        && let Some(weights) = args.constant(1)
    {
        let packed = pack_rhs(args, weights, finish.trans_b)?;
        let (k, n) = (packed.k(), packed.n());
        let scratch =
            scratch_bound(args, &[], &Dim::product(&a[..a.len() - 1]), &a[a.len() - 1], None);
        return bind(args, "f32", "gemm-packed", scratch, move |args| {
            let (m, ka) = rows_cols(args.input(0)?);
            ensure!(ka == k, ShapeMismatch, "cannot multiply {ka} columns by {k} rows");
            run_packed(args, finish, Shape { batch: 1, m, n, k }, &packed)
        });
    }
    let batch = match args.output(0).and_then(Fact::shape) {
        Some(out) if out.len() >= 2 => out[..out.len() - 2].to_vec(),
        _ => return Ok(None),
    };
    let (m, k) = (&a[a.len() - 2], &a[a.len() - 1]);
    let n = &b[b.len() - if finish.trans_b { 2 } else { 1 }];
    let scratch = scratch_bound(args, &batch, m, k, Some(n));
    bind(args, "f32", "gemm-batched", scratch, move |args| batched(args, finish))
}

/// The product of input 0, dense, and packed weights; bias and residual are inputs 2 and 3.
fn run_packed(
    args: &mut KernelArgs,
    finish: Finish,
    shape: Shape,
    weights: &PackedB,
) -> Result<()> {
    let a = args.input(0)?.clone();
    expect_len(args, shape.m * shape.n)?;
    let (bias, residual) = (args.opt(2).cloned(), args.opt(3).cloned());
    let epilogue = finish.epilogue(bias.as_ref(), residual.as_ref(), shape.m, shape.n)?;
    let (a, b) = (Lhs::Strided(Mat::dense(floats(&a)?, shape.k)), Rhs::Packed(weights.view()));
    let (isa, pool, scratch) = (args.isa, args.pool, &mut *args.scratch);
    let c = Out::dense(args.outputs[0].as_slice_mut()?, shape.n);
    gemm::gemm(isa, pool, shape, a, b, c, &epilogue, scratch);
    Ok(())
}

/// A convolution of images of one pixel, `[N, C, 1…]`, with `weights` `[M, C, 1…]`: a product of N
/// rows.
pub(super) fn pixels(
    args: &PrepareArgs,
    weights: &Tensor,
    activation: Option<Unary>,
) -> Result<Option<Prepared>> {
    let (n, k) = (weights.shape()[0], weights.shape()[1]);
    let packed = pack_rhs(args, &weights.reshape(&[n, k])?, true)?;
    let Some([rows, ..]) = args.input(0).and_then(Fact::shape) else { return Ok(None) };
    let scratch = scratch_bound(args, &[], rows, &Dim::from(k), None);
    let finish = Finish { activation, ..Finish::default() };
    bind(args, "f32", "conv-pixels", scratch, move |args| {
        let x = args.input(0)?;
        let m = x.shape()[0];
        ensure!(
            x.shape()[1] == k && x.len() == m * k,
            ShapeMismatch,
            "input {:?} against images of one pixel and {k} channels",
            x.shape()
        );
        run_packed(args, finish, Shape { batch: 1, m, n, k }, &packed)
    })
}

/// All of the leading axes as rows.
fn rows_cols(t: &Tensor) -> (usize, usize) {
    let (rows, cols) = t.shape().split_at(t.rank() - 1);
    (rows.iter().product(), cols[0])
}

fn expect_len(args: &KernelArgs, want: usize) -> Result<()> {
    let got = args.outputs[0].len();
    ensure!(got == want, ShapeMismatch, "the product has {want} elements, the output {got}");
    Ok(())
}

/// Floats of scratch that a product needs at most: a block of the left operand for each thread and,
/// with `n`, the right one, whole where it is small, in chunks otherwise.
pub(super) fn scratch_bound(
    args: &PrepareArgs,
    batch: &[Dim],
    m: &Dim,
    k: &Dim,
    n: Option<&Dim>,
) -> Dim {
    let (rows, terms) = gemm::a_block(args.isa);
    let left = &m.min(&Dim::from(rows)) * &k.min(&Dim::from(terms));
    let left = left * args.threads.max(1) as i64;
    let Some(n) = n else { return left };
    let nr = gemm::tile(args.isa).1 as i64;
    let whole = &Dim::product(batch) * &(&(n + nr) * k);
    let chunked = &(k * nr) + gemm::CHUNK as i64;
    &left + &whole.min(&chunked)
}

/// Products over broadcast leading axes.
fn batched(args: &mut KernelArgs, finish: Finish) -> Result<()> {
    let (a, b) = (args.input(0)?.clone(), args.input(1)?.clone());
    let (bias, residual) = (args.opt(2).cloned(), args.opt(3).cloned());
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k) = (a.shape()[ra - 2], a.shape()[ra - 1]);
    let (mut kb, mut n) = (b.shape()[rb - 2], b.shape()[rb - 1]);
    if finish.trans_b {
        (kb, n) = (n, kb);
    }
    ensure!(
        k == kb,
        ShapeMismatch,
        "cannot multiply {:?} by {:?}: {k} columns against {kb} rows",
        a.shape(),
        b.shape()
    );
    let lead = broadcast_shapes(&a.shape()[..ra - 2], &b.shape()[..rb - 2])?;
    let mut want = lead.clone();
    want.extend([m, n]);
    expect_shape("the product", &want, args.outputs[0].shape())?;
    let batch: usize = lead.iter().product();
    let (count_a, count_b) = (a.shape()[..ra - 2].iter(), b.shape()[..rb - 2].iter());
    let (count_a, count_b): (usize, usize) = (count_a.product(), count_b.product());
    let (x, y) = (floats(&a)?, floats(&b)?);
    let (isa, pool, scratch) = (args.isa, args.pool, &mut *args.scratch);
    let out = args.outputs[0].as_slice_mut::<f32>()?;
    if out.is_empty() {
        return Ok(());
    }
    let steps = |count: usize, size: usize| match count {
        c if c == batch => Some(size),
        1 => Some(0),
        _ => None,
    };
    let mut epilogue = finish.epilogue(bias.as_ref(), residual.as_ref(), batch * m, n)?;
    let rhs = |y| if finish.trans_b { Mat::transposed(y, k) } else { Mat::dense(y, n) };
    if let (Some(sa), Some(sb)) = (steps(count_a, m * k), steps(count_b, k * n)) {
        epilogue.residual = epilogue.residual.map(|r| r.batched(m * n));
        let shape = Shape { batch, m, n, k };
        let (a, b) = (Mat::dense(x, k).batched(sa), rhs(y).batched(sb));
        let c = Out::batched(out, m, n);
        gemm::gemm(isa, pool, shape, Lhs::Strided(a), Rhs::Strided(b), c, &epilogue, scratch);
        return Ok(());
    }
    // Both operands repeat along different axes: one product at a time.
    let offsets = |t: &Tensor, size: usize| -> Result<Vec<usize>> {
        let first: Vec<i64> = (0..t.len().checked_div(size).unwrap_or(0) as i64).collect();
        let index = Tensor::from_vec(&t.shape()[..t.rank() - 2], first)?;
        Ok(index.broadcast_to(&lead)?.iter::<i64>()?.map(|i| i as usize * size).collect())
    };
    let (at_a, at_b) = (offsets(&a, m * k)?, offsets(&b, k * n)?);
    for (i, c) in out.chunks_exact_mut(m * n).enumerate() {
        let shape = Shape { batch: 1, m, n, k };
        let (a, b) = (Mat::dense(&x[at_a[i]..], k), rhs(&y[at_b[i]..]));
        let residual = epilogue.residual.map(|r| Mat::dense(&r.data[i * m * n..], n));
        let epilogue = Epilogue { residual, ..epilogue };
        let c = Out::dense(c, n);
        gemm::gemm(isa, pool, shape, Lhs::Strided(a), Rhs::Strided(b), c, &epilogue, scratch);
    }
    Ok(())
}

/// `alpha · A′ B′ + beta · C` with optional transposes.
fn gemm_op(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let (Some(a), Some(b)) =
        (args.input(0).and_then(Fact::shape), args.input(1).and_then(Fact::shape))
    else {
        return Ok(None);
    };
    let (Some(alpha), Some(beta)) = (attr_f32(args, "alpha"), attr_f32(args, "beta")) else {
        return Ok(None);
    };
    if !all_f32(args) || a.len() != 2 || b.len() != 2 || (args.input(2).is_some() && beta != 1.0) {
        return Ok(None);
    }
    let ta = attr_i64(args, "transA") == Some(1);
    let tb = attr_i64(args, "transB") == Some(1);
    let (m, k) = if ta { (&a[1], &a[0]) } else { (&a[0], &a[1]) };
    let n = if tb { &b[0] } else { &b[1] };
    let packed = match args.constant(1) {
        Some(w) => Some(pack_rhs(args, w, tb)?),
        None => None,
    };
    let scratch = scratch_bound(args, &[], m, k, packed.is_none().then_some(n));
    let variant = if packed.is_some() { "gemm-packed" } else { "gemm" };
    bind(args, "f32", variant, scratch, move |args| {
        let (a, b) = (args.input(0)?.clone(), args.input(1)?.clone());
        let c = args.opt(2).cloned();
        let (m, k, lhs) = oriented(&a, ta)?;
        let (kb, n, rhs) = oriented(&b, tb)?;
        ensure!(k == kb, ShapeMismatch, "cannot multiply {k} columns by {kb} rows");
        expect_shape("the product", &[m, n], args.outputs[0].shape())?;
        let expanded;
        let mut epilogue = Epilogue { alpha, ..Epilogue::default() };
        if let Some(c) = &c {
            match *c.shape() {
                [len] | [1, len] if len == n => epilogue.bias = Bias::Cols(floats(c)?),
                [rows, 1] if rows == m => epilogue.bias = Bias::Rows(floats(c)?),
                _ => {
                    expanded = c.broadcast_to(&[m, n])?.to_contiguous()?;
                    epilogue.residual = Some(Mat::dense(floats(&expanded)?, n));
                }
            }
        }
        let rhs = match &packed {
            Some(p) => Rhs::Packed(p.view()),
            None => Rhs::Strided(rhs),
        };
        let shape = Shape { batch: 1, m, n, k };
        let (isa, pool, scratch) = (args.isa, args.pool, &mut *args.scratch);
        let out = Out::dense(args.outputs[0].as_slice_mut()?, n);
        gemm::gemm(isa, pool, shape, Lhs::Strided(lhs), rhs, out, &epilogue, scratch);
        Ok(())
    })
}

/// A constant right operand in panels.
fn pack_rhs(args: &PrepareArgs, w: &Tensor, transposed: bool) -> Result<Arc<PackedB>> {
    let form = if transposed { "gemm-rhs-transposed" } else { "gemm-rhs" };
    let restore = |floats| {
        let [rows, cols] = *w.shape() else { return None };
        let (k, n) = if transposed { (cols, rows) } else { (rows, cols) };
        PackedB::shared(args.isa, k, n, floats)
    };
    args.pack_stored(w, form, restore, |w| {
        let (k, n, mat) = oriented(w, transposed)?;
        Ok(PackedB::new(args.isa, args.pool, k, n, mat))
    })
}

/// Rows, columns and view of a matrix, transposed or not.
fn oriented(t: &Tensor, transposed: bool) -> Result<(usize, usize, Mat<'_>)> {
    ensure!(t.rank() == 2, ShapeMismatch, "expected a matrix, got shape {:?}", t.shape());
    let (rows, cols) = (t.shape()[0], t.shape()[1]);
    let data = floats(t)?;
    Ok(if transposed {
        (cols, rows, Mat::transposed(data, cols))
    } else {
        (rows, cols, Mat::dense(data, cols))
    })
}
