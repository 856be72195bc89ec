//! Programs of elementwise functions: one pass over memory for many steps.
//!
//! # Idea
//!
//! The result is cut into tiles that fit the first-level cache. For each tile, the steps run one
//! after the other over workspace of that size, so what passes between steps never leaves the cache
//! and memory is read and written once. Each step is the loop of [`elementwise`](crate::elementwise)
//! over the tile: its bits are those of the separate kernels.
//!
//! # Broadcasting
//!
//! The result has extents, and each input has a stride for each of them: 0 where it repeats, and 0
//! or 1 along the last. A tile is a piece of one row where rows are long; then every input is a
//! pointer and a stride of 0 or 1. Where rows are short a tile is several whole rows, and an input
//! that repeats along some extents but not along all is first copied out to the size of the tile.

use crate::Isa;
use crate::elementwise::{Binary, Unary, apply, apply2};
use crate::parallel::{Parallel, Shared, Slots, split};
use crate::simd::{Kernel, Simd};

/// The most floats of a tile: with a few results of steps it stays in the first-level cache.
pub const TILE: usize = 2048;
/// Floats to which the tile of a small result is rounded up.
pub const TILE_STEP: usize = 16;
/// Tiles of one task.
const TASK_TILES: usize = 8;
/// Most inputs of a program.
pub const MAX_INPUTS: usize = 16;
/// Most steps of a program.
pub const MAX_STEPS: usize = 64;
/// Most outputs of a program.
pub const MAX_OUTPUTS: usize = 8;

/// What a step reads.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Operand {
    /// An input, by number.
    Input(usize),
    /// The result of an earlier step, by number.
    Step(usize),
    /// A number.
    Literal(f32),
}

/// One function of a program.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Step {
    /// A function of one operand.
    Unary(Unary, Operand),
    /// A function of two operands.
    Binary(Binary, Operand, Operand),
}

impl Step {
    fn operands(&self) -> impl Iterator<Item = Operand> {
        match *self {
            Step::Unary(_, x) => [Some(x), None],
            Step::Binary(_, a, b) => [Some(a), Some(b)],
        }
        .into_iter()
        .flatten()
    }
}

/// Where the result of a step is written.
#[derive(Copy, Clone, Debug)]
enum Place {
    Output(usize),
    Buffer(usize),
}

/// A checked sequence of steps and where their results go.
#[derive(Clone, Debug)]
pub struct Program {
    inputs: usize,
    steps: Vec<Step>,
    places: Vec<Place>,
    outputs: usize,
    /// Tiles of workspace for results of steps.
    buffers: usize,
}

impl Program {
    /// A program of `inputs` inputs whose outputs are the results of the steps numbered `outputs`.
    ///
    /// # Panics
    /// When a step reads what does not exist, an output is no step or is named twice, or there are
    /// more than [`MAX_INPUTS`], [`MAX_STEPS`] or [`MAX_OUTPUTS`].
    pub fn new(inputs: usize, steps: Vec<Step>, outputs: &[usize]) -> Program {
        assert!(
            inputs <= MAX_INPUTS && steps.len() <= MAX_STEPS && outputs.len() <= MAX_OUTPUTS,
            "region: {inputs} inputs, {} steps and {} outputs exceed {MAX_INPUTS}, {MAX_STEPS} and {MAX_OUTPUTS}",
            steps.len(),
            outputs.len()
        );
        let mut last = vec![0; steps.len()];
        for (i, step) in steps.iter().enumerate() {
            for operand in step.operands() {
                match operand {
                    Operand::Input(n) => {
                        assert!(n < inputs, "region: step {i} reads input {n} of {inputs}");
                    }
                    Operand::Step(n) => {
                        assert!(n < i, "region: step {i} reads step {n}");
                        last[n] = i;
                    }
                    Operand::Literal(_) => {}
                }
            }
        }
        let mut places = Vec::with_capacity(steps.len());
        let (mut free, mut buffers) = (Vec::new(), 0);
        for (i, step) in steps.iter().enumerate() {
            // A step may write over an operand that it reads last: elements are read first.
            for (k, operand) in step.operands().enumerate() {
                if let Operand::Step(n) = operand
                    && last[n] == i
                    && let Place::Buffer(b) = places[n]
                    && !(k == 1 && step.operands().next() == Some(operand))
                {
                    free.push(b);
                }
            }
            let named = outputs.iter().filter(|&&o| o == i).count();
            assert!(named <= 1, "region: step {i} is named as an output {named} times");
            places.push(match outputs.iter().position(|&o| o == i) {
                Some(k) => Place::Output(k),
                None => Place::Buffer(free.pop().unwrap_or_else(|| {
                    buffers += 1;
                    buffers - 1
                })),
            });
            // A result that nobody reads is overwritten at once.
            if let (Place::Buffer(b), 0) = (places[i], last[i]) {
                free.push(b);
            }
        }
        for &o in outputs {
            assert!(o < steps.len(), "region: output of step {o} of {}", steps.len());
        }
        Program { inputs, steps, places, outputs: outputs.len(), buffers }
    }

