//! Cutting a product into chunks that fit the scratch and tasks that fit the caches.

use super::micro::{
    BiasPtr, Finish, Finishing, MAX_TILE, Tile, panels_at_once, run_finished_tile, run_tile,
};
use super::pack::{PACK_STEP, PackPanels};
use super::{Bias, Epilogue, KC, Lhs, Mat, Out, Rhs, Shape, tile};
use crate::Isa;
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, Slots};
use crate::simd::{Kernel, Simd};

/// Floats of B that are packed at a time (8 MiB), unless one panel of all of K is more.
pub const CHUNK: usize = 2 << 20;
/// Panels of A in one task: with `KC` terms they stay in the second-level cache, beside a panel of B
/// and the tiles of C.
const TASK_A_PANELS: usize = 12;
/// Panels of B in one task.
const TASK_B_PANELS: usize = 32;
/// Multiply-adds below which a task is not worth handing out.
const TASK_MACS: usize = 1 << 19;
/// Tasks for each of several threads, so that they end together.
const TASKS_EACH: usize = 6;

/// How a product is cut; a function of its shape and of which operands are prepacked.
#[derive(Copy, Clone)]
struct Plan {
    mr: usize,
    nr: usize,
    /// Products run together.
    group: usize,
    /// Columns of B packed at a time, a multiple of `NR` unless it is all of them.
    nc: usize,
    /// Scratch for the part of A of one task, and for one product's part of B.
    a_len: usize,
    b_len: usize,
}

impl Plan {
    fn new(isa: Isa, shape: Shape, a_packed: bool, b_packed: bool) -> Plan {
        let (mr, nr) = tile(isa);
        let Shape { batch, m, n, k } = shape;
        let per_chunk = CHUNK / k.max(1);
        let nc = if b_packed { n } else { n.min((per_chunk / nr).max(1) * nr) };
        let a_len = if a_packed { 0 } else { m.min(TASK_A_PANELS * mr) * k.min(KC) };
        let b_len = if b_packed { 0 } else { nc.div_ceil(nr) * nr * k };
        let group = match () {
            () if b_packed => batch,
            () if nc == n => (CHUNK / b_len.max(1)).clamp(1, batch.max(1)),
            () => 1,
        };
        Plan { mr, nr, group, nc, a_len, b_len }
    }

    fn scratch(&self, par: &dyn Parallel) -> usize {
        self.group * self.b_len + Slots::count(par) * self.a_len
    }
}

/// Floats of scratch that [`gemm`] needs when run by `par`; `a_packed` and `b_packed` say which operands
/// are. Align it to 64 bytes for speed; results do not depend on it.
///
/// A that is not packed takes at most [`a_block`] floats for each thread, whatever its size; B takes all
/// of its panels up to [`CHUNK`] floats, or one panel if that is more.
pub fn gemm_scratch(
    isa: Isa,
    par: &dyn Parallel,
    shape: Shape,
    a_packed: bool,
    b_packed: bool,
) -> usize {
    Plan::new(isa, shape, a_packed, b_packed).scratch(par)
}

/// Rows and columns of A that a task packs at a time, at most.
pub fn a_block(isa: Isa) -> (usize, usize) {
    (TASK_A_PANELS * tile(isa).0, KC)
}

