//! Products whose operands are packed in *units*: 32 bits that hold the next few terms of one row or
//! column, so that one instruction multiplies them and adds the products to a 32-bit sum.
//!
//! | [`Dot`] | a unit holds | tile `MR × NR` |
//! |---|---|---|
//! | `Pairs` | two 16-bit integers, widened from bytes | 4 × 8, 4 × 16, 12 × 32 |
//! | `AvxVnni`, `Avx512Vnni` | four bytes, A without and B with sign | 6 × 16, 12 × 32 |
//! | `AmxBytes` | four bytes; A may have a sign | 32 × 32 |
//! | `Avx512Bf16`, `AmxBf16` | two bf16 | 12 × 32, 32 × 32 |
//!
//! Sixteen units of a row are a *line*, as long as a line of the cache. B is packed once as panels
//! `[units][NR]`. Rows of A are copied as panels `[lines][MR]`: by each task for its own rows, or, where B
//! is large, once for all tasks, which then have columns of their own. Tiles also read rows of the operand
//! itself where these are whole lines. A micro-kernel takes the place of each line from a table of offsets, so
//! that convolutions read lines of an image in the order of their taps. Sums go through a small
//! buffer to a [`Finish`], which turns them into what the caller wants while they are in the cache.

#[cfg(target_arch = "x86_64")]
mod amx;
mod vector;

use super::pack::Aligned;
use super::tile;
use crate::Isa;
use crate::parallel::{Parallel, Shared, Slots};

/// The instruction that multiplies units.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dot {
    /// 16-bit pairs; `signed` is the sign of the bytes of A.
    Pairs { signed: bool },
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// `signed` is the sign of the bytes of A.
    #[cfg(target_arch = "x86_64")]
    AmxBytes { signed: bool },
    #[cfg(target_arch = "x86_64")]
    AmxBf16,
}

/// One step of a micro-kernel: a block of A by a panel of B.
#[derive(Copy, Clone)]
pub(crate) struct Tile {
    /// A at its first row and, for tiles, at row 16.
    pub a: [*const u8; 2],
    /// Bytes between rows of A: those of a line, or, for tiles, any number.
    pub a_row: usize,
    /// Where each line of a row is, in bytes from its first.
    pub offsets: *const usize,
    /// Rows that count, at most `MR`.
    pub rows: usize,
    /// B at its first unit.
    pub b: *const u8,
    /// Units to walk; a multiple of 16 for tiles.
    pub units: usize,
    /// Sums, in rows of `NR`.
    pub c: *mut i32,
}

/// Bytes and units of a line.
pub(crate) const LINE: usize = 64;
pub(crate) const LINE_UNITS: usize = 16;
/// Bytes of A that a task copies for itself.
const OWN_BYTES: usize = 256 << 10;
/// Rows of A that a task copies for itself, at most.
const OWN_ROWS: usize = 384;
/// Bytes and rows of A that are copied for all tasks.
const SHARED_BYTES: usize = 1 << 20;
const SHARED_ROWS: usize = 768;
/// Bytes of B from which on tasks share A.
const LARGE_B: usize = 256 << 10;
/// Columns up to which rows of the operand itself are read.
const DIRECT_COLUMNS: usize = 256;
/// Multiply-adds below which a task is not worth handing out.
const TASK_MACS: usize = 1 << 21;
/// Tasks for each of several threads, so that they end together.
const TASKS_EACH: usize = 6;

impl Dot {
    /// Rows and columns of the sums that one call makes.
    pub(crate) fn tile(self, isa: Isa) -> (usize, usize) {
        let nr = tile(isa).1;
        let mr = match self {
            Dot::Pairs { .. } if nr == 32 => 12,
            Dot::Pairs { .. } => 4,
            #[cfg(target_arch = "x86_64")]
            Dot::AvxVnni => 6,
            #[cfg(target_arch = "x86_64")]
            Dot::Avx512Vnni | Dot::Avx512Bf16 => 12,
            #[cfg(target_arch = "x86_64")]
            Dot::AmxBytes { .. } | Dot::AmxBf16 => 32,
        };
        (mr, nr)
    }

