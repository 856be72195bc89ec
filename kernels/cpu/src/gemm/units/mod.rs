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
//! B is packed once as panels `[units][NR]`. A is packed by each task for its block of rows, as
//! panels `[units][MR]`, or, for tiles, as rows; tiles also read rows of the operand itself where
//! these are whole units. Sums go through a small buffer to a [`Finish`], which turns them into
//! what the caller wants while they are in the cache.

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
    /// A at its first unit: a panel, or rows `a_row` bytes apart.
    a: *const u8,
    a_row: usize,
    /// Rows that count, at most `MR`.
    rows: usize,
    b: *const u8,
    /// Units to walk; a multiple of 16 for tiles.
    units: usize,
    /// Sums, in rows of `NR`.
    c: *mut i32,
    /// Add to the sums instead of overwriting them.
    accumulate: bool,
}

/// Units that a tile of the AMX walks at a time: with these, a panel of B, and the sums of a block
/// of rows, stay in the first-level cache.
const AMX_BLOCK: usize = 128;
/// Units of one tile register.
const AMX_UNITS: usize = 16;
/// Bytes of A that a task packs at a time.
const A_BYTES: usize = 384 << 10;
/// Rows of A in one task, at most.
const A_ROWS: usize = 192;
const AMX_A_ROWS: usize = 128;
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
        if self.rows() { units.next_multiple_of(AMX_UNITS) } else { units }
    }

    /// Whether A is read as rows.
    fn rows(self) -> bool {
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
    unsafe fn run(self, isa: Isa, t: Tile) {
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

    /// Rows of A that a task takes at most.
    fn block_rows(self, isa: Isa, units: usize) -> usize {
        let mr = self.tile(isa).0;
        let most = if self.rows() { AMX_A_ROWS } else { A_ROWS };
        (A_BYTES / (4 * units).max(1)).clamp(mr, most) / mr * mr
    }

    /// Bytes between packed rows of A: one line more than the units, so that rows do not fall into
    /// the same sets of the cache.
    fn row_bytes(units: usize) -> usize {
        4 * units + 64
    }

    /// Floats of scratch of one task: A, the sums, the sums of rows, one row.
    fn work(self, isa: Isa, k: usize) -> [usize; 4] {
        let units = self.units(k);
        let (mr, nr) = self.tile(isa);
        let rows = self.block_rows(isa, units);
        let a = if self.rows() { Dot::row_bytes(units) / 4 } else { units };
        let sums = if self.rows() { rows * nr } else { mr * nr };
        let line = |floats: usize| floats.next_multiple_of(16);
        [line(rows * a), line(sums), line(rows), line(k * self.element() / 4 + 1)]
    }
}

/// Floats of scratch that [`run`] needs. It does not depend on the number of rows.
pub(crate) fn scratch(isa: Isa, par: &dyn Parallel, dot: Dot, k: usize) -> usize {
    // One line more, to begin at one.
    Slots::count(par) * dot.work(isa, k).iter().sum::<usize>() + 16
}

/// Where rows of the left operand come from, as the bytes of their `k` elements.
pub(crate) trait Left: Sync {
    /// The bytes of row `r`: the operand's own or put into `work`, which is as long.
    fn row<'a>(&'a self, r: usize, work: &'a mut [u8]) -> &'a [u8];

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
    dot: Dot,
    k: usize,
    n: usize,
    at: impl Fn(usize, usize) -> u32,
) -> Aligned {
    let (nr, units, terms) = (dot.tile(isa).1, dot.units(k), dot.terms());
    let bits = 32 / terms;
    let mut out = Aligned::zeroed(panels_len(isa, dot, k, n));
    let panels = out.as_mut_slice().chunks_exact_mut((nr * units).max(1));
    for (p, panel) in panels.enumerate() {
        let cols = nr.min(n - p * nr);
        for (u, row) in panel.chunks_exact_mut(nr).enumerate() {
            for (j, to) in row.iter_mut().enumerate().take(cols) {
                let mut unit = 0u32;
                for t in 0..terms.min(k.saturating_sub(u * terms)) {
                    unit |= at(u * terms + t, p * nr + j) << (t * bits);
                }
                *to = f32::from_bits(unit);
            }
        }
    }
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
    let need = self::scratch(isa, par, p.dot, p.k);
    assert!(scratch.len() >= need, "the scratch holds {} floats, needs {need}", scratch.len());
    assert!(p.b.len() >= panels_len(isa, p.dot, p.k, p.n), "B is shorter than its panels");
    let at = scratch.as_ptr().align_offset(64).min(16);
    let work = p.dot.work(isa, p.k);
    let slots = Slots::new(par, &mut scratch[at..], work.iter().sum());
    let tasks = Tasks::new(isa, p, par.threads());
    let body = |t: usize| {
        let (rows, panels) = tasks.get(t);
        slots.with(|floats| {
            let (a, rest) = floats.split_at_mut(work[0]);
            let (sums, rest) = rest.split_at_mut(work[1]);
            let (row_sums, row) = rest.split_at_mut(work[2]);
            let block = Block {
                isa,
                p,
                finish,
                a: Shared::new(a).ptr().cast(),
                sums: Shared::new(sums).ptr().cast(),
                row_sums: Shared::new(row_sums).ptr().cast(),
                row: Shared::new(row).ptr().cast(),
            };
            #[cfg(target_arch = "x86_64")]
            let _tiles = p.dot.rows().then(|| amx::Tiles::new(isa));
            // SAFETY: the parts of the scratch are as long as `work` says, which is what a block of
            // `block_rows` needs; tasks own different elements of the result.
            unsafe { block.run(rows, panels) };
        });
    };
    match tasks.count {
        1 => body(0),
        count => par.run(count, &body),
    }
}

/// Blocks of rows by ranges of panels. How they are cut does not change a result.
struct Tasks {
    count: usize,
    rows: usize,
    row_step: usize,
    panels: usize,
    panel_step: usize,
    row_tasks: usize,
}

impl Tasks {
    fn new(isa: Isa, p: &Product<'_>, threads: usize) -> Tasks {
        let (mr, nr) = p.dot.tile(isa);
        let most = p.dot.block_rows(isa, p.dot.units(p.k));
        let panels = p.n.div_ceil(nr);
        let macs = p.m.saturating_mul(p.n).saturating_mul(p.k);
        let want = if threads > 1 { (macs / TASK_MACS).clamp(1, TASKS_EACH * threads) } else { 1 };
        // Equal blocks of whole tiles.
        let blocks = p.m.div_ceil(most);
        let row_step = p.m.div_ceil(blocks).next_multiple_of(mr).min(most);
        let row_tasks = p.m.div_ceil(row_step);
        let panel_tasks = want.div_ceil(row_tasks).min(panels.div_ceil(2)).max(1);
        let panel_step = panels.div_ceil(panel_tasks);
        let panel_tasks = panels.div_ceil(panel_step);
        Tasks { count: row_tasks * panel_tasks, rows: p.m, row_step, panels, panel_step, row_tasks }
    }

    fn get(&self, t: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (r, p) = (t % self.row_tasks * self.row_step, t / self.row_tasks * self.panel_step);
        (r..(r + self.row_step).min(self.rows), p..(p + self.panel_step).min(self.panels))
    }
}

/// One task and its scratch.
struct Block<'a> {
    isa: Isa,
    p: &'a Product<'a>,
    finish: &'a dyn Finish,
    a: *mut u8,
    sums: *mut i32,
    row_sums: *mut i32,
    row: *mut u8,
}

