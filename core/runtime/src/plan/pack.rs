//! Where blocks of bytes lie in one arena, for every shape at once.
//!
//! A block has a size, which is a formula, and a lifetime, which is a range of steps.
//! What is decided once is not an offset but an order: of two blocks that live at the
//! same time, which one is below. Given sizes, a block lies on the highest end of the
//! blocks directly below it. So no two live blocks overlap whatever the sizes are, the
//! offsets for a shape take one pass over a short list, and both offsets and the size of
//! the arena are formulas: maxima of sums.
//!
//! The order is taken from packings of a few sample shapes (largest block first, and in
//! order of time, each into the tightest gap); the one that does best over all samples
//! is kept. For a shape that it does not suit, blocks are packed anew from their actual
//! sizes, and the smaller arena is used. Rejected: a list of slots, each as large as the
//! largest block it ever holds, because blocks of different sizes cannot share bytes.

use deepseek_graph::{Bindings, Bounds, CompiledDim, Dim, DimError, Symbol};
use deepseek_tensor::{Result, err};
use std::collections::{BTreeSet, HashMap};

/// Blocks start on this boundary, in bytes, and their sizes are multiples of it.
pub(crate) const ALIGNMENT: i64 = 64;

/// Pairs of blocks that live at the same time, beyond which shapes are not packed anew:
/// that must stay far below a millisecond.
const MAX_CONFLICTS: usize = 40_000;

/// Maxima over more formulas than this are folded into one formula while offsets are
/// derived, so that the number of cases stays small.
const MAX_CASES: usize = 24;

/// Cases of a formula that is kept short.
const MAX_SHORT_CASES: usize = 4;

/// Proofs that one formula may take, so that it is there in a second at most.
const MAX_PROOFS: usize = 4_000;

/// Shapes at which formulas are compared before a proof is tried.
const SAMPLES: usize = 8;

/// Values of symbols in these shapes, within their bounds.
const LEVELS: [i64; 7] = [1, 48, 3, 384, 2, 100, 9];

/// A span of the arena during some steps.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Size, a multiple of [`ALIGNMENT`].
    pub bytes: Dim,
    /// First step it is alive in.
    pub first: usize,
    /// Last step it is alive in.
    pub last: usize,
}

/// Blocks and the order they are stacked in; see the module's head.
pub(crate) struct Packing {
    blocks: Vec<Block>,
    /// Index of each block's size in `formulas`.
    size: Vec<usize>,
    /// The different sizes.
    formulas: Vec<CompiledDim>,
    /// Blocks, each after those below it.
    order: Vec<usize>,
    /// For each block, some that are below it: all others follow from theirs.
    below: Vec<Vec<usize>>,
    /// For each block, those alive with it; `None` where they are too many.
    conflicts: Option<Vec<Vec<usize>>>,
}

/// Offsets for one shape.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// Offset of each block, in bytes.
    pub offsets: Vec<usize>,
    /// Size of each block, in bytes.
    pub sizes: Vec<usize>,
    /// Size of the arena, in bytes.
    pub bytes: usize,
    /// Whether this shape was packed anew, smaller than the formula says.
    pub specialised: bool,
}

