//! The rows of one task: the online softmax over blocks of keys.

use super::product::{Scores, Values};
use super::softmax::{Exponentials, Visible};
use super::{AttentionOptions, BLOCK, Causal, Mask, TASK_ROWS};
use crate::parallel::Shared;
use crate::simd::{Kernel, MAX_LANES, Simd};

pub(super) const MAX_WIDTH: usize = 2 * MAX_LANES;
/// The most panels of a task: two vectors of the narrowest level to a panel.
const MAX_PANELS: usize = TASK_ROWS / 8;

/// Where the rows of one sequence lie in a tensor.
#[derive(Copy, Clone)]
pub(super) struct Place {
    /// The first element of the task's first head.
    pub at: usize,
    /// Distances between heads, rows and columns.
    pub head: usize,
    pub row: usize,
    pub dim: usize,
}

/// Some query rows of one key head of one sequence. Whoever makes one proves that the tensors reach
/// the rows and heads it names, that no other task writes these rows of the result, that the mask
/// reaches every key of every row, and that `work` holds what [`slot_len`](super::slot_len) says.
pub(super) struct Task<'a> {
    pub options: &'a AttentionOptions<'a>,
    pub q: (Shared<f32>, Place),
    pub k: (Shared<f32>, Place),
    pub v: (Shared<f32>, Place),
    pub out: (Shared<f32>, Place),
    /// Query heads of the key head, the first of them, and the sequence.
    pub group: usize,
    pub first_head: usize,
    pub batch: usize,
    /// Keys of the sequence.
    pub kv_len: usize,
    pub qk_dim: usize,
    pub v_dim: usize,
    pub work: &'a mut [f32],
    /// Rows of the flattened `[q_len, group]`, at most [`TASK_ROWS`] and one panel.
    pub rows: std::ops::Range<usize>,
    /// Two vectors to a panel instead of one.
    pub wide: bool,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        if self.wide { self.run::<S, 2>(s) } else { self.run::<S, 1>(s) }
    }
}

/// What each lane of a panel sees.
#[derive(Copy, Clone)]
pub(super) struct Lanes {
    /// First key seen and one past the last, as floats (exact below 2^24 keys).
    pub low: [f32; MAX_WIDTH],
    pub high: [f32; MAX_WIDTH],
    /// Offset of the lane's row of the mask.
    pub mask: [usize; MAX_WIDTH],
    /// One mask row for all lanes.
    pub shared: bool,
    /// Keys that any lane sees, and those that all lanes see.
    any: (usize, usize),
    all: (usize, usize),
}

/// The parts of a panel.
#[derive(Copy, Clone)]
struct Panel {
    /// `[qk_dim][width]`: queries times the scale.
    queries: *mut f32,
    /// `[v_dim][width]`: sums of values.
    results: *mut f32,
    /// `[2][width]`: the score that exponentials are taken against, and their sum.
    state: *mut f32,
}