    /// Terms in a unit.
    pub(crate) fn terms(self) -> usize {
        match self {
            Dot::Pairs { .. } => 2,
            #[cfg(target_arch = "x86_64")]
            Dot::AvxVnni | Dot::Avx512Vnni | Dot::AmxBytes { .. } => 4,
            #[cfg(target_arch = "x86_64")]
            Dot::Avx512Bf16 | Dot::AmxBf16 => 2,
        }
    }

    /// Units that `k` terms are padded to.
    pub(crate) fn units(self, k: usize) -> usize {
        let units = k.div_ceil(self.terms());
        if self.tiles() { units.next_multiple_of(LINE_UNITS) } else { units }
    }

    /// Whether the sums of a micro-kernel are in tile registers.
    pub(crate) fn tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Dot::AmxBytes { .. } | Dot::AmxBf16 => true,
            _ => false,
        }
    }

    /// Bytes of an element of A before packing.
    fn element(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Dot::Avx512Bf16 | Dot::AmxBf16 => 2,
            _ => 1,
        }
    }

    /// # Safety
    /// The pointers of `t` reach what its fields say, `isa` has the instruction, and for tiles the
    /// configuration is loaded.
    pub(crate) unsafe fn run(self, isa: Isa, t: Tile) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Dot::Pairs { .. } => vector::pairs(isa, t),
                #[cfg(target_arch = "x86_64")]
                Dot::AvxVnni => vector::avx_vnni(t),
                #[cfg(target_arch = "x86_64")]
                Dot::Avx512Vnni => vector::avx512_vnni(t),
                #[cfg(target_arch = "x86_64")]
                Dot::Avx512Bf16 => vector::avx512_bf16(t),
                #[cfg(target_arch = "x86_64")]
                Dot::AmxBytes { signed } => amx::bytes(signed, t),
                #[cfg(target_arch = "x86_64")]
                Dot::AmxBf16 => amx::bf16(t),
            }
        }
    }

    /// Configures the tiles of this thread, if this needs them, until the result is dropped.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn configure(self, isa: Isa) -> Option<amx::Tiles> {
        self.tiles().then(|| amx::Tiles::new(isa))
    }

    /// Nothing to configure.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn configure(self, _: Isa) {}
}

/// How the scratch of a product is cut; a function of its depth and the threads.
#[derive(Copy, Clone)]
struct Layout {
    mr: usize,
    nr: usize,
    units: usize,
    lines: usize,
    /// Rows of A that a task copies for itself, and that are copied for all.
    own: usize,
    shared: usize,
    /// Floats of the table of offsets, of the sums of a task and of one row of A.
    offsets: usize,
    sums: usize,
    row: usize,
}

/// Floats of the sums of a task: of two calls of a micro-kernel.
pub(crate) fn sums(mr: usize, nr: usize) -> usize {
    2 * mr * nr
}

fn whole_lines(floats: usize) -> usize {
    floats.next_multiple_of(LINE / size_of::<f32>())
}

impl Layout {
    fn new(isa: Isa, dot: Dot, k: usize) -> Layout {
        let (mr, nr) = dot.tile(isa);
        let units = dot.units(k);
        let lines = units.div_ceil(LINE_UNITS);
        let rows =
            |bytes: usize, most: usize| (bytes / (lines * LINE).max(1)).clamp(mr, most) / mr * mr;
        let word = size_of::<usize>() / size_of::<f32>();
        Layout {
            mr,
            nr,
            units,
            lines,
            own: rows(OWN_BYTES, OWN_ROWS),
            shared: rows(SHARED_BYTES, SHARED_ROWS),
            offsets: whole_lines(word * (lines)),
            sums: whole_lines(sums(mr, nr)),
            row: whole_lines(k * dot.element() / size_of::<f32>() + 1),
        }
    }