impl Packing {
    /// Decides the order of `blocks` over `symbols` that lie within `bounds`.
    pub fn new(blocks: Vec<Block>, symbols: &[Symbol], bounds: &Bounds) -> Self {
        let mut index: HashMap<&Dim, usize> = HashMap::new();
        let mut formulas: Vec<CompiledDim> = Vec::new();
        let size = blocks
            .iter()
            .map(|b| {
                *index.entry(&b.bytes).or_insert_with(|| {
                    formulas.push(b.bytes.compile(symbols));
                    formulas.len() - 1
                })
            })
            .collect();
        let conflicts = conflicts(&blocks);
        let mut packing =
            Packing { size, formulas, order: Vec::new(), below: Vec::new(), conflicts, blocks };
        packing.choose_order(&samples(symbols, bounds));
        packing
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn choose_order(&mut self, samples: &[Vec<i64>]) {
        let shapes: Vec<Vec<usize>> =
            samples.iter().filter_map(|values| self.sizes(values).ok()).collect();
        let equal = vec![vec![ALIGNMENT as usize; self.blocks.len()]];
        let shapes = if shapes.is_empty() { equal } else { shapes };
        let least: Vec<usize> = shapes.iter().map(|sizes| self.most_alive(sizes)).collect();
        let mut best = f64::INFINITY;
        for sizes in &shapes {
            for offsets in self.packings(sizes) {
                let (order, below) = self.stack(&offsets);
                let score: f64 = shapes
                    .iter()
                    .zip(&least)
                    .map(|(sizes, &least)| {
                        let (_, bytes) = rise(&order, &below, sizes);
                        (bytes.max(1) as f64 / least.max(1) as f64).ln()
                    })
                    .sum();
                if score < best {
                    (best, self.order, self.below) = (score, order, below);
                }
                if score <= 0.0 {
                    return;
                }
            }
        }
    }

    /// Size of each block for values in the order of the symbols.
    fn sizes(&self, values: &[i64]) -> Result<Vec<usize>> {
        let each = self
            .formulas
            .iter()
            .map(|f| {
                let n = f.eval(values);
                let n = n.map_err(|e| err!(InvalidArgument, "planned size {}: {e}", f.source()))?;
                usize::try_from(n)
                    .map_err(|_| err!(InvalidArgument, "planned size {} is {n}", f.source()))
            })
            .collect::<Result<Vec<_>>>()?;
        let total = self.size.iter().try_fold(0usize, |sum, &i| sum.checked_add(each[i]));
        total.ok_or_else(|| err!(OutOfMemory, "an arena beyond the address space"))?;
        Ok(self.size.iter().map(|&i| each[i]).collect())
    }

    /// Offsets for values in the order of the symbols.
    ///
    /// # Errors
    /// `InvalidArgument` for a size without a value, `OutOfMemory` beyond the address space.
    pub fn place(&self, values: &[i64]) -> Result<Placement> {
        let sizes = self.sizes(values)?;
        let (offsets, bytes) = rise(&self.order, &self.below, &sizes);
        let mut placement = Placement { offsets, bytes, specialised: false, sizes };
        if self.conflicts.is_some() && bytes > self.most_alive(&placement.sizes) {
            for offsets in self.packings(&placement.sizes) {
                let ends = offsets.iter().zip(&placement.sizes).map(|(at, n)| at + n);
                let bytes = ends.max().unwrap_or(0);
                if bytes < placement.bytes {
                    placement =
                        Placement { offsets, bytes, specialised: true, sizes: placement.sizes };
                }
            }
        }
        Ok(placement)
    }

    /// A placement that suffices for every shape within `bounds`: each block at the most
    /// that its formula can give. `None` where a size has no maximum.
    pub fn worst(&self, bounds: &Bounds) -> Option<Placement> {
        let each: Vec<usize> = self
            .formulas
            .iter()
            .map(|f| usize::try_from(f.source().range(bounds).max?).ok())
            .collect::<Option<_>>()?;
        let sizes: Vec<usize> = self.size.iter().map(|&i| each[i]).collect();
        sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n))?;
        let (offsets, bytes) = rise(&self.order, &self.below, &sizes);
        Some(Placement { offsets, sizes, bytes, specialised: false })
    }

    /// Size of the arena as a formula: what [`Packing::place`] gives, unless it packs the
    /// shape anew and smaller.
    pub fn formula(&self, bounds: &Bounds) -> Formula {
        Formula::of(bounds, |cases| self.largest_end(cases))
    }

    /// A short formula that the arena is never larger than.
    pub fn formula_bound(&self, bounds: &Bounds) -> Dim {
        self.largest_end(&mut Cases::new(bounds, true))
    }

    /// The highest end of a block.
    fn largest_end(&self, cases: &mut Cases) -> Dim {
        let sizes: Vec<usize> =
            self.formulas.iter().map(|f| cases.intern_size(f.source())).collect();
        let mut ends: Vec<Vec<usize>> = vec![Vec::new(); self.blocks.len()];
        let mut covered = vec![false; self.blocks.len()];
        let zero = cases.intern_size(&Dim::default());
        for &b in &self.order {
            let mut starts = if self.below[b].is_empty() { vec![zero] } else { Vec::new() };
            for &under in &self.below[b] {
                covered[under] = true;
                for &end in &ends[under] {
                    cases.keep_largest(&mut starts, end);
                }
            }
            let size = sizes[self.size[b]];
            ends[b] = starts.iter().map(|&start| cases.plus(start, size)).collect();
        }
        let mut tops = vec![zero];
        for &end in (0..ends.len()).filter(|&b| !covered[b]).flat_map(|b| &ends[b]) {
            cases.keep_largest(&mut tops, end);
        }
        cases.maximum(&tops)
    }

    /// Most bytes that are alive in one step: no packing is smaller.
    fn most_alive(&self, sizes: &[usize]) -> usize {
        self.alive(sizes).into_iter().max().unwrap_or(0)
    }

    /// Bytes alive in each step.
    pub fn alive(&self, sizes: &[usize]) -> Vec<usize> {
        let steps = self.blocks.iter().map(|b| b.last + 1).max().unwrap_or(0);
        let (mut born, mut dead) = (vec![0usize; steps], vec![0usize; steps + 1]);
        for (block, &bytes) in self.blocks.iter().zip(sizes) {
            born[block.first] += bytes;
            dead[block.last + 1] += bytes;
        }
        let mut now = 0;
        born.iter()
            .zip(&dead)
            .map(|(born, dead)| {
                now = now + born - dead;
                now
            })
            .collect()
    }

    /// Offsets by different rules, for given sizes.
    fn packings(&self, sizes: &[usize]) -> Vec<Vec<usize>> {
        let by_size = self.conflicts.as_ref().map(|c| self.pack_by_size(sizes, c));
        by_size.into_iter().chain([self.pack_by_time(sizes)]).collect()
    }

    /// The largest first, each into the tightest gap between those alive with it.
    fn pack_by_size(&self, sizes: &[usize], conflicts: &[Vec<usize>]) -> Vec<usize> {
        let mut by_size: Vec<usize> = (0..sizes.len()).collect();
        let span = |b: usize| self.blocks[b].last - self.blocks[b].first;
        by_size.sort_by_key(|&b| (std::cmp::Reverse((sizes[b], span(b))), b));
        let mut offsets = vec![usize::MAX; sizes.len()];
        let mut taken = Vec::new();
        for b in by_size {
            taken.clear();
            let placed = conflicts[b].iter().filter(|&&c| offsets[c] != usize::MAX);
            taken.extend(placed.map(|&c| (offsets[c], offsets[c] + sizes[c])));
            taken.sort_unstable();
            offsets[b] = tightest_gap(&taken, sizes[b]);
        }
        offsets
    }

    /// In order of time, and the largest of a step first, into the tightest gap.
    fn pack_by_time(&self, sizes: &[usize]) -> Vec<usize> {
        let mut offsets = vec![0; sizes.len()];
        let mut alive: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut taken = Vec::new();
        self.sweep(sizes, |b, begins| {
            if begins {
                taken.clear();
                taken.extend(alive.iter().map(|&(at, c)| (at, at + sizes[c])));
                offsets[b] = tightest_gap(&taken, sizes[b]);
                alive.insert((offsets[b], b));
            } else {
                alive.remove(&(offsets[b], b));
            }
        });
        offsets
    }

    /// The order that `offsets` stack the blocks in: neighbours whenever one comes or goes.
    fn stack(&self, offsets: &[usize]) -> (Vec<usize>, Vec<Vec<usize>>) {
        let mut below: Vec<Vec<usize>> = vec![Vec::new(); offsets.len()];
        let mut put = |under: usize, over: usize| {
            if !below[over].contains(&under) {
                below[over].push(under);
            }
        };
        let mut alive: BTreeSet<(usize, usize)> = BTreeSet::new();
        self.sweep(&[], |b, begins| {
            let key = (offsets[b], b);
            if !begins {
                alive.remove(&key);
            }
            let under = alive.range(..key).next_back().map(|k| k.1);
            let over = alive.range(key..).next().map(|k| k.1);
            if begins {
                under.into_iter().for_each(|u| put(u, b));
                over.into_iter().for_each(|o| put(b, o));
                alive.insert(key);
            } else if let (Some(u), Some(o)) = (under, over) {
                put(u, o);
            }
        });
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_unstable_by_key(|&b| (offsets[b], b));
        (order, below)
    }

    /// Calls `visit(block, true)` as each block begins and `visit(block, false)` after its
    /// last step, in order of time; of one step the largest begins first.
    fn sweep(&self, sizes: &[usize], mut visit: impl FnMut(usize, bool)) {
        let size = |b: usize| sizes.get(b).copied().unwrap_or(0);
        let mut events: Vec<(usize, bool, std::cmp::Reverse<usize>, usize)> = Vec::new();
        for (b, block) in self.blocks.iter().enumerate() {
            events.push((block.first, true, std::cmp::Reverse(size(b)), b));
            events.push((block.last + 1, false, std::cmp::Reverse(0), b));
        }
        events.sort_unstable();
        events.into_iter().for_each(|(_, begins, _, b)| visit(b, begins));
    }
}

