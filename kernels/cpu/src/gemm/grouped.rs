//! Products of `f32` by weights of 4 or 8 bits with scales for groups of terms.
//!
//! A weight is `(q - zero) · scale`, `q` an unsigned integer, with a scale and a zero point for each column
//! and group of terms. Weights stay as they are in memory; each is widened where it is multiplied, for up to
//! `MR` rows at once. So few rows take the time in which the integers can be read.
//!
//! An element of the result is one chain of multiply-adds along K, whatever the number of rows; against exact
//! products by weights that were rounded once it is off by at most `(k + 2) eps Σ |a||w|`.

use super::pack::Aligned;
use super::{Mat, Out, tile};
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared};
use crate::simd::{Kernel, Simd};
use crate::{Isa, Level};

/// Multiply-adds below which a task is not worth handing out.
const TASK_MACS: usize = 1 << 18;
/// Tasks for each of several threads, so that they end together.
const TASKS_EACH: usize = 6;

/// Weights `[k, n]` of 4 or 8 bits, packed once: for each panel of `NR` columns the terms one after the
/// other, and scales and zero points `[groups][NR]`. A term of 4 bits has two columns in a byte, `LANES`
/// apart.
#[derive(Clone)]
pub struct PackedGroups {
    bytes: Vec<u8>,
    scales: Aligned,
    zeros: Aligned,
    level: Level,
    bits: u32,
    group: usize,
    k: usize,
    n: usize,
}

impl PackedGroups {
    /// Packs the weights `q(term, column)`, of which the low `bits` (4 or 8) count, with
    /// `scale(group, column)` and `zero(group, column)`; a group has `group` terms.
    ///
    /// # Panics
    /// When `bits` is another number, or `group` is 0.
    pub fn new(
        isa: Isa,
        (k, n): (usize, usize),
        (bits, group): (u32, usize),
        q: impl Fn(usize, usize) -> u8,
        scale: impl Fn(usize, usize) -> f32,
        zero: impl Fn(usize, usize) -> f32,
    ) -> PackedGroups {
        assert!(bits == 4 || bits == 8, "gemm_grouped: weights of {bits} bits");
        assert!(group > 0, "gemm_grouped: groups of no terms");
        let nr = tile(isa).1;
        let (panels, groups) = (n.div_ceil(nr), k.div_ceil(group));
        let term = nr * bits as usize / 8;
        let mut bytes = vec![0u8; panels * k * term];
        let mut scales = Aligned::zeroed(panels * groups * nr);
        let mut zeros = Aligned::zeroed(panels * groups * nr);
        for j in 0..n {
            let (panel, column) = (j / nr, j % nr);
            for kk in 0..k {
                let to = &mut bytes[(panel * k + kk) * term..][..term];
                match bits {
                    8 => to[column] = q(kk, j),
                    _ => to[column % term] |= (q(kk, j) & 15) << (column / term * 4),
                }
            }
            for g in 0..groups {
                let at = (panel * groups + g) * nr + column;
                scales.as_mut_slice()[at] = scale(g, j);
                zeros.as_mut_slice()[at] = zero(g, j);
            }
        }
        PackedGroups { bytes, scales, zeros, level: isa.level(), bits, group, k, n }
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + 4 * (self.scales.as_slice().len() + self.zeros.as_slice().len())
    }
}

impl std::fmt::Debug for PackedGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedGroups")
            .field("level", &self.level)
            .field("bits", &self.bits)
            .field("group", &self.group)
            .field("k", &self.k)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

/// `C = A B + bias` for `m` rows of A, whose columns are contiguous; the bias goes by column.
///
/// # Panics
/// When an operand or C is shorter than the sizes say, rows of C overlap, columns of A have gaps, or `b` was
/// packed for another level.
pub fn gemm_grouped(
    isa: Isa,
    par: &dyn Parallel,
    m: usize,
    a: Mat<'_>,
    b: &PackedGroups,
    bias: Option<&[f32]>,
    c: Out<'_>,
) {
    let (k, n) = (b.k, b.n);
    assert_eq!(b.level, isa.level(), "gemm_grouped: b was packed for another level");
    a.check("a", 1, m, k);
    assert!(a.col == 1 || k < 2, "gemm_grouped: columns of a are {} apart", a.col);
    assert!(bias.is_none_or(|b| b.len() == n), "gemm_grouped: bias against {n} columns");
    let need = reach(&[(m, c.row), (n, 1)]);
    assert!(c.data.len() >= need, "gemm_grouped: c holds {} floats, needs {need}", c.data.len());
    assert!(c.row >= n || m < 2, "gemm_grouped: rows of {n} overlap, {} apart", c.row);
    if m == 0 || n == 0 {
        return;
    }
    let (mr, nr) = tile(isa);
    let (panels, tiles) = (n.div_ceil(nr), m.div_ceil(mr));
    let macs = m.saturating_mul(n).saturating_mul(k);
    let want = match par.threads() {
        1 => 1,
        threads => (macs / TASK_MACS).clamp(1, TASKS_EACH * threads),
    };
    // Few rows: tasks of panels. Many: of rows too.
    let panel_step = panels.div_ceil(want.min(panels));
    let across = panels.div_ceil(panel_step);
    let tile_step = tiles.div_ceil(want.div_ceil(across).min(tiles));
    let out = Shared::new(c.data);
    let body = |t: usize| {
        let (p, r) = (t % across * panel_step, t / across * tile_step);
        for panel in p..panels.min(p + panel_step) {
            for tile in r..tiles.min(r + tile_step) {
                let rows = mr.min(m - tile * mr);
                // `check` proved the reach of A, the assertions that of C; tasks own different tiles.
                isa.dispatch(Tile {
                    a: a.data.as_ptr().wrapping_add(tile * mr * a.row),
                    a_row: a.row,
                    rows,
                    b,
                    panel,
                    bias,
                    c: out.ptr().wrapping_add(tile * mr * c.row),
                    c_row: c.row,
                });
            }
        }
    };
    match across * tiles.div_ceil(tile_step) {
        1 => body(0),
        tasks => par.run(tasks, &body),
    }
}

