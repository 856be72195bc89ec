//! Copying matrices into panels.
//!
//! * B, `[k, n]`: panel `j` holds columns `j NR .. j NR + NR` as `[k][NR]`; missing columns of the
//!   last panel are zero. Panels follow one another: `k NR` floats each.
//! * A, `[m, k]`: panel `i` holds rows `i MR .. i MR + MR` as `[k][MR]`; the last panel is as wide
//!   as it has rows. Panel `i` starts at `i MR k`; the whole takes `m k` floats.

use super::{Mat, tile};
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, MAX_LANES, Simd};
use crate::{Isa, Level};
use std::sync::Arc;

/// Floats that [`pack_a_into`] writes.
pub fn packed_a_len(m: usize, k: usize) -> usize {
    m * k
}

/// Floats that [`pack_b_into`] writes at this level.
pub fn packed_b_len(isa: Isa, k: usize, n: usize) -> usize {
    let nr = tile(isa).1;
    n.div_ceil(nr) * nr * k
}

/// Packs the `[m, k]` matrix `a` into the first [`packed_a_len`] floats of `dst`.
///
/// # Panics
/// When `a` or `dst` is too short.
pub fn pack_a_into<'d>(
    isa: Isa,
    par: &dyn Parallel,
    m: usize,
    k: usize,
    a: Mat<'_>,
    dst: &'d mut [f32],
) -> PackedARef<'d> {
    a.check("a", 1, m, k);
    let len = packed_a_len(m, k);
    assert!(dst.len() >= len, "pack: destination holds {} floats, packed a needs {len}", dst.len());
    let (mr, out, src) = (tile(isa).0, Shared::new(dst), Shared::read(a.data));
    split(par, m.div_ceil(mr), PACK_STEP.div_ceil(mr * k.max(1)), &|first, count| {
        // `check` proved the reach of `a`, the assertion that of `dst`; tasks write different panels.
        isa.dispatch(PackPanels {
            src: src.ptr(),
            lane: a.row,
            term: a.col,
            lanes: m,
            k,
            width: mr,
            last_width: m % mr,
            dst: out.ptr(),
            panel_len: mr * k,
            panels: first..first + count,
        });
    });
    PackedARef { data: &dst[..len], level: isa.level(), m, k }
}

/// Packs the `[k, n]` matrix `b` into the first [`packed_b_len`] floats of `dst`.
///
/// # Panics
/// When `b` or `dst` is too short.
pub fn pack_b_into<'d>(
    isa: Isa,
    par: &dyn Parallel,
    k: usize,
    n: usize,
    b: Mat<'_>,
    dst: &'d mut [f32],
) -> PackedBRef<'d> {
    b.check("b", 1, k, n);
    let len = packed_b_len(isa, k, n);
    assert!(dst.len() >= len, "pack: destination holds {} floats, packed b needs {len}", dst.len());
    let (nr, out, src) = (tile(isa).1, Shared::new(dst), Shared::read(b.data));
    split(par, n.div_ceil(nr), PACK_STEP.div_ceil(nr * k.max(1)), &|first, count| {
        // `check` proved the reach of `b`, the assertion that of `dst`; tasks write different panels.
        isa.dispatch(PackPanels {
            src: src.ptr(),
            lane: b.col,
            term: b.row,
            lanes: n,
            k,
            width: nr,
            last_width: nr,
            dst: out.ptr(),
            panel_len: nr * k,
            panels: first..first + count,
        });
    });
    PackedBRef { data: &dst[..len], level: isa.level(), k, n }
}

/// Floats one packing task copies.
pub(super) const PACK_STEP: usize = 64 * 1024;

/// Panels to copy: lanes of a panel are rows of A or columns of B.
///
/// Whoever makes one proves that `src` reaches `lanes` lanes of `k` terms at these strides and `dst`
/// what the panels take, and that no other task touches these panels.
pub(super) struct PackPanels {
    pub src: *const f32,
    /// Distance between lanes, and between terms of a lane.
    pub lane: usize,
    pub term: usize,
    pub lanes: usize,
    pub k: usize,
    /// Lanes of a full panel.
    pub width: usize,
    /// Distance between terms in the last panel: `width` fills missing lanes with zeros, less must be
    /// the number of lanes it has.
    pub last_width: usize,
    /// Panel `p` starts at `p * panel_len`.
    pub dst: *mut f32,
    pub panel_len: usize,
    pub panels: std::ops::Range<usize>,
}