    /// Tiles of scratch that [`region`] needs when run by `par`, each of [`tile`] floats.
    pub fn scratch_tiles(&self, par: &dyn Parallel) -> usize {
        Slots::count(par) * (self.buffers + self.inputs)
    }
}

/// Floats of a tile for a result of `len` elements: [`TILE`], or `len` rounded up to [`TILE_STEP`].
pub fn tile(len: usize) -> usize {
    TILE.min(len.next_multiple_of(TILE_STEP))
}

/// An input: element `(i₀, i₁, …)` of the result reads `data[Σ iₖ strides[k]]`.
#[derive(Copy, Clone, Debug)]
pub struct Source<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// A stride for each extent of the result; the last is 0 or 1.
    pub strides: &'a [usize],
}

/// Runs `program` over a result of the given extents, at least one; `outputs` have no gaps.
///
/// # Panics
/// When an input or output does not fit the extents, their number is not the program's, the last
/// stride of an input is above 1, or the scratch is too short.
pub fn region(
    isa: Isa,
    par: &dyn Parallel,
    program: &Program,
    extents: &[usize],
    inputs: &[Source<'_>],
    outputs: &mut [&mut [f32]],
    scratch: &mut [f32],
) {
    let (&cols, outer) = extents.split_last().expect("region: a result has at least one extent");
    let len = extents.iter().product::<usize>();
    assert!(
        (inputs.len(), outputs.len()) == (program.inputs, program.outputs),
        "region: {} inputs and {} outputs for a program of {} and {}",
        inputs.len(),
        outputs.len(),
        program.inputs,
        program.outputs
    );
    for (i, source) in inputs.iter().enumerate() {
        assert_eq!(source.strides.len(), extents.len(), "region: strides of input {i}");
        assert!(source.strides[outer.len()] <= 1, "region: the last stride of input {i}");
        let last = extents.iter().zip(source.strides).map(|(&n, &s)| n.saturating_sub(1) * s);
        let need = if len == 0 { 0 } else { last.sum::<usize>() + 1 };
        assert!(
            source.data.len() >= need,
            "region: input {i} holds {} floats, the result reaches {need}",
            source.data.len()
        );
    }
    for (i, out) in outputs.iter().enumerate() {
        assert_eq!(out.len(), len, "region: length of output {i} against extents {extents:?}");
    }
    if len == 0 {
        return;
    }
    let mut out = [Shared::of(std::ptr::null_mut()); MAX_OUTPUTS];
    for (to, from) in out.iter_mut().zip(outputs) {
        *to = Shared::new(from);
    }
    let mut kinds = [Kind::Scalar; MAX_INPUTS];
    for (kind, source) in kinds.iter_mut().zip(inputs) {
        *kind = Kind::of(source, extents);
    }
    let tile = tile(len);
    let slots = Slots::new(par, scratch, (program.buffers + program.inputs) * tile);
    let rows = len / cols;
    let (pieces, rows_each) =
        if cols >= TILE { (cols.div_ceil(TILE), 1) } else { (1, TILE / cols) };
    let tiles = rows.div_ceil(rows_each) * pieces;
    split(par, tiles, TASK_TILES, &|first, count| {
        slots.with(|work| {
            isa.dispatch(Task {
                program,
                outer,
                cols,
                rows,
                pieces,
                rows_each,
                inputs,
                kinds,
                out,
                work,
                tile,
                tiles: first..first + count,
            });
        });
    });
}

/// How an input lies against the result.
#[derive(Copy, Clone)]
enum Kind {
    /// One value.
    Scalar,
    /// Like the result.
    Dense,
    /// Every row of the result reads the same row.
    Row,
    /// Anything else.
    Strided,
}

impl Kind {
    fn of(source: &Source<'_>, extents: &[usize]) -> Kind {
        let mut step = 1;
        let mut dense = true;
        for (&n, &s) in extents.iter().zip(source.strides).rev() {
            dense &= n == 1 || s == step;
            step *= n;
        }
        let moves = |(&n, &s): (&usize, &usize)| n > 1 && s > 0;
        let outer = extents.len() - 1;
        let rows = extents[..outer].iter().zip(source.strides).any(moves);
        match (dense, rows, source.strides[outer]) {
            (true, ..) => Kind::Dense,
            (_, false, 0) => Kind::Scalar,
            (_, false, _) => Kind::Row,
            _ => Kind::Strided,
        }
    }
}

/// Some tiles of a region.
struct Task<'a> {
    program: &'a Program,
    outer: &'a [usize],
    cols: usize,
    rows: usize,
    /// Tiles of one row, and rows of one tile; one of them is 1.
    pieces: usize,
    rows_each: usize,
    inputs: &'a [Source<'a>],
    kinds: [Kind; MAX_INPUTS],
    out: [Shared<f32>; MAX_OUTPUTS],
    work: &'a mut [f32],
    /// Floats of a tile of the work.
    tile: usize,
    tiles: std::ops::Range<usize>,
}

