//! The rows of one task: the online softmax over blocks of keys.

use super::product::{Scores, Values};
use super::softmax::{Exponentials, Visible};
use super::{AttentionOptions, BLOCK, Band, Mask, TASK_ROWS};
use crate::parallel::Shared;
use crate::simd::{Kernel, MAX_LANES, Simd};

pub(super) const MAX_WIDTH: usize = 2 * MAX_LANES;
/// The most panels of a task: two vectors of the narrowest level to a panel.
const MAX_PANELS: usize = TASK_ROWS / 8;

/// Floats of a page of memory.
const PAGE: usize = 1024;

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
    /// Rows of the flattened `[q_len, group]`, at most [`TASK_ROWS`].
    pub rows: std::ops::Range<usize>,
    /// Two vectors to a panel instead of one.
    pub wide: bool,
    /// K and V come from beyond the second level of the cache: the next block is fetched while one is
    /// in use.
    pub far: bool,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let std::ops::Range { start, end } = self.rows;
        // Few rows over are a panel of one vector, where reading K and V again costs little.
        let over = (end - start) % (2 * S::LANES);
        let narrow = match (self.wide, self.far) {
            (false, _) => end - start,
            (true, false) if over <= S::LANES => over,
            _ => 0,
        };
        self.run::<S, 2>(s, start..end - narrow);
        self.run::<S, 1>(s, end - narrow..end);
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
        let mut rows = [None; MAX_WIDTH];
        for to in &mut rows[..count] {
            let (head, row) = at;
            at = self.next(at);
            *to = Some(data.ptr().wrapping_add(place.at + head * place.head + row * place.row));
        }
        rows
    }

    #[inline(always)]
    fn lanes(&self, first_row: usize, count: usize, width: usize) -> Lanes {
        let kv = self.kv_len;
        let mut l = Lanes {
            low: [0.0; MAX_WIDTH],
            high: [kv as f32; MAX_WIDTH],
            mask: [0; MAX_WIDTH],
            shared: true,
            any: (0, kv),
            all: (0, kv),
        };
        if self.options.band.is_none() && matches!(self.options.mask, Mask::None) {
            return l;
        }
        (l.any, l.all) = ((usize::MAX, 0), (0, usize::MAX));
        let mut place = self.split(first_row);
        for i in 0..width {
            let (head, row) = place;
            // Lanes without a row see what the last row sees.
            if i + 1 < count {
                place = self.next(place);
            }
            let (mut low, mut high) = (0, kv);
            if let Some(Band { offset, before, after }) = self.options.band {
                let p = row as isize + offset;
                let end = |a: usize| p.saturating_add_unsigned(a).saturating_add(1);
                high = after.map_or(kv, |a| usize::try_from(end(a)).unwrap_or(0).min(kv));
                low = before
                    .map_or(0, |b| usize::try_from(p.saturating_sub_unsigned(b)).unwrap_or(0));
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
    fn run<S: Simd, const V: usize>(&self, s: S, rows: std::ops::Range<usize>) {
        if rows.is_empty() {
            return;
        }
        let (qk_dim, v_dim) = (self.qk_dim, self.v_dim);
        let width = V * S::LANES;
        let first_row = rows.start;
        let count = rows.len();
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
        let copies = panels_at.wrapping_add(panels * panel_len);
        let mut seen = [const { None }; MAX_PANELS];
        let (mut first, mut end) = (usize::MAX, 0);
        // SAFETY: whoever made the task proved the reach of every tensor and that `work` holds what
        // `slot_len` says: scores, corrections and largest scores of a panel, then the panels, then
        // the copies of a block of K and V.
        unsafe {
            for (p, seen) in seen.iter_mut().enumerate().take(panels) {
                let here = width.min(count - p * width);
                let l = self.lanes(first_row + p * width, here, width);
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
                let (mut k, mut v) = (rows_from(self.k, j0), rows_from(self.v, j0));
                // Rows at multiples of a page share a few sets of the first-level cache: panels after
                // the first would miss it again.
                if panels > 1 && k.row.is_multiple_of(PAGE) {
                    k = copy_rows(s, k, keys, qk_dim, copies);
                }
                if panels > 1 && v.row.is_multiple_of(PAGE) {
                    v = copy_rows(s, v, keys, v_dim, copies.wrapping_add(BLOCK * qk_dim));
                }
                let next = j0 + BLOCK;
                let ahead = |p: usize, of| {
                    if self.far && p == 0 && next < end { rows_from(of, next) } else { Rows::NONE }
                };
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
                    let (ahead_k, ahead_v) = (ahead(p, self.k), ahead(p, self.v));
                    s.outline(Scores::<V> {
                        keys,
                        plain,
                        dim: qk_dim,
                        k,
                        ahead: ahead_k,
                        queries,
                        scores,
                        max,
                    });
                    if plain < keys {
                        let scores = scores.add(plain * width);
                        let (j0, keys) = (j0 + plain, keys - plain);
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
                        ahead: ahead_v,
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
        let unit = super::softmax::unit(self.options);
        let scale = s.splat(unit);
        // SAFETY: whoever made the task proved the reach of the queries.
        unsafe {
            for v in 0..V {
                let rows = &all[v * S::LANES..][..S::LANES];
                let mut d = 0;
                while place.dim == 1 && d + S::LANES <= self.qk_dim {
                    let square = s.transpose(|i| rows[i].map_or(zeros.as_ptr(), |row| row.add(d)));
                    for (i, x) in square.into_iter().enumerate().take(S::LANES) {
                        s.store(queries.add((d + i) * width + v * S::LANES), s.mul(x, scale));
                    }
                    d += S::LANES;
                }
                for d in d..self.qk_dim {
                    for (i, row) in rows.iter().enumerate() {
                        *queries.add(d * width + v * S::LANES + i) =
                            row.map_or(0.0, |row| *row.add(d * place.dim) * unit);
                    }
                }
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
                let inverse = s.to_array(s.div(s.splat(1.0), sum));
                let rows = &all[at..][..S::LANES];
                let mut d = 0;
                while place.dim == 1 && d + S::LANES <= self.v_dim {
                    let square = s.transpose(|i| results.add((d + i) * width + at));
                    for ((row, x), inverse) in rows.iter().zip(square).zip(inverse) {
                        if let Some(row) = row {
                            s.store(row.add(d), s.mul(x, s.splat(inverse)));
                        }
                    }
                    d += S::LANES;
                }
                for (i, row) in rows.iter().flatten().enumerate() {
                    for d in d..self.v_dim {
                        *row.add(d * place.dim) = *results.add(d * width + at + i) * inverse[i];
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

impl Rows {
    /// Rows that do not exist.
    pub const NONE: Rows = Rows { at: std::ptr::null(), row: 0, col: 0 };

    /// The address of an element, whether or not it exists.
    #[inline(always)]
    pub fn element(self, row: usize, col: usize) -> *const f32 {
        self.at.wrapping_add(row * self.row + col * self.col)
    }
}

/// Writes `count` rows of `dim` columns one after the other.
///
/// # Safety
/// `rows` reaches them, and `to` has room.
#[inline(always)]
unsafe fn copy_rows<S: Simd>(s: S, rows: Rows, count: usize, dim: usize, to: *mut f32) -> Rows {
    // SAFETY: as the caller promises; every access is within a row of `dim` columns.
    unsafe {
        for i in 0..count {
            let (from, to) = (rows.at.add(i * rows.row), to.add(i * dim));
            let mut d = 0;
            while rows.col == 1 && d + S::LANES <= dim {
                s.store(to.add(d), s.load(from.add(d)));
                d += S::LANES;
            }
            for d in d..dim {
                *to.add(d) = *from.add(d * rows.col);
            }
        }
    }
    Rows { at: to, row: dim, col: 1 }
}

/// K or V from row `j0` on.
#[inline(always)]
fn rows_from((data, place): (Shared<f32>, Place), j0: usize) -> Rows {
    let at = data.ptr().wrapping_add(place.at + j0 * place.row).cast_const();
    Rows { at, row: place.row, col: place.dim }
}