/// `C = activation(alpha A B + (accumulate ? C : 0) + bias + residual)` for each product of the
/// batch; see the [module](super) for the order of summation.
///
/// # Panics
/// When an operand, C or the scratch is shorter than the shape says, rows of C overlap, or a packed
/// operand has other sizes or another level.
#[expect(clippy::too_many_arguments, reason = "three operands, how to run and where to work")]
pub fn gemm(
    isa: Isa,
    par: &dyn Parallel,
    shape: Shape,
    a: Lhs<'_>,
    b: Rhs<'_>,
    c: Out<'_>,
    epilogue: &Epilogue<'_>,
    scratch: &mut [f32],
) {
    let Shape { batch, m, n, k } = shape;
    check(isa, shape, &a, &b, &c, epilogue);
    if batch == 0 || m == 0 || n == 0 {
        return;
    }
    let plan = Plan::new(isa, shape, matches!(a, Lhs::Packed(_)), matches!(b, Rhs::Packed(_)));
    assert!(
        scratch.len() >= plan.scratch(par),
        "gemm: scratch holds {} floats, needs {}: size it with gemm_scratch",
        scratch.len(),
        plan.scratch(par)
    );
    // B first: its parts are whole panels, which keeps both operands aligned when the scratch is.
    let (b_scratch, a_scratch) = scratch.split_at_mut(plan.group * plan.b_len);
    let b_scratch = Shared::new(b_scratch);
    let slots = Slots::new(par, a_scratch, plan.a_len);
    let out = Shared::new(c.data);
    let (a_data, a_batch) = match a {
        Lhs::Strided(mat) => (Shared::read(mat.data), mat.batch),
        Lhs::Packed(p) => (Shared::read(p.data), 0),
    };
    let residual = epilogue.residual.map(|r| (Shared::read(r.data), r.row, r.batch));

    for b0 in (0..batch).step_by(plan.group) {
        let group = plan.group.min(batch - b0);
        for j0 in (0..n).step_by(plan.nc) {
            let cols = plan.nc.min(n - j0);
            let (b_data, b_item) = match b {
                Rhs::Strided(mat) => (
                    b_scratch,
                    pack_group(isa, par, &plan, k, b_scratch, mat, b0..b0 + group, j0..j0 + cols),
                ),
                Rhs::Packed(p) => (Shared::read(p.data), 0),
            };
            let bias = match epilogue.bias {
                Bias::None => None,
                Bias::Cols(b) => Some((false, Shared::read(&b[j0..]))),
                Bias::Rows(b) => Some((true, Shared::read(b))),
            };
            let tasks = Tasks::new(&plan, par.threads(), group, m, cols, k);
            let body = |t: usize| {
                let (item, ip, jp) = tasks.get(t);
                let at = b0 + item;
                slots.with(|work| {
                    // SAFETY: all pointers are offset to the same column `j0` and product `at`, which
                    // lie inside what `check` proved; tasks own different tiles of C, and `work` holds
                    // the panels of a task.
                    unsafe {
                        let a_at = a_data.ptr().add(at * a_batch).cast_const();
                        isa.dispatch(Block {
                            rows: m,
                            cols,
                            k,
                            a: match a {
                                Lhs::Packed(_) => Left::Packed(a_at),
                                Lhs::Strided(mat) => Left::Strided {
                                    src: a_at,
                                    row: mat.row,
                                    col: mat.col,
                                    work: work.as_mut_ptr(),
                                },
                            },
                            b: b_data.ptr().add(item * b_item),
                            c: out.ptr().add(at * c.batch + j0),
                            ldc: c.row,
                            alpha: epilogue.alpha,
                            accumulate: epilogue.accumulate,
                            finish: Finish {
                                bias: match bias {
                                    None => BiasPtr::None,
                                    Some((false, p)) => BiasPtr::Cols(p.ptr()),
                                    Some((true, p)) => BiasPtr::Rows(p.ptr()),
                                },
                                residual: residual.map_or(std::ptr::null(), |(p, _, step)| {
                                    p.ptr().add(at * step + j0).cast_const()
                                }),
                                residual_row: residual.map_or(0, |r| r.1),
                                activation: epilogue.activation,
                            },
                            a_panels: ip,
                            b_panels: jp,
                        });
                    }
                });
            };
            match tasks.count {
                1 => body(0),
                count => par.run(count, &body),
            }
        }
    }
}

/// Packs columns `cols` of B for a group of products (once if they share it) and returns the distance
/// between their parts.
#[expect(clippy::too_many_arguments, reason = "a chunk, its products and who packs it")]
fn pack_group(
    isa: Isa,
    par: &dyn Parallel,
    plan: &Plan,
    k: usize,
    dst: Shared<f32>,
    mat: Mat<'_>,
    group: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
) -> usize {
    let items = if mat.batch == 0 { 1 } else { group.len() };
    let panels = cols.len().div_ceil(plan.nr);
    let step = PACK_STEP.div_ceil((plan.nr * k).max(1));
    let per_item = panels.div_ceil(step);
    let src = Shared::read(mat.data);
    let body = |t: usize| {
        let (item, first) = (t / per_item, t % per_item * step);
        // `check` proved the reach of B; the scratch holds `group` parts of `b_len`; tasks write
        // different panels.
        isa.dispatch(PackPanels {
            src: src.ptr().wrapping_add((group.start + item) * mat.batch + cols.start * mat.col),
            lane: mat.col,
            term: mat.row,
            lanes: cols.len(),
            k,
            width: plan.nr,
            last_width: plan.nr,
            dst: dst.ptr().wrapping_add(item * plan.b_len),
            panel_len: plan.nr * k,
            panels: first..(first + step).min(panels),
        });
    };
    if items * panels * plan.nr * k <= PACK_STEP {
        (0..items * per_item).for_each(body);
    } else {
        par.run(items * per_item, &body);
    }
    if mat.batch == 0 { 0 } else { plan.b_len }
}

