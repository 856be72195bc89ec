//! Rotary position embedding: pairs of elements of a head turned by an angle of the token.
//!
//! Su et al., *RoFormer*, 2021. A pair `(p, q)` becomes `(p cos - q sin, p sin + q cos)`; pairs are the
//! two halves of the rotated part of a head, or neighbours (*interleaved*). What lies behind the rotated
//! part stays as it is. Each result is two products and a sum, within `2 eps (|p cos| + |q sin|)` of
//! exact arithmetic.

use crate::Isa;
use crate::elementwise::reach;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};

/// The sizes and the form of a rotation.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RotaryShape {
    /// How many independent sequences.
    pub batch: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Elements of a head that are rotated, from the first on; even.
    pub rotary: usize,
    /// Pairs are neighbours and not halves.
    pub interleaved: bool,
    /// The order is `[batch, seq, heads, dim]` and not `[batch, heads, seq, dim]`.
    pub seq_first: bool,
}

/// Cosines or sines read as `[batch, seq, rotary / 2]`; a stride of zero repeats.
#[derive(Copy, Clone, Debug)]
pub struct Angles<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distances along batch, seq and the pairs of a head; the last is 0 or 1.
    pub strides: [usize; 3],
}

/// Where the angles of a token are.
#[derive(Copy, Clone, Debug)]
pub enum Tokens<'a> {
    /// As the strides say.
    InOrder,
    /// Row `ids[batch * strides[0] + seq * strides[1]]` of cosines and sines of shape
    /// `[rows, rotary / 2]`, whose stride along seq is that of rows.
    ById {
        /// The rows.
        ids: &'a [i64],
        /// Distances along batch and seq.
        strides: [usize; 2],
    },
}

/// Floats of one task.
const STEP: usize = 16 * 1024;

/// Rotates `x` into `y`, both without gaps in the order of the shape.
///
/// # Panics
/// When `x`, `y`, the angles or the ids are shorter than the shape says, an id is negative or reaches
/// beyond the angles, or `rotary` is odd or above `dim`.
#[expect(clippy::too_many_arguments, reason = "inputs, an output, and how to run")]
pub fn rotary(
    isa: Isa,
    par: &dyn Parallel,
    shape: RotaryShape,
    x: &[f32],
    cos: Angles<'_>,
    sin: Angles<'_>,
    tokens: Tokens<'_>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), y.len(), "rotary: input and output lengths differ");
    run(isa, par, shape, Shared::read(x), cos, sin, tokens, y);
}

/// As [`rotary`], in place.
///
/// # Panics
/// As [`rotary`].
pub fn rotary_inplace(
    isa: Isa,
    par: &dyn Parallel,
    shape: RotaryShape,
    cos: Angles<'_>,
    sin: Angles<'_>,
    tokens: Tokens<'_>,
    y: &mut [f32],
) {
    let x = Shared::of(y.as_mut_ptr());
    run(isa, par, shape, x, cos, sin, tokens, y);
}

#[expect(clippy::too_many_arguments, reason = "inputs, an output, and how to run")]
fn run(
    isa: Isa,
    par: &dyn Parallel,
    shape: RotaryShape,
    x: Shared<f32>,
    cos: Angles<'_>,
    sin: Angles<'_>,
    tokens: Tokens<'_>,
    y: &mut [f32],
) {
    let RotaryShape { batch, heads, seq, dim, rotary, .. } = shape;
    assert!(
        rotary.is_multiple_of(2) && rotary <= dim,
        "rotary: {rotary} rotated elements of a head of {dim}"
    );
    let rows = batch * heads * seq;
    assert_eq!(y.len(), rows * dim, "rotary: output length against {shape:?}");
    if y.is_empty() {
        return;
    }
    for (what, a) in [("cos", cos), ("sin", sin)] {
        assert!(a.strides[2] <= 1, "rotary: the last stride of {what} is {}", a.strides[2]);
        let pairs = (rotary / 2, a.strides[2]);
        let last = match tokens {
            Tokens::InOrder => reach(&[(batch, a.strides[0]), (seq, a.strides[1]), pairs]),
            Tokens::ById { ids, strides } => {
                let need = reach(&[(batch, strides[0]), (seq, strides[1])]);
                assert!(ids.len() >= need, "rotary: {} ids, the shape reaches {need}", ids.len());
                let high = ids[..need].iter().map(|&id| usize::try_from(id).ok());
                let high = high.max().flatten().expect("rotary: there is an id");
                assert!(ids[..need].iter().all(|&id| id >= 0), "rotary: an id is negative");
                reach(&[(high + 1, a.strides[1]), pairs])
            }
        };
        assert!(
            a.data.len() >= last,
            "rotary: {what} holds {} elements, the tokens reach {last}",
            a.data.len()
        );
    }
    let y = Shared::new(y);
    split(par, rows, STEP.div_ceil(dim), &|first, count| {
        isa.dispatch(Task { shape, x, cos, sin, tokens, y, rows: first..first + count });
    });
}