/// For each block, those alive with it, unless the pairs are too many.
fn conflicts(blocks: &[Block]) -> Option<Vec<Vec<usize>>> {
    let mut by_first: Vec<usize> = (0..blocks.len()).collect();
    by_first.sort_unstable_by_key(|&b| (blocks[b].first, b));
    let mut out = vec![Vec::new(); blocks.len()];
    let mut alive: Vec<usize> = Vec::new();
    let mut pairs = 0;
    for b in by_first {
        alive.retain(|&c| blocks[c].last >= blocks[b].first);
        pairs += alive.len();
        if pairs > MAX_CONFLICTS {
            return None;
        }
        for &c in &alive {
            out[b].push(c);
            out[c].push(b);
        }
        alive.push(b);
    }
    Some(out)
}

/// Offsets and the arena's size: each block on the highest end of those below it.
fn rise(order: &[usize], below: &[Vec<usize>], sizes: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; sizes.len()];
    let mut top = 0;
    for &b in order {
        let ends = below[b].iter().map(|&under| offsets[under] + sizes[under]);
        offsets[b] = ends.max().unwrap_or(0);
        top = top.max(offsets[b] + sizes[b]);
    }
    (offsets, top)
}

/// Start of the smallest gap between `taken` spans, sorted by start, that holds `bytes`; the
/// end of the last where none does.
fn tightest_gap(taken: &[(usize, usize)], bytes: usize) -> usize {
    let (mut end, mut best) = (0, None);
    for &(start, stop) in taken {
        if start > end && start - end >= bytes && best.is_none_or(|(gap, _)| start - end < gap) {
            best = Some((start - end, end));
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_, at)| at)
}