/// Up to `MR` rows by a panel. Whoever makes one proves that the pointers reach these rows, and that no other
/// task writes these elements of C.
struct Tile<'a> {
    a: *const f32,
    a_row: usize,
    rows: usize,
    b: &'a PackedGroups,
    panel: usize,
    bias: Option<&'a [f32]>,
    c: *mut f32,
    c_row: usize,
}

impl Kernel for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        match self.b.bits {
            4 => self.by_rows::<S, 4>(s),
            _ => self.by_rows::<S, 8>(s),
        }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn by_rows<S: Simd, const BITS: u32>(&self, s: S) {
        let mut from = 0;
        while from < self.rows {
            from += match (self.rows - from, S::LANES == 16) {
                (12.., true) => self.some::<S, BITS, 12>(s, from),
                (6.., true) => self.some::<S, BITS, 6>(s, from),
                (4.., _) => self.some::<S, BITS, 4>(s, from),
                (2.., _) => self.some::<S, BITS, 2>(s, from),
                _ => self.some::<S, BITS, 1>(s, from),
            };
        }
    }

    /// `R` rows from row `from` on; gives `R`.
    #[inline(always)]
    fn some<S: Simd, const BITS: u32, const R: usize>(&self, s: S, from: usize) -> usize {
        let PackedGroups { bytes, scales, zeros, group, k, n, .. } = self.b;
        let (k, term) = (*k, S::NR * BITS as usize / 8);
        let groups = k.div_ceil(*group);
        let mut acc = [[s.zero(); 2]; R];
        let a = self.a.wrapping_add(from * self.a_row);
        let mut q = bytes[self.panel * k * term..][..k * term].as_ptr();
        let mask = s.splat_i(15);
        for g in 0..groups {
            let at = (self.panel * groups + g) * S::NR;
            let (scale, zero) =
                (&scales.as_slice()[at..][..S::NR], &zeros.as_slice()[at..][..S::NR]);
            // SAFETY: scales and zero points have `NR` for each group, the bytes `term` for each of K; A has
            // K columns in `R` rows.
            unsafe {
                let scale = [s.load(scale.as_ptr()), s.load(scale.as_ptr().add(S::LANES))];
                let zero = [s.load(zero.as_ptr()), s.load(zero.as_ptr().add(S::LANES))];
                for kk in g * group..k.min((g + 1) * group) {
                    let low = s.load_u8(q);
                    let integers = match BITS {
                        4 => [s.and_i(low, mask), s.shr_i::<4>(low)],
                        _ => [low, s.load_u8(q.add(S::LANES))],
                    };
                    q = q.add(term);
                    let mut w = [s.zero(); 2];
                    for v in 0..2 {
                        w[v] = s.mul(s.sub(s.to_float(integers[v]), zero[v]), scale[v]);
                    }
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = s.splat(*a.add(i * self.a_row + kk));
                        for (acc, w) in acc.iter_mut().zip(w) {
                            *acc = s.mul_add(x, w, *acc);
                        }
                    }
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                let j = self.panel * S::NR + v * S::LANES;
                let count = n.saturating_sub(j).min(S::LANES);
                if count == 0 {
                    break;
                }
                // SAFETY: row `from + i` of C has the columns from `j` on, as the bias has.
                unsafe {
                    let y = match self.bias {
                        Some(b) => s.add(*acc, s.load_n(b[j..].as_ptr(), count)),
                        None => *acc,
                    };
                    s.store_n(self.c.add((from + i) * self.c_row + j), count, y);
                }
            }
        }
        R
    }
}