    /// Floats of so many rows of A and their sums.
    fn left(&self, rows: usize) -> [usize; 2] {
        [rows * self.lines * LINE / size_of::<f32>(), whole_lines(rows)]
    }

    /// Floats of scratch that a task has.
    fn each(&self, own: bool) -> usize {
        let [a, row_sums] = self.left(if own { self.own } else { 0 });
        a + row_sums + self.sums + self.row
    }

    fn scratch(&self, par: &dyn Parallel) -> usize {
        let slots = Slots::count(par);
        let [a, row_sums] = self.left(self.shared);
        let most = (a + row_sums + slots * self.each(false)).max(slots * self.each(true));
        // One line more, to begin at one.
        self.offsets + most + LINE / size_of::<f32>()
    }
}

/// Floats of scratch that [`run`] needs. It does not depend on the number of rows.
pub(crate) fn scratch(isa: Isa, par: &dyn Parallel, dot: Dot, k: usize) -> usize {
    Layout::new(isa, dot, k).scratch(par)
}

/// Where rows of the left operand come from, as the bytes of their `k` elements.
pub(crate) trait Left: Sync {
    /// The bytes of row `r`: the operand's own or put into `work`, which is as long.
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8];

    /// Writes row `r` as lines, `step` bytes apart, and says so, if there is a shorter way than by `row`.
    ///
    /// # Safety
    /// `to` reaches the lines of a row that far apart.
    unsafe fn lines(&self, _r: usize, _to: *mut u8, _step: usize) -> bool {
        false
    }

    /// The first row and the bytes between rows, if all bytes of a row lie together.
    fn direct(&self) -> Option<(*const u8, usize)> {
        None
    }
}

/// What becomes of sums.
pub(crate) trait Finish: Sync {
    /// Takes the sums of `rows` and `cols`, which are in rows of `NR` at `sums`, and the sums of the
    /// (flipped) elements of each row of A if they were asked for.
    ///
    /// # Safety
    /// `sums` has as many rows and `row_sums` as many numbers as `rows`; no other task has these
    /// elements of the result.
    unsafe fn tile(
        &self,
        isa: Isa,
        rows: std::ops::Range<usize>,
        cols: std::ops::Range<usize>,
        sums: *const i32,
        row_sums: *const i32,
    );
}

/// A product of `[m, k]` by `[k, n]`.
#[derive(Copy, Clone)]
pub(crate) struct Product<'a> {
    pub dot: Dot,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub left: &'a dyn Left,
    /// Panels of B, `[n / NR][units][NR]` units.
    pub b: &'a [f32],
    /// XORed to each byte of A.
    pub flip: u8,
    /// Whether [`Finish`] needs the sums of rows.
    pub row_sums: bool,
}

/// Floats that the panels of a `[k, n]` right operand take.
pub(crate) fn panels_len(isa: Isa, dot: Dot, k: usize, n: usize) -> usize {
    let nr = dot.tile(isa).1;
    n.div_ceil(nr) * nr * dot.units(k)
}

/// Packs a `[k, n]` right operand; `at(kk, j)` gives the `4 / terms` bytes of an element, in the low
/// bits.
pub(crate) fn pack_panels(
    isa: Isa,
    par: &dyn Parallel,
    dot: Dot,
    k: usize,
    n: usize,
    at: impl Fn(usize, usize) -> u32 + Sync,
) -> Aligned {
    let (nr, units, terms) = (dot.tile(isa).1, dot.units(k), dot.terms());
    let bits = 32 / terms;
    let mut out = Aligned::zeroed(panels_len(isa, dot, k, n));
    let all = Shared::new(out.as_mut_slice());
    let pack = |p: usize| {
        // SAFETY: there are `NR` times `units` floats for each panel, and tasks have panels of their own.
        let panel = unsafe { all.part(p * nr * units, nr * units) };
        let cols = nr.min(n - p * nr);
        for (u, row) in panel.chunks_exact_mut(nr).enumerate() {
            for t in 0..terms.min(k.saturating_sub(u * terms)) {
                for (j, to) in row.iter_mut().enumerate().take(cols) {
                    let unit = at(u * terms + t, p * nr + j) << (t * bits);
                    *to = f32::from_bits(to.to_bits() | unit);
                }
            }
        }
    };
    par.run(if units == 0 { 0 } else { n.div_ceil(nr) }, &pack);
    out
}