impl Block<'_> {
    /// # Safety
    /// The scratch is as long as [`Dot::work`] says, `rows` are at most [`Dot::block_rows`], and no
    /// other task has these rows and panels.
    unsafe fn run(&self, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>) {
        let (p, dot) = (self.p, self.p.dot);
        let (mr, nr) = dot.tile(self.isa);
        let units = dot.units(p.k);
        // SAFETY: as the caller promises.
        let (a, a_row) = unsafe { self.left(rows.clone(), units) };
        let step = if dot.rows() { AMX_BLOCK } else { units.max(1) };
        for panel in panels {
            let b = p.b[panel * nr * units..][..nr * units].as_ptr().cast::<u8>();
            let cols = panel * nr..p.n.min((panel + 1) * nr);
            let mut from = 0;
            loop {
                let some = step.min(units - from);
                let last = from + some == units;
                for i in (0..rows.len()).step_by(mr) {
                    let count = mr.min(rows.len() - i);
                    // SAFETY: the panel or rows of A begin at row `i` and have all units; a
                    // panel of B has `NR` of them a unit; the sums have `NR` for each row of
                    // the block, or one tile where K is walked at once.
                    unsafe {
                        let sums = self.sums.add(if dot.rows() { i * nr } else { 0 });
                        let a = if dot.rows() {
                            a.add(i * a_row + 4 * from)
                        } else {
                            a.add(4 * (i * units + mr * from))
                        };
                        let b = b.add(4 * nr * from);
                        let accumulate = from > 0;
                        let t = Tile { a, a_row, rows: count, b, units: some, c: sums, accumulate };
                        dot.run(self.isa, t);
                        if last {
                            let at = rows.start + i;
                            let row_sums = self.row_sums.add(i);
                            self.finish.tile(
                                self.isa,
                                at..at + count,
                                cols.clone(),
                                sums,
                                row_sums,
                            );
                        }
                    }
                }
                from += some;
                if last {
                    break;
                }
            }
        }
    }

    /// The block of A: where it is, and bytes between its rows if these are rows.
    ///
    /// # Safety
    /// As for [`run`](Block::run).
    unsafe fn left(&self, rows: std::ops::Range<usize>, units: usize) -> (*const u8, usize) {
        let (p, dot) = (self.p, self.p.dot);
        let mr = dot.tile(self.isa).0;
        let bytes = p.k * dot.element();
        // SAFETY: `work` keeps room for the bytes of one row.
        let row = unsafe { std::slice::from_raw_parts_mut(self.row, bytes) };
        let direct = p.left.direct().filter(|&(first, step)| {
            // A whole number of tiles, whose rows are lines of the cache, but not of one set of it.
            dot.rows()
                && bytes == 4 * units
                && rows.len().is_multiple_of(AMX_UNITS)
                && first.addr().is_multiple_of(64)
                && step.is_multiple_of(64)
                && !step.is_multiple_of(2048)
        });
        if p.row_sums {
            for (i, r) in rows.clone().enumerate() {
                let sum = sum_bytes(dot, p.flip, p.left.row(r, row));
                // SAFETY: there is one sum for each row of a block.
                unsafe { self.row_sums.add(i).write(sum) };
            }
        }
        if let Some((first, step)) = direct {
            return (first.wrapping_add(rows.start * step), step);
        }
        let row_bytes = Dot::row_bytes(units);
        for (i, r) in rows.enumerate() {
            let src = p.left.row(r, row);
            if dot.rows() {
                // SAFETY: rows of the block are `row_bytes` apart, which is more than their units.
                let to =
                    unsafe { std::slice::from_raw_parts_mut(self.a.add(i * row_bytes), 4 * units) };
                to[..bytes].copy_from_slice(src);
                to[bytes..].fill(0);
            } else {
                let at = 4 * (i / mr * mr * units + i % mr);
                // SAFETY: panel `i / mr` has `units` of `mr`, of which row `i` has every `mr`-th.
                unsafe { spread(dot, p.flip, src, self.a.add(at).cast(), mr, units) };
            }
        }
        (self.a, row_bytes)
    }
}

