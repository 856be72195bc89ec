//! Convolution as a product whose right operand is gathered panel by panel.

use super::{ConvEpilogue, ConvShape, copy_run};
use crate::Isa;
use crate::gemm::micro::{BiasPtr, Finish, Tile, finish, run_tile};
use crate::gemm::{
    Bias, Epilogue, KC, Lhs, Mat, Out, PackedARef, PackedBRef, Rhs, Shape, gemm, packed_b_len, tile,
};
use crate::parallel::{Parallel, Shared, Slots};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Panels of output positions in one task; `KC` deep they fit the second-level cache.
const TASK_PANELS: usize = 16;
/// Below this many tasks, all columns are gathered before rows of the product are divided too,
const TASKS: usize = 16;
/// if there are this many rows
const WHOLE_ROWS: usize = 48;
/// and the columns take at most this many floats.
const WHOLE_COLUMNS: usize = 4 << 20;

struct Plan {
    /// Positions and panels of one image's output, and panels of one task.
    positions: usize,
    panels: usize,
    b_step: usize,
    b_tasks: usize,
    /// Too few tasks for one product: gather all its columns first, then divide its rows as well.
    whole: bool,
}

impl Plan {
    fn new(isa: Isa, shape: &ConvShape) -> Plan {
        let nr = tile(isa).1;
        let positions = shape.output().iter().product::<usize>();
        let panels = positions.div_ceil(nr);
        let rows = shape.out_channels / shape.groups;
        let mut b_step = TASK_PANELS.min(panels).max(1);
        let others = shape.batch * shape.groups;
        while b_step > 4 && others * panels.div_ceil(b_step) < TASKS {
            b_step = b_step.div_ceil(2);
        }
        let b_tasks = panels.div_ceil(b_step);
        let columns = packed_b_len(isa, shape.terms(), positions);
        let whole = others * b_tasks < TASKS && rows >= WHOLE_ROWS && columns <= WHOLE_COLUMNS;
        Plan { positions, panels, b_step, b_tasks, whole }
    }

    fn slot_len(&self, isa: Isa, terms: usize) -> usize {
        self.b_step * tile(isa).1 * KC.min(terms)
    }
}

pub(super) fn scratch(isa: Isa, par: &dyn Parallel, shape: &ConvShape) -> usize {
    let plan = Plan::new(isa, shape);
    if plan.whole {
        packed_b_len(isa, shape.terms(), plan.positions)
    } else {
        Slots::count(par) * plan.slot_len(isa, shape.terms())
    }
}

/// Lengths were checked by the caller.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
pub(super) fn run(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let plan = Plan::new(isa, shape);
    if plan.whole {
        return run_whole(isa, par, shape, &plan, x, w, epilogue, y, scratch);
    }
    let slots = Slots::new(par, scratch, plan.slot_len(isa, shape.terms()));
    let rows = shape.out_channels / shape.groups;
    let group_in = shape.in_channels / shape.groups * shape.input.iter().product::<usize>();
    let y = Shared::new(y);
    let body = |t: usize| {
        let (item, b) = (t / plan.b_tasks, t % plan.b_tasks);
        let b0 = b * plan.b_step;
        let channel = item % shape.groups * rows;
        let out = item * rows * plan.positions;
        slots.with(|work| {
            isa.dispatch(Task {
                shape,
                x: &x[item * group_in..(item + 1) * group_in],
                w: &w[channel * shape.terms()..(channel + rows) * shape.terms()],
                y: y.ptr().wrapping_add(out),
                finish: Finish {
                    bias: epilogue
                        .bias
                        .map_or(BiasPtr::None, |b| BiasPtr::Rows(b[channel..].as_ptr())),
                    residual: epilogue.residual.map_or(std::ptr::null(), |r| r[out..].as_ptr()),
                    residual_row: plan.positions,
                    activation: epilogue.activation,
                },
                work,
                rows,
                positions: plan.positions,
                b_panels: b0..(b0 + plan.b_step).min(plan.panels),
            });
        });
    };
    match shape.batch * shape.groups * plan.b_tasks {
        1 => body(0),
        tasks => par.run(tasks, &body),
    }
}