/// The tiles of a chunk as a flat list. How they are cut does not change a result.
struct Tasks {
    count: usize,
    a_panels: usize,
    b_panels: usize,
    a_step: usize,
    b_step: usize,
    a_tasks: usize,
    b_tasks: usize,
}

impl Tasks {
    fn new(plan: &Plan, threads: usize, group: usize, rows: usize, cols: usize, k: usize) -> Tasks {
        let (a_panels, b_panels) = (rows.div_ceil(plan.mr), cols.div_ceil(plan.nr));
        let macs = group.saturating_mul(rows).saturating_mul(cols).saturating_mul(k);
        let most = if threads > 1 { TASKS_EACH * threads } else { 1 };
        let want = (macs / TASK_MACS).clamp(1, most);
        // The most a task takes, in equal parts.
        let part = |panels: usize, most: usize| panels.div_ceil(panels.div_ceil(most).max(1));
        let (mut a_step, mut b_step) =
            (part(a_panels, TASK_A_PANELS), part(b_panels, TASK_B_PANELS));
        let count = |a: usize, b: usize| group * a_panels.div_ceil(a) * b_panels.div_ceil(b);
        while count(a_step, b_step) < want && (a_step > 1 || b_step > 4) {
            if a_step >= b_step || b_step <= 4 {
                a_step = a_step.div_ceil(2);
            } else {
                b_step = b_step.div_ceil(2);
            }
        }
        let (a_tasks, b_tasks) = (a_panels.div_ceil(a_step), b_panels.div_ceil(b_step));
        Tasks {
            count: group * a_tasks * b_tasks,
            a_panels,
            b_panels,
            a_step,
            b_step,
            a_tasks,
            b_tasks,
        }
    }

    fn get(&self, t: usize) -> (usize, std::ops::Range<usize>, std::ops::Range<usize>) {
        let (rest, ai) = (t / self.a_tasks, t % self.a_tasks);
        let (item, bi) = (rest / self.b_tasks, rest % self.b_tasks);
        let (a, b) = (ai * self.a_step, bi * self.b_step);
        (item, a..(a + self.a_step).min(self.a_panels), b..(b + self.b_step).min(self.b_panels))
    }
}

/// Fetches `rows` rows of a tile into the cache, whatever follows them.
#[inline(always)]
fn prefetch_tile<S: Simd>(s: S, tile: *const f32, row: usize, rows: usize) {
    for r in 0..rows {
        for at in (0..=S::NR).step_by(16) {
            s.prefetch(tile.wrapping_add(r * row + at));
        }
    }
}

/// Where the rows of A come from, at row 0 of the product.
enum Left {
    /// Panels of all of K.
    Packed(*const f32),
    /// A matrix, and space for the panels of a task of `KC` terms.
    Strided { src: *const f32, row: usize, col: usize, work: *mut f32 },
}

/// One task: the tiles of some panels of A and B, over all of K, with the epilogue. Whoever makes one
/// proves that the pointers reach the product's `rows` by `k`, `k` by `cols` and `rows` by `cols`.
struct Block {
    rows: usize,
    cols: usize,
    k: usize,
    a: Left,
    /// Packed B of the chunk.
    b: *const f32,
    /// C at the origin of the chunk.
    c: *mut f32,
    ldc: usize,
    alpha: f32,
    accumulate: bool,
    finish: Finish,
    a_panels: std::ops::Range<usize>,
    b_panels: std::ops::Range<usize>,
}

impl Block {
    /// Terms `pc..pc + kc` of the task's panels of A: where the first is, and floats to a full panel.
    #[inline(always)]
    fn left<S: Simd>(&self, s: S, pc: usize, kc: usize) -> (*const f32, usize) {
        let first = self.a_panels.start * S::MR;
        match self.a {
            Left::Packed(a) => (a.wrapping_add(first * self.k), S::MR * self.k),
            // One row is its own panel.
            Left::Strided { src, row, col: 1, .. } if first + 1 == self.rows => {
                (src.wrapping_add(first * row + pc), 0)
            }
            Left::Strided { src, row, col, work } => {
                let lanes = self.rows.min(self.a_panels.end * S::MR) - first;
                s.outline(PackPanels {
                    src: src.wrapping_add(first * row + pc * col),
                    lane: row,
                    term: col,
                    lanes,
                    k: kc,
                    width: S::MR,
                    last_width: lanes % S::MR,
                    dst: work,
                    panel_len: S::MR * kc,
                    panels: 0..self.a_panels.len(),
                });
                (work, S::MR * kc)
            }
        }
    }
}

