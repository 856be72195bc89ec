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
//!
//! # Truth values and reductions
//!
//! Within a program truth values are the numbers 0 and 1. Inputs of bytes are copied out as such, and
//! a result that is wanted as bytes is stored as bytes when its step has run. A step may fold the last
//! extent of the result; then a tile is whole rows, however long, and the step gives a number a row,
//! folded in the order of [`reduce`](crate::reduce).

use crate::Isa;
use crate::elementwise::{Binary, Unary, apply, apply2, select};
use crate::parallel::{Parallel, Shared, Slots, split};
use crate::reduce::{MaxFold, Reduce, SumFold, fold_row};
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
    /// The second operand where the first is not 0, else the third.
    Select(Operand, Operand, Operand),
    /// The sum, mean or maximum of each row of the result of an earlier step; an output, which no
    /// step reads.
    Fold(Reduce, usize),
}

impl Step {
    fn operands(&self) -> impl Iterator<Item = Operand> {
        match *self {
            Step::Unary(_, x) => [Some(x), None, None],
            Step::Binary(_, a, b) => [Some(a), Some(b), None],
            Step::Select(m, a, b) => [Some(m), Some(a), Some(b)],
            Step::Fold(_, x) => [Some(Operand::Step(x)), None, None],
        }
        .into_iter()
        .flatten()
    }
}

/// Where the result of a step is written.
#[derive(Copy, Clone, Debug)]
enum Place {
    Output(usize),
    /// A buffer, from which bytes are stored to an output if there is a second number.
    Buffer(usize, Option<usize>),
}

/// In what form an output is wanted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Floats.
    Float,
    /// A byte for each element, 0 where it is 0 and 1 elsewhere.
    Truth,
}

/// A checked sequence of steps and where their results go.
#[derive(Clone, Debug)]
pub struct Program {
    inputs: usize,
    steps: Vec<Step>,
    places: Vec<Place>,
    outputs: Vec<Output>,
    /// Tiles of workspace for results of steps.
    buffers: usize,
}

/// What is known of an output.
#[derive(Copy, Clone, Debug)]
struct Output {
    form: Form,
    /// Whether it has one element a row.
    folded: bool,
}