/// Writes a row as units, `step` apart.
///
/// # Safety
/// `to` reaches `units` numbers that far apart, and `units` hold the elements of `src`.
unsafe fn spread(dot: Dot, flip: u8, src: &[u8], to: *mut u32, step: usize, units: usize) {
    // SAFETY: `u < units` for every write, as there is a unit for every chunk.
    let put = |u: usize, unit: u32| unsafe {
        debug_assert!(u < units);
        to.add(u * step).write_unaligned(unit);
    };
    match dot {
        Dot::Pairs { signed } => {
            let wide = |b: u8| u32::from(if signed { i16::from(b as i8) as u16 } else { b.into() });
            let chunks = src.chunks_exact(2);
            if let [last] = chunks.remainder() {
                put(units - 1, wide(*last));
            }
            for (u, pair) in chunks.enumerate() {
                put(u, wide(pair[0]) | wide(pair[1]) << 16);
            }
        }
        _ => {
            let mask = u32::from_ne_bytes([flip; 4]);
            let chunks = src.chunks_exact(4);
            let rest = chunks.remainder();
            if !rest.is_empty() {
                let mut unit = [0; 4];
                unit[..rest.len()].copy_from_slice(rest);
                // Terms beyond K meet zeros of B.
                put(units - 1, u32::from_ne_bytes(unit) ^ mask);
            }
            for (u, c) in chunks.enumerate() {
                put(u, u32::from_ne_bytes([c[0], c[1], c[2], c[3]]) ^ mask);
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