impl Task<'_> {
    /// Head within the group and row of a flattened row.
    #[inline(always)]
    fn split(&self, row: usize) -> (usize, usize) {
        (row % self.group, row / self.group)
    }

    /// What [`split`](Self::split) gives for the row after that one.
    #[inline(always)]
    fn next(&self, (head, row): (usize, usize)) -> (usize, usize) {
        if head + 1 < self.group { (head + 1, row) } else { (0, row + 1) }
    }

    /// Where the `count` flattened rows from `first_row` on start in Q or the result.
    #[inline(always)]
    fn rows_at(
        &self,
        (data, place): (Shared<f32>, Place),
        first_row: usize,
        count: usize,
    ) -> [Option<*mut f32>; MAX_WIDTH] {
        let mut at = self.split(first_row);
        std::array::from_fn(|i| {
            (i < count).then(|| {
                let (head, row) = at;
                at = self.next(at);
                data.ptr().wrapping_add(place.at + head * place.head + row * place.row)
            })
        })
    }

    #[inline(always)]
    fn lanes(&self, first_row: usize, count: usize) -> Lanes {
        let kv = self.kv_len;
        let mut l = Lanes {
            low: [0.0; MAX_WIDTH],
            high: [0.0; MAX_WIDTH],
            mask: [0; MAX_WIDTH],
            shared: true,
            any: (usize::MAX, 0),
            all: (0, usize::MAX),
        };
        let mut place = self.split(first_row);
        for i in 0..MAX_WIDTH {
            let (head, row) = place;
            // Lanes without a row see what the last row sees.
            if i + 1 < count {
                place = self.next(place);
            }
            let (mut low, mut high) = (0, kv);
            if let Some(Causal { offset, window }) = self.options.causal {
                let p = row as isize + offset;
                high = usize::try_from(p + 1).unwrap_or(0).min(kv);
                low = window.map_or(0, |w| usize::try_from(p + 1 - w as isize).unwrap_or(0));
            }
            if low < high {
                l.any = (l.any.0.min(low), l.any.1.max(high));
            }
            l.all = (l.all.0.max(low), l.all.1.min(high));
            (l.low[i], l.high[i]) = (low as f32, high as f32);
            if let Mask::Add(_, s) | Mask::Keep(_, s) = self.options.mask {
                l.mask[i] = self.batch * s[0] + (self.first_head + head) * s[1] + row * s[2];
                l.shared &= l.mask[i] == l.mask[0];
            }
        }
        l
    }

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, s: S) {
        let (qk_dim, v_dim) = (self.qk_dim, self.v_dim);
        let width = V * S::LANES;
        let first_row = self.rows.start;
        let count = self.rows.len();
        let panels = count.div_ceil(width);
        // Lines of the cache are read whole, so the parts start at one: each is a multiple of 16.
        let base = self.work.as_ptr().cast_mut();
        let scores = base.wrapping_add(base.align_offset(64).min(super::ALIGN));
        let correction = scores.wrapping_add(BLOCK * width);
        let max = correction.wrapping_add(MAX_WIDTH);
        let panels_at = max.wrapping_add(MAX_WIDTH);
        let panel_len = width * (qk_dim + v_dim + 2);
        let panel = |p: usize| {
            let queries = panels_at.wrapping_add(p * panel_len);
            let results = queries.wrapping_add(width * qk_dim);
            Panel { queries, results, state: results.wrapping_add(width * v_dim) }
        };
        let mut seen = [const { None }; MAX_PANELS];
        let (mut first, mut end) = (usize::MAX, 0);
        // SAFETY: whoever made the task proved the reach of every tensor and that `work` holds what
        // `slot_len` says: scores, corrections and largest scores of a panel, then the panels.
        unsafe {
            for (p, seen) in seen.iter_mut().enumerate().take(panels) {
                let here = width.min(count - p * width);
                let l = self.lanes(first_row + p * width, here);
                (first, end) = (first.min(l.any.0), end.max(l.any.1));
                *seen = Some(l);
                let panel = panel(p);
                self.pack_queries::<S, V>(s, panel.queries, first_row + p * width, here);
                std::ptr::write_bytes(panel.results, 0, width * (v_dim + 2));
                for i in 0..width {
                    *panel.state.add(i) = f32::NEG_INFINITY;
                }
            }
            let mut j0 = first.min(end) / BLOCK * BLOCK;
            while j0 < end {
                let keys = BLOCK.min(end - j0);
                let (k, v) = (rows_from(self.k, j0), rows_from(self.v, j0));
                for (p, lanes) in seen.iter().flatten().enumerate() {
                    let keys = keys.min(lanes.any.1.saturating_sub(j0));
                    if keys == 0 || j0 + keys <= lanes.any.0 {
                        continue;
                    }
                    let Panel { queries, results, state } = panel(p);
                    let options = self.options;
                    // All lanes see the keys before this one, and nothing changes their scores.
                    let plain = if options.softcap.is_some()
                        || !matches!(options.mask, Mask::None)
                        || lanes.all.0 > j0
                    {
                        0
                    } else {
                        lanes.all.1.saturating_sub(j0).min(keys)
                    };
                    let product = Scores::<V> { keys: plain, dim: qk_dim, k, queries, scores, max };
                    s.outline(product);
                    if plain < keys {
                        let k = Rows { at: k.at.add(plain * k.row), ..k };
                        let scores = scores.add(plain * width);
                        let (j0, keys) = (j0 + plain, keys - plain);
                        s.outline(Scores { keys, k, scores, max: correction, ..product });
                        let visible = Visible::<V> { options, lanes, j0, keys, scores, max };
                        if !s.outline(visible) && plain == 0 {
                            continue;
                        }
                    }
                    let exp = Exponentials::<V> { keys, scores, max, state, correction };
                    let corrected = s.outline(exp);
                    s.outline(Values::<V> {
                        keys,
                        dim: v_dim,
                        v,
                        scores,
                        results,
                        correction: if corrected { correction } else { std::ptr::null() },
                    });
                }
                j0 += BLOCK;
            }
            for p in 0..panels {
                let here = width.min(count - p * width);
                self.write::<S, V>(s, panel(p), first_row + p * width, here);
            }
        }
    }

    /// `queries[d][lane]` = the query of that lane times the scale; lanes without one are zero.
    ///
    /// # Safety
    /// `queries` holds `qk_dim` rows of `V LANES` floats.
    #[inline(always)]
    unsafe fn pack_queries<S: Simd, const V: usize>(
        &self,
        s: S,
        queries: *mut f32,
        first_row: usize,
        count: usize,
    ) {
        let (place, width) = (self.q.1, V * S::LANES);
        let zeros = [0.0f32; MAX_LANES];
        let all = self.rows_at(self.q, first_row, count);
        // SAFETY: whoever made the task proved the reach of the queries.
        unsafe {
            for v in 0..V {
                let rows = &all[v * S::LANES..][..S::LANES];
                let mut d = 0;
                while place.dim == 1 && d + S::LANES <= self.qk_dim {
                    let square = s.transpose(|i| rows[i].map_or(zeros.as_ptr(), |row| row.add(d)));
                    for (i, x) in square.into_iter().enumerate().take(S::LANES) {
                        s.store(queries.add((d + i) * width + v * S::LANES), x);
                    }
                    d += S::LANES;
                }
                for d in d..self.qk_dim {
                    for (i, row) in rows.iter().enumerate() {
                        *queries.add(d * width + v * S::LANES + i) =
                            row.map_or(0.0, |row| *row.add(d * place.dim));
                    }
                }
            }
            let scale = s.splat(super::softmax::unit(self.options));
            for at in (0..self.qk_dim * width).step_by(S::LANES) {
                let p = queries.add(at);
                s.store(p, s.mul(s.load(p), scale));
            }
        }
    }

    /// Divides the results by the sums and writes them to their rows.
    ///
    /// # Safety
    /// The panel is one of `V LANES` lanes.
    #[inline(always)]
    unsafe fn write<S: Simd, const V: usize>(
        &self,
        s: S,
        panel: Panel,
        first_row: usize,
        count: usize,
    ) {
        let (place, width) = (self.out.1, V * S::LANES);
        let all = self.rows_at(self.out, first_row, count);
        let Panel { results, state, .. } = panel;
        // SAFETY: whoever made the task proved the reach of the result and that these rows are its
        // own; the panel holds `v_dim` results and the sums of `width` lanes.
        unsafe {
            for v in 0..V {
                let at = v * S::LANES;
                let sum = s.load(state.add(width + at));
                // A row that saw nothing has the sum zero, and zeros as results.
                let sum = s.select(s.eq(sum, s.zero()), s.splat(1.0), sum);
                let inverse = s.div(s.splat(1.0), sum);
                for d in 0..self.v_dim {
                    let p = results.add(d * width + at);
                    s.store(p, s.mul(s.load(p), inverse));
                }
                let rows = &all[at..][..S::LANES];
                let mut d = 0;
                while place.dim == 1 && d + S::LANES <= self.v_dim {
                    let square = s.transpose(|i| results.add((d + i) * width + at));
                    for (row, x) in rows.iter().zip(square) {
                        if let Some(row) = row {
                            s.store(row.add(d), x);
                        }
                    }
                    d += S::LANES;
                }
                for (i, row) in rows.iter().flatten().enumerate() {
                    for d in d..self.v_dim {
                        *row.add(d * place.dim) = *results.add(d * width + at + i);
                    }
                }
            }
        }
    }
}

/// A matrix read by rows: its first element, and the distances of rows and columns.
#[derive(Copy, Clone)]
pub(super) struct Rows {
    pub at: *const f32,
    pub row: usize,
    pub col: usize,
}

/// K or V from row `j0` on.
#[inline(always)]
fn rows_from((data, place): (Shared<f32>, Place), j0: usize) -> Rows {
    let at = data.ptr().wrapping_add(place.at + j0 * place.row).cast_const();
    Rows { at, row: place.row, col: place.dim }
}