impl Kernel for PackPanels {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for p in self.panels.clone() {
            let first = p * self.width;
            let lanes = self.width.min(self.lanes - first);
            let width = if lanes < self.width { self.last_width } else { self.width };
            let src = self.src.wrapping_add(first * self.lane);
            let dst = self.dst.wrapping_add(p * self.panel_len);
            // SAFETY: the lanes from `first` on lie in the source, the panel has `k` times `width`
            // floats.
            unsafe { self.panel(s, src, dst, lanes, width) };
        }
    }
}

impl PackPanels {
    /// # Safety
    /// `src` reaches `lanes` lanes, `dst` `k * width` floats, `lanes <= width`.
    #[inline(always)]
    unsafe fn panel<S: Simd>(
        &self,
        s: S,
        src: *const f32,
        dst: *mut f32,
        lanes: usize,
        width: usize,
    ) {
        let PackPanels { lane, term, k, .. } = *self;
        // SAFETY: every access is to a lane below `lanes`, or to the panel, of which a full vector is
        // stored only where that many floats follow; what it writes beyond its term is written again.
        unsafe {
            if lane == 1 {
                for kk in 0..k {
                    let (from, to) = (src.add(kk * term), dst.add(kk * width));
                    let mut i = 0;
                    while i < width {
                        let n = S::LANES.min(width - i);
                        let x = s.load_n(from.add(i), lanes.saturating_sub(i).min(n));
                        s.store_n(to.add(i), n, x);
                        i += n;
                    }
                }
                return;
            }
            let mut k0 = 0;
            while term == 1 && k0 + S::LANES <= k {
                let mut i = 0;
                while i < width {
                    let n = S::LANES.min(width - i);
                    let here = lanes.saturating_sub(i).min(n);
                    let zeros = [0.0f32; MAX_LANES];
                    let square = s.transpose(|j| {
                        if j < here { src.add((i + j) * lane + k0) } else { zeros.as_ptr() }
                    });
                    for (kk, x) in square.into_iter().enumerate().take(S::LANES) {
                        let at = (k0 + kk) * width + i;
                        if at + S::LANES <= k * width && i + n == width {
                            s.store(dst.add(at), x);
                        } else {
                            s.store_n(dst.add(at), n, x);
                        }
                    }
                    i += n;
                }
                k0 += S::LANES;
            }
            for kk in k0..k {
                for i in 0..width {
                    *dst.add(kk * width + i) =
                        if i < lanes { *src.add(i * lane + kk * term) } else { 0.0 };
                }
            }
        }
    }
}

/// Memory aligned to a cache line.
#[derive(Clone)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Copy, Clone)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Self {
        Aligned { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: a `Line` is sixteen floats without padding, and there are at least `len`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Floats that somebody else keeps and nobody writes: what a kernel has packed before, in a file that is
/// mapped into memory.
#[derive(Clone)]
pub struct SharedFloats(Arc<dyn AsRef<[f32]> + Send + Sync>);

impl SharedFloats {
    /// Floats of `owner`, which must be the same at each call.
    pub fn new(owner: impl AsRef<[f32]> + Send + Sync + 'static) -> Self {
        SharedFloats(Arc::new(owner))
    }

    fn as_slice(&self) -> &[f32] {
        (*self.0).as_ref()
    }
}

impl std::fmt::Debug for SharedFloats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedFloats({})", self.as_slice().len())
    }
}

/// What a constant was packed into: memory of its own, or shared.
#[derive(Clone)]
pub(crate) enum Panels {
    Own(Aligned),
    Shared(SharedFloats),
}

impl Panels {
    /// `data` if it has `len` floats.
    pub(crate) fn shared(data: SharedFloats, len: usize) -> Option<Self> {
        (data.as_slice().len() == len).then_some(Panels::Shared(data))
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        match self {
            Panels::Own(own) => own.as_slice(),
            Panels::Shared(shared) => shared.as_slice(),
        }
    }
}