/// Runs the product.
///
/// # Panics
/// When the scratch is shorter than [`scratch`] says.
pub(crate) fn run(
    isa: Isa,
    par: &dyn Parallel,
    p: &Product<'_>,
    finish: &dyn Finish,
    scratch: &mut [f32],
) {
    if p.m == 0 || p.n == 0 {
        return;
    }
    let layout = Layout::new(isa, p.dot, p.k);
    let need = layout.scratch(par);
    assert!(scratch.len() >= need, "the scratch holds {} floats, needs {need}", scratch.len());
    assert!(p.b.len() >= panels_len(isa, p.dot, p.k, p.n), "B is shorter than its panels");
    let at = scratch.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
    let (offsets, rest) = scratch[at..].split_at_mut(layout.offsets);
    let direct = direct(p, &layout);
    let step = if direct.is_some() { LINE } else { layout.mr * LINE };
    let offsets = Shared::new(offsets).ptr().cast::<usize>();
    for line in 0..layout.lines {
        // SAFETY: this part of the scratch begins at a line of the cache and has a word for each.
        unsafe { offsets.add(line).write(line * step) };
    }
    let driver = Driver { isa, p, finish, layout, offsets: Shared::of(offsets), direct };
    match 4 * p.b.len() <= LARGE_B || direct.is_some() {
        true => driver.by_rows(par, rest),
        false => driver.by_columns(par, rest),
    }
}

/// The operand itself, where a micro-kernel can read its rows: the first and the bytes between them.
fn direct(p: &Product<'_>, layout: &Layout) -> Option<(*const u8, usize)> {
    p.left.direct().filter(|&(first, step)| {
        // Whole tiles, whose rows are lines of the cache, but not of one set of it.
        p.dot.tiles()
            && p.flip == 0
            && p.k * p.dot.element() == LINE * layout.lines
            && p.m.is_multiple_of(LINE_UNITS)
            && p.n <= DIRECT_COLUMNS
            && first.addr().is_multiple_of(LINE)
            && step.is_multiple_of(LINE)
            && !step.is_multiple_of(2048)
    })
}

/// A product on its way.
struct Driver<'a> {
    isa: Isa,
    p: &'a Product<'a>,
    finish: &'a dyn Finish,
    layout: Layout,
    offsets: Shared<usize>,
    direct: Option<(*const u8, usize)>,
}

// SAFETY: the pointer is to the left operand, which is shared and only read.
unsafe impl Sync for Driver<'_> {}

/// Scratch of a task.
#[derive(Copy, Clone)]
struct Work {
    sums: *mut i32,
    row: *mut u8,
}

/// Rows of A as a micro-kernel reads them, and the sums of rows, from row `first` on.
#[derive(Copy, Clone)]
struct Rows {
    first: usize,
    a: *const u8,
    row_sums: *const i32,
}