/// Bytes as a formula over symbols.
#[derive(Clone, Debug)]
pub(crate) struct Formula {
    /// The bytes.
    pub bytes: Dim,
    /// Whether they are exact; else they are an upper bound, because the exact formula is too
    /// long to write.
    pub exact: bool,
}

impl Formula {
    /// What `derive` makes of exact cases, or of short ones where that is too long.
    pub fn of(bounds: &Bounds, derive: impl Fn(&mut Cases) -> Dim) -> Formula {
        let bytes = derive(&mut Cases::new(bounds, false));
        if !matches!(bytes.poison(), Some(DimError::TooComplex)) {
            return Formula { bytes, exact: true };
        }
        Formula { bytes: derive(&mut Cases::new(bounds, true)), exact: false }
    }
}

/// Formulas of which the largest counts. A model repeats its layers, and so do the sums and
/// the questions which of two is larger: each is answered once.
pub(crate) struct Cases<'a> {
    bounds: &'a Bounds,
    /// Whether formulas are kept short: upper bounds without rounding, few at a time.
    short: bool,
    formulas: Vec<Dim>,
    /// What each formula is at `samples`, where it has a value.
    values: Vec<[Option<i64>; SAMPLES]>,
    index: HashMap<Dim, usize>,
    /// Sum of two formulas, by their indices.
    sums: HashMap<(usize, usize), usize>,
    /// Whether the first is proven to be at most the second.
    at_most: HashMap<(usize, usize), bool>,
    proofs: usize,
    samples: [Bindings; SAMPLES],
}

impl<'a> Cases<'a> {
    /// None yet, over symbols within `bounds`.
    pub fn new(bounds: &'a Bounds, short: bool) -> Self {
        Cases {
            bounds,
            short,
            formulas: Vec::new(),
            values: Vec::new(),
            index: HashMap::new(),
            sums: HashMap::new(),
            at_most: HashMap::new(),
            proofs: 0,
            samples: std::array::from_fn(|_| Bindings::new()),
        }
    }