macro_rules! packed {
    ($own:ident, $view:ident, $what:literal, $($dim:ident: $doc:literal),*) => {
        #[doc = concat!("A view of a packed ", $what, " operand, tied to the level it was packed for.")]
        #[derive(Copy, Clone, Debug)]
        pub struct $view<'a> {
            pub(crate) data: &'a [f32],
            pub(crate) level: Level,
            $(pub(crate) $dim: usize,)*
        }

        #[doc = concat!("An owned packed ", $what, " operand: weights, packed once.")]
        #[derive(Clone)]
        pub struct $own {
            data: Panels,
            level: Level,
            $($dim: usize,)*
        }

        impl $own {
            /// A view to multiply with.
            pub fn view(&self) -> $view<'_> {
                $view { data: self.data.as_slice(), level: self.level, $($dim: self.$dim,)* }
            }

            $(
                #[doc = $doc]
                pub fn $dim(&self) -> usize {
                    self.$dim
                }
            )*

            /// Bytes of the packed elements.
            pub fn bytes(&self) -> usize {
                size_of_val(self.floats())
            }

            /// The packed elements, in the order of this level.
            pub fn floats(&self) -> &[f32] {
                self.data.as_slice()
            }
        }

        impl std::fmt::Debug for $own {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut d = f.debug_struct(stringify!($own));
                d.field("level", &self.level);
                $(d.field(stringify!($dim), &self.$dim);)*
                d.finish_non_exhaustive()
            }
        }
    };
}

packed!(PackedA, PackedARef, "left", m: "Rows.", k: "Columns.");
packed!(PackedB, PackedBRef, "right", k: "Rows.", n: "Columns.");

impl PackedA {
    /// Packs the `[m, k]` matrix `a` into memory of its own.
    pub fn new(isa: Isa, par: &dyn Parallel, m: usize, k: usize, a: Mat<'_>) -> Self {
        let mut data = Aligned::zeroed(packed_a_len(m, k));
        pack_a_into(isa, par, m, k, a, data.as_mut_slice());
        PackedA { data: Panels::Own(data), level: isa.level(), m, k }
    }
}

impl PackedB {
    /// Packs the `[k, n]` matrix `b` into memory of its own.
    pub fn new(isa: Isa, par: &dyn Parallel, k: usize, n: usize, b: Mat<'_>) -> Self {
        let mut data = Aligned::zeroed(packed_b_len(isa, k, n));
        pack_b_into(isa, par, k, n, b, data.as_mut_slice());
        PackedB { data: Panels::Own(data), level: isa.level(), k, n }
    }

    /// What [`PackedB::floats`] gave for a matrix of this size at this level; `None` for another number
    /// of floats.
    pub fn shared(isa: Isa, k: usize, n: usize, data: SharedFloats) -> Option<Self> {
        let data = Panels::shared(data, packed_b_len(isa, k, n))?;
        Some(PackedB { data, level: isa.level(), k, n })
    }
}

impl<'a> PackedARef<'a> {
    /// Takes up floats that [`pack_a_into`] wrote at the same level and sizes.
    ///
    /// # Panics
    /// When `data` is shorter than [`packed_a_len`].
    pub fn from_packed(isa: Isa, data: &'a [f32], m: usize, k: usize) -> Self {
        let len = packed_a_len(m, k);
        assert!(data.len() >= len, "packed a: {} floats given, {m} x {k} needs {len}", data.len());
        PackedARef { data: &data[..len], level: isa.level(), m, k }
    }
}

impl<'a> PackedBRef<'a> {
    /// Takes up floats that [`pack_b_into`] wrote at the same level and sizes.
    ///
    /// # Panics
    /// When `data` is shorter than [`packed_b_len`].
    pub fn from_packed(isa: Isa, data: &'a [f32], k: usize, n: usize) -> Self {
        let len = packed_b_len(isa, k, n);
        assert!(data.len() >= len, "packed b: {} floats given, {k} x {n} needs {len}", data.len());
        PackedBRef { data: &data[..len], level: isa.level(), k, n }
    }
}