// How a product is cut does not change a result: each sum is made in the order of K.
impl Driver<'_> {
    /// Parts of the work that are worth handing out.
    fn want(&self, par: &dyn Parallel, rows: usize) -> usize {
        let macs = rows.saturating_mul(self.p.n).saturating_mul(self.p.k);
        match par.threads() {
            1 => 1,
            threads => (macs / TASK_MACS).clamp(1, TASKS_EACH * threads),
        }
    }

    /// Tasks of rows, which copy what they need.
    fn by_rows(&self, par: &dyn Parallel, scratch: &mut [f32]) {
        let (m, layout) = (self.p.m, &self.layout);
        let blocks = m.div_ceil(layout.own).max(self.want(par, m));
        let step = m.div_ceil(blocks).next_multiple_of(layout.mr).min(layout.own);
        let [a, row_sums] = layout.left(layout.own);
        let slots = Slots::new(par, scratch, layout.each(true));
        all(par, m.div_ceil(step), &|t| {
            let rows = t * step..m.min((t + 1) * step);
            slots.with(|floats| {
                let (a, rest) = floats.split_at_mut(a);
                let (row_sums, rest) = rest.split_at_mut(row_sums);
                let work = self.work(rest);
                let (a, row_sums) =
                    (Shared::new(a).ptr().cast(), Shared::new(row_sums).ptr().cast());
                // SAFETY: the parts of the scratch have the lengths of the layout, which suit
                // `own` rows; tasks own different rows of the result.
                unsafe {
                    self.copy(rows.clone(), a, row_sums, work.row);
                    let a = match self.direct {
                        Some((first, step)) => first.wrapping_add(rows.start * step),
                        None => a.cast_const(),
                    };
                    let left = Rows { first: rows.start, a, row_sums };
                    self.multiply(left, rows, 0..self.p.n.div_ceil(layout.nr), work);
                }
            });
        });
    }

    /// Blocks of rows that are copied for all tasks, which have columns of their own.
    fn by_columns(&self, par: &dyn Parallel, scratch: &mut [f32]) {
        let (m, layout) = (self.p.m, &self.layout);
        let [a, row_sums] = layout.left(layout.shared);
        let (a, rest) = scratch.split_at_mut(a);
        let (row_sums, rest) = rest.split_at_mut(row_sums);
        let (a, row_sums) = (Shared::new(a), Shared::new(row_sums));
        let slots = Slots::new(par, rest, layout.each(false));
        let panels = self.p.n.div_ceil(layout.nr);
        for start in (0..m).step_by(layout.shared) {
            let rows = start..m.min(start + layout.shared);
            // Copying is worth handing out from some rows on.
            let want = (rows.len() * layout.lines).div_ceil(1024).min(4 * par.threads());
            let step = rows.len().div_ceil(want.max(1)).next_multiple_of(layout.mr);
            all(par, rows.len().div_ceil(step), &|t| {
                let from = t * step;
                let some = start + from..rows.end.min(start + from + step);
                slots.with(|floats| {
                    let to = a.ptr().cast::<u8>().wrapping_add(from * layout.lines * LINE);
                    let sums = row_sums.ptr().cast::<i32>().wrapping_add(from);
                    // SAFETY: the shared part has room for `shared` rows; tasks copy whole panels of
                    // their own.
                    unsafe { self.copy(some, to, sums, self.work(floats).row) };
                });
            });
            let want = self.want(par, rows.len()).min(panels.div_ceil(2)).max(1);
            let step = panels.div_ceil(want);
            all(par, panels.div_ceil(step), &|t| {
                slots.with(|floats| {
                    let (a, row_sums) = (a.ptr().cast(), row_sums.ptr().cast());
                    let left = Rows { first: start, a, row_sums };
                    let columns = t * step..panels.min((t + 1) * step);
                    // SAFETY: all rows are copied; tasks own different columns of the result.
                    unsafe { self.multiply(left, rows.clone(), columns, self.work(floats)) };
                });
            });
        }
    }

    /// The end of a task's scratch.
    fn work(&self, floats: &mut [f32]) -> Work {
        let (sums, row) = floats.split_at_mut(self.layout.sums);
        Work { sums: Shared::new(sums).ptr().cast(), row: Shared::new(row).ptr().cast() }
    }

    /// Copies `rows` of A as panels, and sums them if that is asked for.
    ///
    /// # Safety
    /// `to` and `row_sums` have room for the rows in whole panels, `row` for one row as it comes; no other
    /// task has these places.
    unsafe fn copy(
        &self,
        rows: std::ops::Range<usize>,
        to: *mut u8,
        row_sums: *mut i32,
        row: *mut u8,
    ) {
        let (p, Layout { mr, lines, .. }) = (self.p, self.layout);
        // SAFETY: as the caller promises.
        let row = unsafe { std::slice::from_raw_parts_mut(row, p.k * p.dot.element()) };
        if self.direct.is_some() && !p.row_sums {
            return;
        }
        for (i, r) in rows.enumerate() {
            // A panel has `lines` times `MR` lines, of which row `i` has every `MR`-th.
            let to = to.wrapping_add((i / mr * mr * lines + i % mr) * LINE);
            // SAFETY: as above; there is one sum for each row.
            unsafe {
                if !p.row_sums && p.left.lines(r, to, mr * LINE) {
                    continue;
                }
                let src = p.left.row(r, row);
                if p.row_sums {
                    row_sums.add(i).write(sum_bytes(p.dot, p.flip, src));
                }
                if self.direct.is_none() {
                    write_lines(p.dot, p.flip, src, to, mr * LINE, lines);
                }
            }
        }
    }

    /// The result's `rows` and panels of columns.
    ///
    /// # Safety
    /// `left` has these rows, in panels if they were copied; the scratch is as long as the layout says;
    /// no other task has these elements of the result.
    unsafe fn multiply(
        &self,
        left: Rows,
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        work: Work,
    ) {
        let (p, dot, isa) = (self.p, self.p.dot, self.isa);
        let Layout { mr, nr, units, lines, .. } = self.layout;
        let (a_row, a_panel) = match self.direct {
            Some((_, step)) => (step, mr * step),
            None => (LINE, mr * lines * LINE),
        };
        let _tiles = dot.configure(isa);
        for panel in panels {
            let cols = panel * nr..p.n.min((panel + 1) * nr);
            let panel = Panel {
                isa,
                dot,
                offsets: self.offsets.ptr(),
                a_row,
                b: p.b[panel * nr * units..][..nr * units].as_ptr().cast(),
                units,
                sums: work.sums,
            };
            let at = |i: usize| {
                let a = left.a.wrapping_add((rows.start - left.first + i) / mr * a_panel);
                [a, a.wrapping_add(LINE_UNITS * a_row)]
            };
            // SAFETY: panels or rows of A have all lines, a panel of B has `NR` for each unit; there is one
            // sum for each row of A.
            unsafe {
                panel.run(rows.len(), at, |i, n, sums| {
                    let at = rows.start + i..rows.start + i + n;
                    let row_sums = left.row_sums.wrapping_add(at.start - left.first);
                    self.finish.tile(isa, at, cols.clone(), sums, row_sums);
                });
            }
        }
    }
}