    /// Index of a size.
    pub fn intern_size(&mut self, size: &Dim) -> usize {
        let formula = match self.short {
            true => size.without_rounding(self.bounds),
            false => size.clone(),
        };
        self.intern(formula)
    }

    fn intern(&mut self, formula: Dim) -> usize {
        if let Some(&known) = self.index.get(&formula) {
            return known;
        }
        for symbol in formula.symbols() {
            let (min, max) = self.bounds.get(&symbol);
            for (i, at) in self.samples.iter_mut().enumerate() {
                if at.get(symbol.name()).is_none() {
                    // Any values will do, if they are different from symbol to symbol.
                    let name = symbol.name().bytes().map(usize::from).sum::<usize>();
                    let n = LEVELS[(i * (1 + name % 5) + name) % LEVELS.len()] + i as i64;
                    let bound = at.bind(symbol.name(), n.max(min).min(max.unwrap_or(i64::MAX)));
                    debug_assert!(bound.is_ok(), "sizes are not negative");
                }
            }
        }
        self.values.push(std::array::from_fn(|i| formula.eval(&self.samples[i]).ok()));
        self.formulas.push(formula.clone());
        self.index.insert(formula, self.formulas.len() - 1);
        self.formulas.len() - 1
    }

    /// The sum of two formulas.
    fn plus(&mut self, a: usize, b: usize) -> usize {
        if let Some(&sum) = self.sums.get(&(a, b)) {
            return sum;
        }
        let sum = self.intern(&self.formulas[a] + &self.formulas[b]);
        self.sums.insert((a, b), sum);
        sum
    }

    /// The sum of sizes.
    pub fn sum<'d>(&mut self, sizes: impl Iterator<Item = &'d Dim>) -> usize {
        let sizes: Vec<Dim> = match self.short {
            true => sizes.map(|d| d.without_rounding(self.bounds)).collect(),
            false => sizes.cloned().collect(),
        };
        self.intern(Dim::sum(sizes))
    }

    fn is_at_most(&mut self, a: usize, b: usize) -> bool {
        if a == b {
            return true;
        }
        if let Some(&known) = self.at_most.get(&(a, b)) {
            return known;
        }
        // Most of what cannot be proven is refuted by an example.
        let mut examples = self.values[a].iter().zip(&self.values[b]);
        let refuted = examples.any(|(a, b)| matches!((a, b), (Some(a), Some(b)) if a > b));
        // Beyond the limit nothing is proven: the formula gets longer, not wrong.
        let proven = !refuted && self.proofs < MAX_PROOFS && {
            self.proofs += 1;
            self.formulas[a].always_le(&self.formulas[b], self.bounds)
        };
        self.at_most.insert((a, b), proven);
        proven
    }

    /// Adds `candidate` to formulas of which none is proven to be at most another.
    pub fn keep_largest(&mut self, kept: &mut Vec<usize>, candidate: usize) {
        if kept.iter().any(|&k| self.is_at_most(candidate, k)) {
            return;
        }
        kept.retain(|&k| !self.is_at_most(k, candidate));
        kept.push(candidate);
        if kept.len() > MAX_CASES {
            let all = self.maximum(kept);
            *kept = vec![self.intern(all)];
        }
    }

    /// The largest of `kept`, 0 of none.
    pub fn maximum(&self, kept: &[usize]) -> Dim {
        let covered = self.short && kept.len() > MAX_SHORT_CASES;
        let mut kept = kept.iter().map(|&k| &self.formulas[k]);
        let first = kept.next().cloned().unwrap_or_default();
        kept.fold(first, |a, b| if covered { a.cover(b, self.bounds) } else { a.max(b) })
    }
}