impl Kernel for Block {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let blocks = self.k.div_ceil(KC).max(1);
        let tiles = self.a_panels.len();
        let mut finishing = Finishing([0.0; MAX_TILE]);
        for block in 0..blocks {
            let pc = block * KC;
            let kc = KC.min(self.k - pc);
            let last = block + 1 == blocks;
            let (a, a_panel) = self.left(s, pc, kc);
            let mut jp = self.b_panels.start;
            while jp < self.b_panels.end {
                let left = self.b_panels.end - jp;
                // Full tiles take one panel of B at a time; a block of few rows takes more.
                let few = panels_at_once(self.rows - (self.a_panels.start * S::MR).min(self.rows));
                let wide = if few <= left { few } else { 1 };
                let j = jp * S::NR;
                // The tiles of a panel fetch the next one, each its share.
                let (next, next_pc) = match jp + 1 {
                    next if next < self.b_panels.end => (next, pc),
                    _ => (self.b_panels.start, pc + kc),
                };
                let mut ahead = self.b.wrapping_add(next * S::NR * self.k + next_pc * S::NR);
                for (t, ip) in self.a_panels.clone().enumerate() {
                    let i = ip * S::MR;
                    let rows = S::MR.min(self.rows - i);
                    // SAFETY: panel `jp` of B starts at `j k`; it and the panel of A have `kc` terms
                    // from where they point. `wide > 1` only where that many panels follow. C has the
                    // rows and columns of the chunk.
                    unsafe {
                        let c = self.c.add(i * self.ldc + j);
                        let cols = self.cols - j;
                        let a = match self.a {
                            // A packed panel of fewer rows is narrower.
                            Left::Packed(_) => a.add(t * a_panel + pc * rows),
                            Left::Strided { .. } => a.add(t * a_panel),
                        };
                        let tile = Tile {
                            kc,
                            a,
                            b: self.b.add(j * self.k + pc * S::NR),
                            bps: S::NR * self.k,
                            ahead,
                            ahead_step: S::NR.div_ceil(tiles),
                            c,
                            ldc: self.ldc,
                            cols,
                            alpha: self.alpha,
                            add: self.accumulate || block > 0,
                        };
                        if last && wide == 1 && !self.finish.residual.is_null() {
                            let row = self.finish.residual_row;
                            prefetch_tile(s, self.finish.residual.add(i * row + j), row, rows);
                        }
                        prefetch_tile(s, c, self.ldc, rows);
                        if last && !self.finish.is_noop() {
                            let (f, at) = (self.finish, (i, j));
                            run_finished_tile(s, rows, wide == 1, tile, f, at, &mut finishing);
                        } else {
                            run_tile(s, rows, wide == 1, tile);
                        }
                        ahead = ahead.wrapping_add(kc * tile.ahead_step);
                    }
                }
                jp += wide;
            }
        }
    }
}

fn check(isa: Isa, shape: Shape, a: &Lhs<'_>, b: &Rhs<'_>, c: &Out<'_>, e: &Epilogue<'_>) {
    let Shape { batch, m, n, k } = shape;
    let level = isa.level();
    match a {
        Lhs::Strided(mat) => mat.check("a", batch, m, k),
        Lhs::Packed(p) => assert!(
            (p.m, p.k, p.level) == (m, k, level),
            "gemm: a was packed as {} x {} for {}, used as {m} x {k} at {level}",
            p.m,
            p.k,
            p.level
        ),
    }
    match b {
        Rhs::Strided(mat) => mat.check("b", batch, k, n),
        Rhs::Packed(p) => assert!(
            (p.k, p.n, p.level) == (k, n, level),
            "gemm: b was packed as {} x {} for {}, used as {k} x {n} at {level}",
            p.k,
            p.n,
            p.level
        ),
    }
    let need = reach(&[(batch, c.batch), (m, c.row), (n, 1)]);
    assert!(
        c.data.len() >= need,
        "gemm: c holds {} floats, {batch} of {m} x {n} with strides {}, {} reach {need}",
        c.data.len(),
        c.batch,
        c.row
    );
    assert!(m <= 1 || c.row >= n, "gemm: rows of c overlap: row stride {}, {n} columns", c.row);
    let one = reach(&[(m, c.row), (n, 1)]);
    assert!(
        batch <= 1 || c.batch >= one,
        "gemm: products overlap: batch stride {}, each {one}",
        c.batch
    );
    match e.bias {
        Bias::None => {}
        Bias::Cols(b) => assert_eq!(b.len(), n, "gemm: length of the column bias against n"),
        Bias::Rows(b) => assert_eq!(b.len(), m, "gemm: length of the row bias against m"),
    }
    if let Some(r) = e.residual {
        assert!(n <= 1 || r.col == 1, "gemm: residual has column stride {}, want 1", r.col);
        Mat { col: 1, ..r }.check("residual", batch, m, n);
    }
}