/// Some heads of some tokens.
struct Task<'a> {
    shape: RotaryShape,
    x: Shared<f32>,
    cos: Angles<'a>,
    sin: Angles<'a>,
    tokens: Tokens<'a>,
    y: Shared<f32>,
    rows: std::ops::Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let RotaryShape { heads, seq, dim, rotary, interleaved, seq_first, .. } = self.shape;
        for row in self.rows.clone() {
            let batch = row / (heads * seq);
            let token = if seq_first { row / heads % seq } else { row % seq };
            let (b, t) = match self.tokens {
                Tokens::InOrder => (batch, token),
                Tokens::ById { ids, strides } => {
                    (0, ids[batch * strides[0] + token * strides[1]] as usize)
                }
            };
            let angles = |a: Angles<'_>| {
                let at = a.data.as_ptr().wrapping_add(b * a.strides[0] + t * a.strides[1]);
                (at, a.strides[2])
            };
            // SAFETY: `run` checked that the tensors hold `rows` heads of `dim` elements and the
            // angles of every token; this task owns its rows of the result.
            unsafe {
                let (x, y) = (self.x.ptr().add(row * dim), self.y.ptr().add(row * dim));
                let head =
                    Head { x, y, half: rotary / 2, cos: angles(self.cos), sin: angles(self.sin) };
                if interleaved {
                    head.neighbours(s);
                } else {
                    head.halves(s);
                }
                if !std::ptr::eq(x, y) {
                    std::ptr::copy_nonoverlapping(x.add(rotary), y.add(rotary), dim - rotary);
                }
            }
        }
    }
}

/// One head: its elements, and the angles of its token with their stride.
struct Head {
    x: *const f32,
    y: *mut f32,
    /// Pairs.
    half: usize,
    cos: (*const f32, usize),
    sin: (*const f32, usize),
}

impl Head {
    /// Up to `LANES` angles from pair `i` on.
    ///
    /// # Safety
    /// `n` more pairs exist.
    #[inline(always)]
    unsafe fn angle<S: Simd>(
        &self,
        s: S,
        (a, step): (*const f32, usize),
        i: usize,
        n: usize,
    ) -> S::F {
        // SAFETY: as the caller promises.
        unsafe {
            match step {
                0 => s.splat(*a),
                _ if n >= S::LANES => s.load(a.add(i)),
                _ => s.load_n(a.add(i), n),
            }
        }
    }

    /// The rotated pairs.
    #[inline(always)]
    fn turn<S: Simd>(s: S, p: S::F, q: S::F, cos: S::F, sin: S::F) -> (S::F, S::F) {
        (s.mul_add(p, cos, s.neg(s.mul(q, sin))), s.mul_add(p, sin, s.mul(q, cos)))
    }

    /// # Safety
    /// The pointers reach `2 half` elements and the angles of `half` pairs.
    #[inline(always)]
    unsafe fn halves<S: Simd>(&self, s: S) {
        let Head { x, y, half, .. } = *self;
        let mut i = 0;
        // SAFETY: as the caller promises; both elements of a pair are read before either is written.
        unsafe {
            while i < half {
                let n = S::LANES.min(half - i);
                let (cos, sin) = (self.angle(s, self.cos, i, n), self.angle(s, self.sin, i, n));
                if n == S::LANES {
                    let (p, q) = Self::turn(s, s.load(x.add(i)), s.load(x.add(half + i)), cos, sin);
                    s.store(y.add(i), p);
                    s.store(y.add(half + i), q);
                } else {
                    let (p, q) = (s.load_n(x.add(i), n), s.load_n(x.add(half + i), n));
                    let (p, q) = Self::turn(s, p, q, cos, sin);
                    s.store_n(y.add(i), n, p);
                    s.store_n(y.add(half + i), n, q);
                }
                i += n;
            }
        }
    }

    /// # Safety
    /// As [`halves`](Self::halves).
    #[inline(always)]
    unsafe fn neighbours<S: Simd>(&self, s: S) {
        let Head { x, y, half, .. } = *self;
        let mut i = 0;
        // SAFETY: as the caller promises: vectors of `2 n` elements are read and written by parts
        // that end with the pair `i + n`.
        unsafe {
            while i < half {
                let n = S::LANES.min(half - i);
                let (cos, sin) = (self.angle(s, self.cos, i, n), self.angle(s, self.sin, i, n));
                let (at, to) = (x.add(2 * i), y.add(2 * i));
                let (low, high) = ((2 * n).min(S::LANES), (2 * n).saturating_sub(S::LANES));
                let next = at.wrapping_add(S::LANES);
                let a = s.load_n(at, low);
                let b = if high > 0 { s.load_n(next, high) } else { s.zero() };
                // The same again from the second element on.
                let a1 = s.load_n(at.add(1), if high > 0 { low } else { low - 1 });
                let b1 = if high > 1 { s.load_n(next.add(1), high - 1) } else { s.zero() };
                let (p, q) = (s.even_lanes(a, b), s.even_lanes(a1, b1));
                let (p, q) = Self::turn(s, p, q, cos, sin);
                let (a, b) = s.interleave(p, q);
                s.store_n(to, low, a);
                if high > 0 {
                    s.store_n(to.add(S::LANES), high, b);
                }
                i += n;
            }
        }
    }
}