/// Gathers all columns of one image and group, then multiplies: the order of summation is the same.
#[expect(clippy::too_many_arguments, reason = "an input, weights, an output and how to run")]
fn run_whole(
    isa: Isa,
    par: &dyn Parallel,
    shape: &ConvShape,
    plan: &Plan,
    x: &[f32],
    w: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let (positions, terms) = (plan.positions, shape.terms());
    let (nr, rows) = (tile(isa).1, shape.out_channels / shape.groups);
    let need = packed_b_len(isa, terms, positions);
    assert!(
        scratch.len() >= need,
        "conv: scratch holds {} floats, needs {need}: size it with conv_scratch",
        scratch.len()
    );
    let group_in = shape.in_channels / shape.groups * shape.input.iter().product::<usize>();
    let each = terms * nr;
    for item in 0..shape.batch * shape.groups {
        let x = &x[item * group_in..(item + 1) * group_in];
        let panels = Shared::new(&mut scratch[..need]);
        // One task gathers a block of terms of one panel.
        let blocks = terms.div_ceil(KC).max(1);
        par.run(plan.panels * blocks, &|t| {
            let (panel, block) = (t / blocks, t % blocks);
            let part = block * KC..(block * KC + KC).min(terms);
            // SAFETY: the panel has `terms` rows of `NR`; each task has rows of its own.
            let out = unsafe { panels.part(panel * each + part.start * nr, part.len() * nr) };
            isa.dispatch(Gather {
                shape,
                x,
                out,
                panels: panel..panel + 1,
                positions,
                terms: part,
            });
        });
        let channel = item % shape.groups * rows;
        let out = item * rows * positions;
        let a = PackedARef::from_packed(
            isa,
            &w[channel * terms..(channel + rows) * terms],
            rows,
            terms,
        );
        let b = PackedBRef::from_packed(isa, &scratch[..need], terms, positions);
        let e = Epilogue {
            bias: epilogue.bias.map_or(Bias::None, |b| Bias::Rows(&b[channel..channel + rows])),
            residual: epilogue
                .residual
                .map(|r| Mat::dense(&r[out..out + rows * positions], positions)),
            activation: epilogue.activation,
            ..Epilogue::default()
        };
        let c = Out::dense(&mut y[out..out + rows * positions], positions);
        let product = Shape { batch: 1, m: rows, n: positions, k: terms };
        gemm(isa, par, product, Lhs::Packed(a), Rhs::Packed(b), c, &e, &mut []);
    }
}

/// All output channels of a group at some positions of one image.
struct Task<'a> {
    shape: &'a ConvShape,
    /// The group's input channels and packed weights.
    x: &'a [f32],
    w: &'a [f32],
    /// The group's first output channel.
    y: *mut f32,
    finish: Finish,
    work: &'a mut [f32],
    rows: usize,
    positions: usize,
    b_panels: std::ops::Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let terms = self.shape.terms();
        let blocks = terms.div_ceil(KC).max(1);
        for block in 0..blocks {
            let pc = block * KC;
            let kc = KC.min(terms - pc);
            let gather = Gather {
                shape: self.shape,
                x: self.x,
                out: &mut *self.work,
                panels: self.b_panels.clone(),
                positions: self.positions,
                terms: pc..pc + kc,
            };
            s.outline(gather);
            for (n, jp) in self.b_panels.clone().enumerate() {
                let j = jp * S::NR;
                let cols = (self.positions - j).min(S::NR);
                for ip in 0..self.rows.div_ceil(S::MR) {
                    let i = ip * S::MR;
                    let rows = S::MR.min(self.rows - i);
                    // SAFETY: panel `ip` of the weights starts at `i terms` and has `rows terms`
                    // floats; the gathered panel has `kc NR`; `y` has `rows` channels of
                    // `positions`, of which this task owns these panels. Bias and residual were
                    // checked to have the output's sizes.
                    unsafe {
                        let c = self.y.add(i * self.positions + j);
                        let t = Tile {
                            kc,
                            a: self.w.as_ptr().add(i * terms + pc * rows),
                            b: self.work.as_ptr().add(n * kc * S::NR),
                            bps: 0,
                            ahead: self.work.as_ptr(),
                            ahead_step: 0,
                            c,
                            ldc: self.positions,
                            cols,
                            alpha: 1.0,
                            add: block > 0,
                        };
                        run_tile(s, rows, true, t);
                        if block + 1 == blocks && !self.finish.is_noop() {
                            finish(s, self.finish, c, self.positions, i, j, rows, cols);
                        }
                    }
                }
            }
        }
    }
}