/// A panel of B, and rows of A as a micro-kernel reads them.
#[derive(Copy, Clone)]
pub(crate) struct Panel {
    pub isa: Isa,
    pub dot: Dot,
    /// See [`Tile`].
    pub offsets: *const usize,
    pub a_row: usize,
    pub b: *const u8,
    /// Units of B.
    pub units: usize,
    /// Room for [`sums`].
    pub sums: *mut i32,
}

impl Panel {
    /// The sums of `rows` rows: `at(i)` says where A is at row `i` and 16 rows further, `finish(i, n, sums)`
    /// takes rows `i..i + n`, at most `MR`, from rows of `NR` sums.
    ///
    /// # Safety
    /// A has all lines of its rows in whole tiles, B its units; the tiles are configured.
    #[inline(always)]
    pub(crate) unsafe fn run(
        self,
        rows: usize,
        at: impl Fn(usize) -> [*const u8; 2],
        finish: impl Fn(usize, usize, *const i32),
    ) {
        let (mr, nr) = self.dot.tile(self.isa);
        let sums = |i: usize| self.sums.wrapping_add(i / mr % 2 * mr * nr);
        for i in (0..rows).step_by(mr) {
            let Panel { isa, a_row, offsets, b, units, .. } = self;
            let rows = mr.min(rows - i);
            // SAFETY: as the caller promises; the sums have room for two tiles.
            unsafe {
                self.dot.run(isa, Tile { a: at(i), a_row, offsets, rows, b, units, c: sums(i) });
            }
            // The sums of the tile before have left its registers by now.
            if i > 0 {
                finish(i - mr, mr, sums(i - mr));
            }
        }
        let last = rows.saturating_sub(1) / mr * mr;
        finish(last, rows - last, sums(last));
    }
}