impl Program {
    /// A program of `inputs` inputs whose outputs are the results of the steps numbered `outputs`,
    /// in these forms.
    ///
    /// # Panics
    /// When a step reads what does not exist or what a fold gives, an output is no step or is named
    /// twice, a fold is no output of floats or not a sum, mean or maximum, or there are more than
    /// [`MAX_INPUTS`], [`MAX_STEPS`] or [`MAX_OUTPUTS`].
    pub fn new(inputs: usize, steps: Vec<Step>, outputs: &[(usize, Form)]) -> Program {
        assert!(
            inputs <= MAX_INPUTS && steps.len() <= MAX_STEPS && outputs.len() <= MAX_OUTPUTS,
            "region: {inputs} inputs, {} steps and {} outputs exceed {MAX_INPUTS}, {MAX_STEPS} and {MAX_OUTPUTS}",
            steps.len(),
            outputs.len()
        );
        let mut last = vec![0; steps.len()];
        let output = |i: usize| outputs.iter().position(|&(o, _)| o == i);
        for (i, step) in steps.iter().enumerate() {
            if let Step::Fold(how, _) = step {
                assert!(
                    matches!(how, Reduce::Sum | Reduce::Mean | Reduce::Max)
                        && output(i).is_some_and(|k| outputs[k].1 == Form::Float),
                    "region: step {i} folds by {how:?}, into output {:?}",
                    output(i)
                );
            }
            for operand in step.operands() {
                match operand {
                    Operand::Input(n) => {
                        assert!(n < inputs, "region: step {i} reads input {n} of {inputs}");
                    }
                    Operand::Step(n) => {
                        let folds = steps.get(n).is_some_and(|s| matches!(s, Step::Fold(..)));
                        assert!(n < i && !folds, "region: step {i} reads step {n}");
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
            for operand in step.operands() {
                if let Operand::Step(n) = operand
                    && last[n] == i
                    && let Place::Buffer(b, _) = places[n]
                    && !free.contains(&b)
                {
                    free.push(b);
                }
            }
            let named = outputs.iter().filter(|(o, _)| *o == i).count();
            assert!(named <= 1, "region: step {i} is named as an output {named} times");
            let bytes = output(i).filter(|&k| outputs[k].1 == Form::Truth);
            places.push(match output(i) {
                Some(k) if bytes.is_none() => Place::Output(k),
                _ => {
                    let buffer = free.pop().unwrap_or_else(|| {
                        buffers += 1;
                        buffers - 1
                    });
                    Place::Buffer(buffer, bytes)
                }
            });
            // A result that nobody reads is overwritten at once.
            if let (Place::Buffer(b, _), 0) = (places[i], last[i]) {
                free.push(b);
            }
        }
        let outputs = outputs.iter().map(|&(o, form)| {
            assert!(o < steps.len(), "region: output of step {o} of {}", steps.len());
            Output { form, folded: matches!(steps[o], Step::Fold(..)) }
        });
        let outputs = outputs.collect();
        Program { inputs, steps, places, outputs, buffers }
    }

    /// Whether a tile must be whole rows.
    pub fn folds(&self) -> bool {
        self.outputs.iter().any(|o| o.folded)
    }

    /// Tiles of scratch that [`region`] needs when run by `par`, each of [`tile`] floats, or of
    /// [`row_tile`] floats if the program [folds](Program::folds).
    pub fn scratch_tiles(&self, par: &dyn Parallel) -> usize {
        Slots::count(par) * (self.buffers + self.inputs)
    }
}

/// Floats of a tile for a result of `len` elements: [`TILE`], or `len` rounded up to [`TILE_STEP`].
pub fn tile(len: usize) -> usize {
    TILE.min(len.next_multiple_of(TILE_STEP))
}

/// As [`tile`], for tiles of whole rows of `cols`.
pub fn row_tile(len: usize, cols: usize) -> usize {
    TILE.max(cols).min(len).next_multiple_of(TILE_STEP)
}

/// Elements of an input.
#[derive(Copy, Clone, Debug)]
pub enum Data<'a> {
    /// Floats.
    Float(&'a [f32]),
    /// Truth values, bytes of 0 and 1.
    Truth(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::Float(v) => v.len(),
            Data::Truth(v) => v.len(),
        }
    }
}

/// Where an output goes; it has no gaps.
#[derive(Debug)]
pub enum Sink<'a> {
    /// Floats.
    Float(&'a mut [f32]),
    /// Truth values, bytes of 0 and 1.
    Truth(&'a mut [u8]),
}

/// An input: element `(i₀, i₁, …)` of the result reads `data[Σ iₖ strides[k]]`.
#[derive(Copy, Clone, Debug)]
pub struct Source<'a> {
    /// The elements.
    pub data: Data<'a>,
    /// A stride for each extent of the result; the last is 0 or 1.
    pub strides: &'a [usize],
}

/// Runs `program` over a result of the given extents, at least one; `outputs` have no gaps. An output
/// that is folded has one element for each row along the last extent.
///
/// # Panics
/// When an input or output does not fit the extents, their number or form is not the program's, the
/// last stride of an input is above 1, or the scratch is too short.
pub fn region(
    isa: Isa,
    par: &dyn Parallel,
    program: &Program,
    extents: &[usize],
    inputs: &[Source<'_>],
    outputs: &mut [Sink<'_>],
    scratch: &mut [f32],
) {
    let (&cols, outer) = extents.split_last().expect("region: a result has at least one extent");
    let len = extents.iter().product::<usize>();
    assert!(
        (inputs.len(), outputs.len()) == (program.inputs, program.outputs.len()),
        "region: {} inputs and {} outputs for a program of {} and {}",
        inputs.len(),
        outputs.len(),
        program.inputs,
        program.outputs.len()
    );
    for (i, source) in inputs.iter().enumerate() {
        assert_eq!(source.strides.len(), extents.len(), "region: strides of input {i}");
        assert!(source.strides[outer.len()] <= 1, "region: the last stride of input {i}");
        let last = extents.iter().zip(source.strides).map(|(&n, &s)| n.saturating_sub(1) * s);
        let need = if len == 0 { 0 } else { last.sum::<usize>() + 1 };
        assert!(
            source.data.len() >= need,
            "region: input {i} holds {} elements, the result reaches {need}",
            source.data.len()
        );
    }
    let rows = len.checked_div(cols).unwrap_or(0);
    let mut out = [Destination::Float(Shared::of(std::ptr::null_mut())); MAX_OUTPUTS];
    for (i, (to, known)) in outputs.iter_mut().zip(&program.outputs).enumerate() {
        let (have, form) = match to {
            Sink::Float(v) => (v.len(), Form::Float),
            Sink::Truth(v) => (v.len(), Form::Truth),
        };
        let want = if known.folded { rows } else { len };
        assert!(
            (have, form) == (want, known.form),
            "region: output {i} is {have} of {form:?}, expected {want} of {:?} for {extents:?}",
            known.form
        );
        out[i] = match to {
            Sink::Float(v) => Destination::Float(Shared::new(v)),
            Sink::Truth(v) => Destination::Truth(Shared::new(v)),
        };
    }
    if len == 0 {
        return;
    }
    let mut kinds = [Kind::Scalar; MAX_INPUTS];
    for (kind, source) in kinds.iter_mut().zip(inputs) {
        *kind = Kind::of(source, extents);
    }
    let tile = if program.folds() { row_tile(len, cols) } else { tile(len) };
    let slots = Slots::new(par, scratch, (program.buffers + program.inputs) * tile);
    let (pieces, rows_each) = match (cols >= TILE, program.folds()) {
        (true, true) => (1, 1),
        (true, false) => (cols.div_ceil(TILE), 1),
        (false, _) => (1, TILE / cols),
    };
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

/// Where an output starts.
#[derive(Copy, Clone)]
enum Destination {
    Float(Shared<f32>),
    Truth(Shared<u8>),
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
    out: [Destination; MAX_OUTPUTS],
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
                let step = source.strides[self.outer.len()];
                let copy = copies.wrapping_add(i * self.tile);
                // A row was copied for the first tile of the task, which is none the smaller.
                let fresh = tile == self.tiles.start;
                // SAFETY: `region` checked that the input reaches every element of the result, and
                // the tile is part of it; the copy of input `i` has `tile >= n` floats of its own.
                walks[i] = unsafe {
                    match (source.data, self.kinds[i]) {
                        (Data::Float(data), Kind::Dense) => (data.as_ptr().add(start), 1),
                        (Data::Float(data), Kind::Scalar) => (data.as_ptr(), 0),
                        (Data::Float(data), _) if rows == 1 => {
                            (data.as_ptr().add(self.at(source, row) + from * step), step)
                        }
                        (Data::Float(data), kind) => {
                            if !matches!(kind, Kind::Row) || fresh {
                                self.copy_rows(data, source, row, rows, copy);
                            }
                            (copy.cast_const(), 1)
                        }
                        (Data::Truth(data), Kind::Scalar) => {
                            *copy = f32::from(data[0] != 0);
                            (copy.cast_const(), 0)
                        }
                        (Data::Truth(data), Kind::Dense) => {
                            truths(&data[start..start + n], 1, copy, n);
                            (copy.cast_const(), 1)
                        }
                        (Data::Truth(data), _) => {
                            let each = n / rows;
                            for r in 0..rows {
                                let at = self.at(source, row + r) + from * step;
                                truths(&data[at..], step, copy.add(r * each), each);
                            }
                            (copy.cast_const(), 1)
                        }
                    }
                };
            }
            // SAFETY: each place has room for the tile: an output is as long as the result, or has
            // an element for each row, and this task owns the tile; buffers have `tile` floats.
            // Operands are inputs as above, or places that an earlier step wrote.
            unsafe { self.steps(s, &walks, buffers, start, n) };
        }
    }
}

/// Writes `n` truth values `step` apart, 0 or 1, as numbers.
///
/// # Safety
/// `n` floats are writable at `to`.
unsafe fn truths(from: &[u8], step: usize, to: *mut f32, n: usize) {
    // SAFETY: as the caller promises.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<std::mem::MaybeUninit<f32>>(), n) };
    if step == 0 {
        to.iter_mut().for_each(|v| {
            v.write(f32::from(from[0] != 0));
        });
    } else {
        to.iter_mut().zip(from).for_each(|(v, &b)| {
            v.write(f32::from(b != 0));
        });
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
    unsafe fn copy_rows(
        &self,
        data: &[f32],
        source: &Source<'_>,
        row: usize,
        rows: usize,
        to: *mut f32,
    ) {
        let step = source.strides[self.outer.len()];
        for r in 0..rows {
            // SAFETY: as the caller promises.
            unsafe {
                let from = data.as_ptr().add(self.at(source, row + r));
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
    /// Inputs reach `n` floats, or one where the stride is 0; outputs reach `start + n`, or the rows
    /// of these where they are folded; buffers hold `tile >= n` each.
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
            Place::Output(k) => match self.out[k] {
                // SAFETY: as the caller promises.
                Destination::Float(out) => unsafe { out.ptr().add(start) },
                Destination::Truth(_) => unreachable!("truth values are computed in a buffer"),
            },
            // SAFETY: as the caller promises.
            Place::Buffer(b, _) => unsafe { buffers.add(b * self.tile) },
        };
        let walk = |operand: &Operand| -> Walk {
            match operand {
                Operand::Input(i) => walks[*i],
                Operand::Step(k) => (place(*k).cast_const(), 1),
                Operand::Literal(v) => (v, 0),
            }
        };
        for (i, step) in self.program.steps.iter().enumerate() {
            if let (Step::Fold(how, x), Place::Output(k)) = (step, self.program.places[i]) {
                let Destination::Float(out) = self.out[k] else {
                    unreachable!("what is folded are floats")
                };
                let (x, rows) = (place(*x), n / self.cols);
                for r in 0..rows {
                    // SAFETY: tiles of programs that fold are whole rows; the step before wrote
                    // `n` floats, and the output has an element for each row of the result.
                    unsafe {
                        let x = x.add(r * self.cols).cast_const();
                        let y = out.ptr().add(start / self.cols + r);
                        s.vectorize(FoldRow { how: *how, x, n: self.cols, y });
                    }
                }
                continue;
            }
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
                Step::Select(m, a, b) => {
                    // SAFETY: as above.
                    unsafe { select(s, walk(m), walk(a), walk(b), y, n) };
                }
                Step::Fold(..) => unreachable!("what is folded is an output"),
            }
            if let Place::Buffer(_, Some(k)) = self.program.places[i]
                && let Destination::Truth(out) = self.out[k]
            {
                // SAFETY: the step wrote `n` floats; the output reaches `start + n` bytes.
                unsafe {
                    let from = std::slice::from_raw_parts(y.cast_const(), n);
                    let to = out.part(start, n);
                    to.iter_mut().zip(from).for_each(|(b, &v)| *b = u8::from(v != 0.0));
                }
            }
        }
    }
}

/// Folds `n` floats at `x` into `y`.
struct FoldRow {
    how: Reduce,
    x: *const f32,
    n: usize,
    y: *mut f32,
}

impl Kernel for FoldRow {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let FoldRow { how, x, n, y } = self;
        // SAFETY: whoever makes a `FoldRow` proves `n` readable floats and a writable one.
        unsafe {
            *y = match how {
                Reduce::Max => fold_row(s, MaxFold, x, n),
                Reduce::Mean => fold_row(s, SumFold, x, n) / n as f32,
                _ => fold_row(s, SumFold, x, n),
            };
        }
    }
}