/// Copies windows into panels: `out[panel][term][lane]` is the input that term `term` multiplies at
/// output position `panel NR + lane`, zero in the padding and beyond the last position.
struct Gather<'a> {
    shape: &'a ConvShape,
    x: &'a [f32],
    out: &'a mut [f32],
    panels: std::ops::Range<usize>,
    positions: usize,
    terms: std::ops::Range<usize>,
}

/// Panels gathered together: each input row is visited once for all of them.
const GROUP: usize = 8;

/// Lanes of a panel that lie in one row of the output.
#[derive(Copy, Clone, Default)]
struct Run {
    panel: usize,
    lane: usize,
    len: usize,
    at: [usize; 3],
}

impl Gather<'_> {
    /// Splits the positions of a group of panels into runs; returns how many there are.
    #[inline(always)]
    fn runs<S: Simd>(&self, first: usize, panels: usize, runs: &mut [Run]) -> usize {
        let [_, oh, ow] = self.shape.output();
        let mut count = 0;
        for panel in 0..panels {
            let start = (first + panel) * S::NR;
            let (mut lane, end) = (0, S::NR.min(self.positions - start));
            while lane < end {
                let p = start + lane;
                let ox = p % ow;
                let len = (ow - ox).min(end - lane);
                runs[count] = Run { panel, lane, len, at: [p / ow / oh, p / ow % oh, ox] };
                count += 1;
                lane += len;
            }
        }
        count
    }
}

impl Kernel for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let shape = self.shape;
        let [id, ih, iw] = shape.input;
        let [kd, kh, kw] = shape.kernel;
        let (step, begin) = (shape.stride[2], shape.pad_begin[2]);
        let each = self.terms.len() * S::NR;
        let out = std::mem::take(&mut self.out);
        let mut table = [Run::default(); GROUP * 2 * MAX_LANES];
        let tap = |d: usize, at: usize, k: usize| {
            (at * shape.stride[d] + k * shape.dilation[d]).wrapping_sub(shape.pad_begin[d])
        };
        for (g, out) in
            out[..each * self.panels.len()].chunks_mut((GROUP * each).max(1)).enumerate()
        {
            let panels = out.len() / each;
            let count = self.runs::<S>(self.panels.start + g * GROUP, panels, &mut table);
            for (row, term) in self.terms.clone().enumerate() {
                let (kx, ky) = (term % kw, term / kw % kh);
                let (kz, c) = (term / (kw * kh) % kd, term / (kw * kh * kd));
                for panel in out.chunks_exact_mut(each) {
                    let row = &mut panel[row * S::NR..][..S::NR];
                    // SAFETY: `row` has `NR = 2 LANES` floats.
                    unsafe {
                        s.store(row.as_mut_ptr(), s.zero());
                        s.store(row.as_mut_ptr().add(S::LANES), s.zero());
                    }
                }
                let shift = kx * shape.dilation[2];
                // Outputs `ox` with `0 <= ox step + shift - begin < iw`.
                let first = begin.saturating_sub(shift).div_ceil(step);
                let end = (iw + begin).saturating_sub(shift).div_ceil(step);
                for r in &table[..count] {
                    let (iz, iy) = (tap(0, r.at[0], kz), tap(1, r.at[1], ky));
                    let (low, high) = (first.max(r.at[2]), end.min(r.at[2] + r.len));
                    // A position before the input wrapped around and is beyond it now.
                    if iz >= id || iy >= ih || low >= high {
                        continue;
                    }
                    let line = &self.x[((c * id + iz) * ih + iy) * iw..][..iw];
                    let from = &line[low * step + shift - begin..];
                    let at = row * S::NR + r.lane + low - r.at[2];
                    let panel = &mut out[r.panel * each..][..each];
                    // SAFETY: outputs `low..high` read `from[0], from[step], …`, which the bounds
                    // of `low` and `high` keep in the line; their lanes lie in this row of the
                    // panel, whose later rows are still to be cleared.
                    unsafe { copy_run(s, from, step, panel, at, high - low) };
                }
            }
        }
    }
}