/// Runs `tasks`, one by the calling thread alone.
fn all(par: &dyn Parallel, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
    match tasks {
        1 => body(0),
        _ => par.run(tasks, body),
    }
}

/// Writes a row as lines, `step` bytes apart; what is missing in the last is zero.
///
/// # Safety
/// `to` reaches `lines` lines that far apart, and they hold the elements of `src`.
pub(crate) unsafe fn write_lines(
    dot: Dot,
    flip: u8,
    src: &[u8],
    to: *mut u8,
    step: usize,
    lines: usize,
) {
    let terms = match dot {
        Dot::Pairs { .. } => LINE / 2,
        _ => LINE,
    };
    debug_assert!(src.len() <= lines * terms, "{} bytes for {lines} lines", src.len());
    for l in 0..lines {
        // SAFETY: lines are `step` apart, each of `LINE` bytes of its own.
        let to = unsafe { std::slice::from_raw_parts_mut(to.add(l * step), LINE) };
        let from = &src[(l * terms).min(src.len())..((l + 1) * terms).min(src.len())];
        match dot {
            Dot::Pairs { signed } => {
                let mut wide = [0u8; LINE];
                for (to, &b) in wide.chunks_exact_mut(2).zip(from) {
                    let pair = if signed { i16::from(b as i8) as u16 } else { b.into() };
                    to.copy_from_slice(&pair.to_ne_bytes());
                }
                to.copy_from_slice(&wide);
            }
            _ if from.len() == LINE && flip == 0 => to.copy_from_slice(from),
            _ => {
                let mut line = [0u8; LINE];
                line[..from.len()].copy_from_slice(from);
                // Terms beyond K meet zeros of B.
                to.iter_mut().zip(line).for_each(|(to, b)| *to = b ^ flip);
            }
        }
    }
}

/// The sum of the flipped elements of a row of bytes.
fn sum_bytes(dot: Dot, flip: u8, row: &[u8]) -> i32 {
    let signed = match dot {
        Dot::Pairs { signed } => signed,
        #[cfg(target_arch = "x86_64")]
        Dot::AmxBytes { signed } => signed,
        _ => false,
    };
    // Blocks whose sum fits 16 bits vectorise well.
    let block = |b: &[u8]| -> i32 {
        match signed {
            true => b.iter().map(|&b| i32::from((b ^ flip) as i8)).sum(),
            false => b.iter().map(|&b| i32::from(b ^ flip)).sum(),
        }
    };
    row.chunks(4096).map(block).fold(0, i32::wrapping_add)
}

/// Runs `steps` rounds of independent multiply-adds in registers and returns how many operations
/// that was; see [`super::dot_peak`].
pub(crate) fn peak(isa: Isa, dot: Dot, steps: usize) -> f64 {
    match dot {
        Dot::Pairs { .. } => vector::pairs_peak(isa, steps),
        // SAFETY: whoever chose `dot` for `isa` knows that it has the instruction.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe {
            match dot {
                Dot::AvxVnni => vector::avx_vnni_peak(steps),
                Dot::Avx512Vnni => vector::avx512_vnni_peak(steps),
                Dot::Avx512Bf16 => vector::avx512_bf16_peak(steps),
                _ => amx::peak(isa, dot == Dot::AmxBf16, steps),
            }
        },
    }
}