/// Values of the symbols that stand for the shapes a model sees: all alike, and one at a time
/// larger than the others, within the bounds.
fn samples(symbols: &[Symbol], bounds: &Bounds) -> Vec<Vec<i64>> {
    const LEVELS: [i64; 3] = [48, 4, 384];
    /// Symbols that are looked at one at a time.
    const SINGLED_OUT: usize = 4;
    let at = |level: i64, s: &Symbol| {
        let (min, max) = bounds.get(s);
        level.max(min).min(max.unwrap_or(i64::MAX))
    };
    let mut out: Vec<Vec<i64>> =
        LEVELS.iter().map(|&level| symbols.iter().map(|s| at(level, s)).collect()).collect();
    if symbols.len() > 1 {
        for single in 0..symbols.len().min(SINGLED_OUT) {
            let value = |(i, s)| at(if i == single { 384 } else { 4 }, s);
            out.push(symbols.iter().enumerate().map(value).collect());
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(bytes: &str, first: usize, last: usize) -> Block {
        Block { bytes: Dim::parse(bytes).unwrap() * ALIGNMENT, first, last }
    }

    fn overlap(p: &Packing, at: &Placement) -> Option<(usize, usize)> {
        let spans: Vec<_> =
            at.offsets.iter().zip(&at.sizes).map(|(&from, &n)| (from, from + n)).collect();
        for (i, a) in p.blocks.iter().enumerate() {
            for (j, b) in p.blocks.iter().enumerate().take(i) {
                let together = a.first <= b.last && b.first <= a.last;
                if together && spans[i].0 < spans[j].1 && spans[j].0 < spans[i].1 {
                    return Some((i, j));
                }
            }
        }
        None
    }

    /// A generator of its own: 64-bit LCG of Knuth's MMIX.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.0 >> 33) as usize) % n
        }
    }

    #[test]
    fn live_blocks_never_overlap_and_the_formula_is_the_size() {
        let names = ["1", "a", "b", "2*a", "a*b", "3*b", "a+b", "ceildiv(a*b,3)"];
        let symbols = [Symbol::new("a"), Symbol::new("b")];
        let mut random = Random(1);
        let mut repacked = 0;
        for _ in 0..200 {
            let steps = 1 + random.below(20);
            let blocks = (0..random.below(30)).map(|_| {
                let first = random.below(steps);
                let last = (first + random.below(4)).min(steps - 1);
                block(names[random.below(names.len())], first, last)
            });
            let packing = Packing::new(blocks.collect(), &symbols, &Bounds::new());
            let Formula { bytes: formula, exact } = packing.formula(&Bounds::new());
            assert!(formula.poison().is_none());
            assert!(exact);
            let bound = packing.formula_bound(&Bounds::new());
            for _ in 0..10 {
                let values = [random.below(70) as i64, random.below(70) as i64];
                let at = packing.place(&values).unwrap();
                assert_eq!(overlap(&packing, &at), None);
                assert!(at.bytes >= packing.most_alive(&at.sizes));
                let ends = at.offsets.iter().zip(&at.sizes).map(|(o, n)| o + n);
                assert_eq!(ends.max().unwrap_or(0), at.bytes);
                let mut bindings = Bindings::new();
                bindings.bind("a", values[0]).unwrap();
                bindings.bind("b", values[1]).unwrap();
                let says = formula.eval(&bindings).unwrap() as usize;
                assert!(says <= bound.eval(&bindings).unwrap() as usize, "{bound}");
                if at.specialised {
                    repacked += 1;
                    assert!(at.bytes < says);
                } else {
                    assert_eq!(at.bytes, says, "{formula} at {values:?}");
                }
            }
        }
        assert!(repacked > 20, "{repacked}");
    }

    #[test]
    fn a_block_lies_where_a_larger_one_was() {
        let blocks = vec![block("4*a", 0, 1), block("a", 1, 2), block("3*a", 2, 3)];
        let packing = Packing::new(blocks, &[Symbol::new("a")], &Bounds::new());
        assert_eq!(packing.formula(&Bounds::new()).bytes, Dim::sym("a") * 5 * ALIGNMENT);
    }

    #[test]
    fn the_worst_case_is_the_formula_at_the_upper_bounds() {
        let blocks = vec![block("4*a", 0, 1), block("b", 1, 2)];
        let mut bounds = Bounds::new();
        bounds.set("a", 1, Some(10)).unwrap();
        let symbols = [Symbol::new("a"), Symbol::new("b")];
        assert!(Packing::new(blocks.clone(), &symbols, &bounds).worst(&bounds).is_none());
        bounds.set("b", 1, Some(7)).unwrap();
        let worst = Packing::new(blocks, &symbols, &bounds).worst(&bounds).unwrap();
        assert_eq!(worst.bytes, 47 * 64);
    }
}