/// A pointer and its stride, 0 or 1.
type Walk = (*const f32, usize);

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let buffers = self.work.as_mut_ptr();
        let copies = buffers.wrapping_add(self.program.buffers * self.tile);
        for tile in self.tiles.clone() {
            let (row, piece) = (tile / self.pieces * self.rows_each, tile % self.pieces);
            let rows = self.rows_each.min(self.rows - row);
            let from = piece * TILE;
            let n = if self.pieces > 1 { TILE.min(self.cols - from) } else { rows * self.cols };
            let start = row * self.cols + from;
            let mut walks: [Walk; MAX_INPUTS] = [(std::ptr::null(), 0); MAX_INPUTS];
            for (i, source) in self.inputs.iter().enumerate() {
                let (data, step) = (source.data.as_ptr(), source.strides[self.outer.len()]);
                // SAFETY: `region` checked that the input reaches every element of the result, and
                // the tile is part of it; the copy of input `i` has `tile >= n` floats of its own.
                // A row was copied for the first tile of the task, which is none the smaller.
                walks[i] = unsafe {
                    match self.kinds[i] {
                        Kind::Dense => (data.add(start), 1),
                        Kind::Scalar => (data, 0),
                        _ if rows == 1 => (data.add(self.at(source, row) + from * step), step),
                        kind => {
                            let copy = copies.add(i * self.tile);
                            if !matches!(kind, Kind::Row) || tile == self.tiles.start {
                                self.copy_rows(source, row, rows, copy);
                            }
                            (copy.cast_const(), 1)
                        }
                    }
                };
            }
            // SAFETY: each place has room for the tile: an output is as long as the result, of
            // which this task owns the tile; buffers have `tile` floats. Operands are inputs as
            // above, or places that an earlier step wrote.
            unsafe { self.steps(s, &walks, buffers, start, n) };
        }
    }
}

impl Task<'_> {
    /// Where row `row` of an input starts.
    fn at(&self, source: &Source<'_>, mut row: usize) -> usize {
        let mut at = 0;
        for (&extent, &stride) in self.outer.iter().zip(source.strides).rev() {
            at += row % extent * stride;
            row /= extent;
        }
        at
    }

    /// Writes `rows` rows of an input from `row` on one after the other.
    ///
    /// # Safety
    /// The input reaches these rows, and `to` has room for them.
    unsafe fn copy_rows(&self, source: &Source<'_>, row: usize, rows: usize, to: *mut f32) {
        let step = source.strides[self.outer.len()];
        for r in 0..rows {
            // SAFETY: as the caller promises.
            unsafe {
                let from = source.data.as_ptr().add(self.at(source, row + r));
                let to = to.add(r * self.cols);
                if step == 1 {
                    std::ptr::copy_nonoverlapping(from, to, self.cols);
                } else {
                    std::slice::from_raw_parts_mut(to, self.cols).fill(*from);
                }
            }
        }
    }

    /// Runs all steps over the tile of `n` elements at `start`.
    ///
    /// # Safety
    /// Inputs reach `n` floats, or one where the stride is 0; outputs reach `start + n`; buffers
    /// hold `tile >= n` each.
    #[inline(always)]
    unsafe fn steps<S: Simd>(
        &self,
        s: S,
        walks: &[Walk; MAX_INPUTS],
        buffers: *mut f32,
        start: usize,
        n: usize,
    ) {
        let place = |step: usize| match self.program.places[step] {
            // SAFETY: as the caller promises.
            Place::Output(k) => unsafe { self.out[k].ptr().add(start) },
            // SAFETY: as the caller promises.
            Place::Buffer(b) => unsafe { buffers.add(b * self.tile) },
        };
        let walk = |operand: &Operand| -> Walk {
            match operand {
                Operand::Input(i) => walks[*i],
                Operand::Step(k) => (place(*k).cast_const(), 1),
                Operand::Literal(v) => (v, 0),
            }
        };
        for (i, step) in self.program.steps.iter().enumerate() {
            let y = place(i);
            match step {
                Step::Unary(op, x) => {
                    let (x, stride) = walk(x);
                    // SAFETY: operand and place reach `n` floats; a repeated one is written out
                    // first and computed in place.
                    unsafe {
                        if stride == 0 {
                            std::slice::from_raw_parts_mut(y, n).fill(*x);
                            apply(s, *op, y, y, n);
                        } else {
                            apply(s, *op, x, y, n);
                        }
                    }
                }
                Step::Binary(op, a, b) => {
                    // SAFETY: as above.
                    unsafe { apply2(s, *op, walk(a), walk(b), y, n) };
                }
            }
        }
    }
}
