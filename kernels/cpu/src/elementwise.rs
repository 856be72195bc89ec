//! Element by element: one function of one or two values.
//!
//! A [`Unary`] is also the activation a matrix product or a convolution applies to its result
//! before it leaves the cache. Binary kernels see two-dimensional operands whose inner stride is 0
//! or 1 and whose row stride is anything: that covers equal shapes (one long row), scalars, a row
//! broadcast over rows and a column broadcast over columns; further dimensions are the caller's
//! loops.

use crate::Isa;
use crate::math;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, Simd};

/// A function of one value. Parameters are part of the function.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Unary {
    /// `e^x`
    Exp,
    /// Natural logarithm; NaN below zero.
    Log,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The error function.
    Erf,
    /// `x/2 (1 + erf(x / sqrt 2))`; the absolute error is a few units of rounding of `x`.
    Gelu,
    /// The tanh form of GELU.
    GeluTanh,
    /// `x sigmoid(x)`, also known as swish.
    Silu,
    /// `x sigmoid(alpha x)`
    Swish {
        /// Factor within the sigmoid.
        alpha: f32,
    },
    /// `x tanh(log(1 + e^x))`
    Mish,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// Square root, correctly rounded.
    Sqrt,
    /// `1 / sqrt(x)`, both steps correctly rounded.
    Rsqrt,
    /// `1 / x`, correctly rounded.
    Reciprocal,
    /// Magnitude.
    Abs,
    /// Negation.
    Neg,
    /// Towards minus infinity.
    Floor,
    /// Towards plus infinity.
    Ceil,
    /// To the nearest integer, ties to even.
    RoundEven,
    /// Sine, argument in radians.
    Sin,
    /// Cosine, argument in radians.
    Cos,
    /// `log(1 + e^x)`
    Softplus,
    /// `x clip(x/6 + 1/2, 0, 1)`
    HardSwish,
    /// `clip(alpha x + beta, 0, 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// `x` above zero, else `alpha (e^x - 1)`.
    Elu {
        /// Limit towards minus infinity, negated.
        alpha: f32,
    },
    /// `x` above zero, else `alpha x`.
    LeakyRelu {
        /// Slope below zero.
        alpha: f32,
    },
    /// `min(max(x, lo), hi)`; NaN stays NaN.
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound; it wins where the bounds cross.
        hi: f32,
    },
    /// `x * x`
    Square,
    /// `scale * x + shift`
    Affine {
        /// Factor.
        scale: f32,
        /// Summand.
        shift: f32,
    },
}

/// A function on vectors.
pub(crate) trait Map: Copy + Sync {
    fn map<S: Simd>(self, s: S, x: S::F) -> S::F;
}

/// Calls a generic `$visit.visit(map)` with a [`Map`] type of its own for each function, so that
/// the choice happens once per call and not once per vector.
pub(crate) trait Visit {
    fn visit<F: Map>(self, f: F);
}

/// The value itself.
#[derive(Copy, Clone)]
pub(crate) struct Same;

impl Map for Same {
    #[inline(always)]
    fn map<S: Simd>(self, _: S, x: S::F) -> S::F {
        x
    }
}

macro_rules! maps {
    ($($name:ident { $($field:ident),* } |$s:ident, $x:ident| $body:expr;)*) => {
        $(
            #[derive(Copy, Clone)]
            pub(crate) struct $name { $($field: f32),* }
            impl Map for $name {
                #[inline(always)]
                fn map<S: Simd>(self, $s: S, $x: S::F) -> S::F {
                    let $name { $($field),* } = self;
                    $body
                }
            }
        )*
        impl Unary {
            #[inline(always)]
            pub(crate) fn visit<V: Visit>(self, v: V) {
                match self {
                    $(Unary::$name { $($field),* } => v.visit($name { $($field),* }),)*
                }
            }
        }
    };
}

maps! {
    Exp {} |s, x| math::exp(s, x);
    Log {} |s, x| math::log(s, x);
    Tanh {} |s, x| math::tanh(s, x);
    Sigmoid {} |s, x| math::sigmoid(s, x);
    Erf {} |s, x| math::erf(s, x);
    Gelu {} |s, x| math::gelu(s, x);
    GeluTanh {} |s, x| math::gelu_tanh(s, x);
    Silu {} |s, x| math::silu(s, x);
    Swish { alpha } |s, x| math::swish(s, x, alpha);
    Mish {} |s, x| math::mish(s, x);
    Relu {} |s, x| s.max(s.zero(), x);
    Sqrt {} |s, x| s.sqrt(x);
    Rsqrt {} |s, x| s.div(s.splat(1.0), s.sqrt(x));
    Reciprocal {} |s, x| s.div(s.splat(1.0), x);
    Abs {} |s, x| s.abs(x);
    Neg {} |s, x| s.neg(x);
    Floor {} |s, x| s.floor(x);
    Ceil {} |s, x| s.ceil(x);
    RoundEven {} |s, x| s.round_even(x);
    Sin {} |s, x| math::sin_cos(s, x, 0);
    Cos {} |s, x| math::sin_cos(s, x, 1);
    Softplus {} |s, x| math::softplus(s, x);
    HardSwish {} |s, x| {
        let t = s.mul_add(x, s.splat(1.0 / 6.0), s.splat(0.5));
        s.mul(x, s.min(s.splat(1.0), s.max(s.zero(), t)))
    };
    HardSigmoid { alpha, beta } |s, x| {
        let t = s.mul_add(x, s.splat(alpha), s.splat(beta));
        s.min(s.splat(1.0), s.max(s.zero(), t))
    };
    Elu { alpha } |s, x| {
        let low = s.mul(s.splat(alpha), math::expm1(s, x));
        s.select(s.lt(s.zero(), x), x, low)
    };
    LeakyRelu { alpha } |s, x| s.select(s.lt(x, s.zero()), s.mul(x, s.splat(alpha)), x);
    Clip { lo, hi } |s, x| s.min(s.splat(hi), s.max(s.splat(lo), x));
    Square {} |s, x| s.mul(x, x);
    Affine { scale, shift } |s, x| s.mul_add(x, s.splat(scale), s.splat(shift));
}

/// `y[i] = f(x[i])` for `n` elements; `x == y` is allowed.
struct MapLoop<F> {
    f: F,
    x: *const f32,
    y: *mut f32,
    n: usize,
}

impl<F: Map> Kernel for MapLoop<F> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let MapLoop { f, x, y, n } = self;
        let mut i = 0;
        // SAFETY: whoever makes a `MapLoop` proves `n` readable and writable floats; every access
        // stays below `n`.
        unsafe {
            while i + S::LANES <= n {
                s.store(y.add(i), f.map(s, s.load(x.add(i))));
                i += S::LANES;
            }
            if i < n {
                s.store_n(y.add(i), n - i, f.map(s, s.load_n(x.add(i), n - i)));
            }
        }
    }
}

struct MapVisit<'a> {
    isa: Isa,
    par: &'a dyn Parallel,
    x: *const f32,
    y: Shared<f32>,
    n: usize,
}

/// Elements of one task of an elementwise kernel.
const STEP: usize = 16 * 1024;

impl Visit for MapVisit<'_> {
    fn visit<F: Map>(self, f: F) {
        let MapVisit { isa, par, x, y, n } = self;
        let x = Shared::of(x.cast_mut());
        split(par, n, STEP, &|start, len| {
            // SAFETY: `start + len <= n`, and both pointers reach `n` floats.
            let (x, y) = unsafe { (x.ptr().cast_const().add(start), y.ptr().add(start)) };
            isa.dispatch(MapLoop { f, x, y, n: len });
        });
    }
}

/// `y[i] = op(x[i])`.
///
/// # Panics
/// When the lengths differ.
pub fn unary(isa: Isa, par: &dyn Parallel, op: Unary, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "unary: input and output lengths differ");
    let n = x.len();
    op.visit(MapVisit { isa, par, x: x.as_ptr(), y: Shared::new(y), n });
}

/// `x[i] = op(x[i])`.
pub fn unary_inplace(isa: Isa, par: &dyn Parallel, op: Unary, x: &mut [f32]) {
    let n = x.len();
    let y = Shared::new(x);
    op.visit(MapVisit { isa, par, x: y.ptr(), y, n });
}

/// `y[i] = op(x[i])` for `n` elements on the calling thread; `x == y` is allowed.
///
/// # Safety
/// `x` reaches `n` readable and `y` `n` writable floats.
pub(crate) unsafe fn apply<S: Simd>(s: S, op: Unary, x: *const f32, y: *mut f32, n: usize) {
    struct One<S> {
        s: S,
        x: *const f32,
        y: *mut f32,
        n: usize,
    }
    impl<S: Simd> Visit for One<S> {
        fn visit<F: Map>(self, f: F) {
            // The caller of `apply` proves `n` floats.
            self.s.vectorize(MapLoop { f, x: self.x, y: self.y, n: self.n });
        }
    }
    op.visit(One { s, x, y, n });
}

/// A function of two values.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a b`
    Mul,
    /// `a / b`
    Div,
    /// The smaller; NaN if either is NaN.
    Min,
    /// The larger; NaN if either is NaN.
    Max,
    /// `a` to the power of `b`, as the platform's `powf`; exactly `a a` where `b` is two.
    Pow,
    /// 1 where `a < b`, else 0; 0 if either is NaN.
    Less,
    /// 1 where `a ≤ b`, else 0; 0 if either is NaN.
    LessOrEqual,
    /// 1 where `a = b`, else 0; 0 if either is NaN.
    Equal,
    /// 0 where `a = b`, else 1; 1 if either is NaN.
    NotEqual,
}

trait Map2: Copy + Sync {
    fn map<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

macro_rules! maps2 {
    ($($name:ident |$s:ident, $a:ident, $b:ident| $body:expr;)*) => {
        $(
            #[derive(Copy, Clone)]
            struct $name;
            impl Map2 for $name {
                #[inline(always)]
                fn map<S: Simd>(self, $s: S, $a: S::F, $b: S::F) -> S::F {
                    $body
                }
            }
        )*
    };
}

maps2! {
    AddOp |s, a, b| s.add(a, b);
    SubOp |s, a, b| s.sub(a, b);
    MulOp |s, a, b| s.mul(a, b);
    DivOp |s, a, b| s.div(a, b);
    MinOp |s, a, b| s.min_nan(a, b);
    MaxOp |s, a, b| s.max_nan(a, b);
    LessOp |s, a, b| s.select(s.lt(a, b), s.splat(1.0), s.zero());
    LessOrEqualOp |s, a, b| s.select(s.le(a, b), s.splat(1.0), s.zero());
    EqualOp |s, a, b| s.select(s.eq(a, b), s.splat(1.0), s.zero());
    NotEqualOp |s, a, b| s.select(s.eq(a, b), s.zero(), s.splat(1.0));
    PowOp |s, a, b| {
        let (xs, ys) = (s.to_array(a), s.to_array(b));
        let mut out = [0.0; crate::simd::MAX_LANES];
        for i in 0..S::LANES {
            out[i] = if ys[i] == 2.0 { xs[i] * xs[i] } else { xs[i].powf(ys[i]) };
        }
        // SAFETY: the array holds the most lanes of any level.
        unsafe { s.load(out.as_ptr()) }
    };
}

/// An operand of `rows × cols` elements: element `(r, c)` is `data[r * row + c * col]`.
#[derive(Copy, Clone, Debug)]
pub struct Rows<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows; 0 repeats one row.
    pub row: usize,
    /// Distance between columns: 0 repeats one value along the row, 1 reads on.
    pub col: usize,
}

impl<'a> Rows<'a> {
    /// `rows × cols` elements without gaps (`row = cols`).
    pub fn dense(data: &'a [f32], cols: usize) -> Self {
        Rows { data, row: cols, col: 1 }
    }

    /// One value everywhere; `data` holds at least one element.
    pub fn scalar(data: &'a [f32]) -> Self {
        Rows { data, row: 0, col: 0 }
    }

    /// One row repeated over all rows.
    pub fn one_row(data: &'a [f32]) -> Self {
        Rows { data, row: 0, col: 1 }
    }

    /// One column repeated over all columns: one value per row.
    pub fn one_col(data: &'a [f32]) -> Self {
        Rows { data, row: 1, col: 0 }
    }

    fn check(&self, what: &str, rows: usize, cols: usize) {
        assert!(self.col <= 1, "binary: column stride of {what} is {}, want 0 or 1", self.col);
        let need = reach(&[(rows, self.row), (cols, self.col)]);
        assert!(
            self.data.len() >= need,
            "binary: operand {what} holds {} floats, {rows} rows of {cols} reach {need}",
            self.data.len()
        );
    }
}

/// How many elements a strided view touches from its start: 0 when it is empty.
pub(crate) fn reach(dims: &[(usize, usize)]) -> usize {
    if dims.iter().any(|&(n, _)| n == 0) {
        return 0;
    }
    dims.iter()
        .try_fold(1usize, |acc, &(n, stride)| (n - 1).checked_mul(stride)?.checked_add(acc))
        .expect("a strided view reaches beyond the address space")
}

/// `y = f(a, b)` along one row; `a == y` or `b == y` is allowed where that operand has stride 1.
struct BinaryRow<F> {
    f: F,
    a: *const f32,
    b: *const f32,
    ac: usize,
    bc: usize,
    y: *mut f32,
    n: usize,
}

impl<F: Map2> Kernel for BinaryRow<F> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let BinaryRow { f, a, b, ac, bc, y, n } = self;
        if n == 0 {
            return;
        }
        // SAFETY: whoever makes a `BinaryRow` proves that `y` reaches `n` floats, and each operand
        // `n` where its stride is 1 and one where it is 0; every access stays below that.
        unsafe {
            match (ac, bc) {
                (0, 0) => {
                    let v = f.map(s, s.splat(*a), s.splat(*b));
                    let mut i = 0;
                    while i < n {
                        s.store_n(y.add(i), S::LANES.min(n - i), v);
                        i += S::LANES;
                    }
                }
                (0, _) => {
                    let a = s.splat(*a);
                    let mut i = 0;
                    while i + S::LANES <= n {
                        s.store(y.add(i), f.map(s, a, s.load(b.add(i))));
                        i += S::LANES;
                    }
                    if i < n {
                        s.store_n(y.add(i), n - i, f.map(s, a, s.load_n(b.add(i), n - i)));
                    }
                }
                (_, 0) => {
                    let b = s.splat(*b);
                    let mut i = 0;
                    while i + S::LANES <= n {
                        s.store(y.add(i), f.map(s, s.load(a.add(i)), b));
                        i += S::LANES;
                    }
                    if i < n {
                        s.store_n(y.add(i), n - i, f.map(s, s.load_n(a.add(i), n - i), b));
                    }
                }
                _ => {
                    let mut i = 0;
                    while i + S::LANES <= n {
                        s.store(y.add(i), f.map(s, s.load(a.add(i)), s.load(b.add(i))));
                        i += S::LANES;
                    }
                    if i < n {
                        let (va, vb) = (s.load_n(a.add(i), n - i), s.load_n(b.add(i), n - i));
                        s.store_n(y.add(i), n - i, f.map(s, va, vb));
                    }
                }
            }
        }
    }
}

/// `y[i] = op(a[i ac], b[i bc])` for `n` elements on the calling thread; strides are 0 or 1, and
/// `a == y` or `b == y` is allowed where that operand has stride 1.
///
/// # Safety
/// `y` reaches `n` writable floats; each operand `n` readable ones, or one where its stride is 0.
pub(crate) unsafe fn apply2<S: Simd>(
    s: S,
    op: Binary,
    (a, ac): (*const f32, usize),
    (b, bc): (*const f32, usize),
    y: *mut f32,
    n: usize,
) {
    // The caller proves the operands.
    match op {
        Binary::Add => s.vectorize(BinaryRow { f: AddOp, a, b, ac, bc, y, n }),
        Binary::Sub => s.vectorize(BinaryRow { f: SubOp, a, b, ac, bc, y, n }),
        Binary::Mul => s.vectorize(BinaryRow { f: MulOp, a, b, ac, bc, y, n }),
        Binary::Div => s.vectorize(BinaryRow { f: DivOp, a, b, ac, bc, y, n }),
        Binary::Min => s.vectorize(BinaryRow { f: MinOp, a, b, ac, bc, y, n }),
        Binary::Max => s.vectorize(BinaryRow { f: MaxOp, a, b, ac, bc, y, n }),
        Binary::Pow => s.vectorize(BinaryRow { f: PowOp, a, b, ac, bc, y, n }),
        Binary::Less => s.vectorize(BinaryRow { f: LessOp, a, b, ac, bc, y, n }),
        Binary::LessOrEqual => s.vectorize(BinaryRow { f: LessOrEqualOp, a, b, ac, bc, y, n }),
        Binary::Equal => s.vectorize(BinaryRow { f: EqualOp, a, b, ac, bc, y, n }),
        Binary::NotEqual => s.vectorize(BinaryRow { f: NotEqualOp, a, b, ac, bc, y, n }),
    }
}

/// `y[i] = a[i]` where `m[i]` is not 0, else `b[i]`, for `n` elements.
struct SelectRow {
    m: (*const f32, usize),
    a: (*const f32, usize),
    b: (*const f32, usize),
    y: *mut f32,
    n: usize,
}

impl Kernel for SelectRow {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let SelectRow { m, a, b, y, n } = self;
        let mut i = 0;
        while i < n {
            let left = S::LANES.min(n - i);
            let read = |(p, stride): (*const f32, usize)| {
                // SAFETY: whoever makes a `SelectRow` proves `n` floats, or one where the stride
                // is 0; `i + left <= n`.
                unsafe {
                    match (stride, left == S::LANES) {
                        (0, _) => s.splat(*p),
                        (_, true) => s.load(p.add(i)),
                        (_, false) => s.load_n(p.add(i), left),
                    }
                }
            };
            let v = s.select(s.eq(read(m), s.zero()), read(b), read(a));
            // SAFETY: as above, of `y`.
            unsafe {
                if left == S::LANES { s.store(y.add(i), v) } else { s.store_n(y.add(i), left, v) }
            }
            i += left;
        }
    }
}

/// `y[i] = a[i]` where `m[i]` is not 0, else `b[i]`, for `n` elements on the calling thread; strides
/// are 0 or 1, and `y` may be any operand whose stride is 1.
///
/// # Safety
/// `y` reaches `n` writable floats; each operand `n` readable ones, or one where its stride is 0.
pub(crate) unsafe fn select<S: Simd>(
    s: S,
    m: (*const f32, usize),
    a: (*const f32, usize),
    b: (*const f32, usize),
    y: *mut f32,
    n: usize,
) {
    // The caller proves the operands.
    s.vectorize(SelectRow { m, a, b, y, n });
}

struct BinaryRows<F> {
    f: F,
    a: *const f32,
    b: *const f32,
    a_stride: (usize, usize),
    b_stride: (usize, usize),
    y: *mut f32,
    rows: std::ops::Range<usize>,
    cols: usize,
    from: usize,
    n: usize,
}

impl<F: Map2> Kernel for BinaryRows<F> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for r in self.rows {
            // SAFETY: the strides and shape were checked against the slices by `binary_impl`.
            unsafe {
                BinaryRow {
                    f: self.f,
                    a: self.a.add(r * self.a_stride.0 + self.from * self.a_stride.1),
                    b: self.b.add(r * self.b_stride.0 + self.from * self.b_stride.1),
                    ac: self.a_stride.1,
                    bc: self.b_stride.1,
                    y: self.y.add(r * self.cols + self.from),
                    n: self.n,
                }
                .call(s);
            }
        }
    }
}

#[derive(Copy, Clone)]
struct BinaryArgs<'a> {
    isa: Isa,
    par: &'a dyn Parallel,
    rows: usize,
    cols: usize,
    a: Shared<f32>,
    b: Shared<f32>,
    a_stride: (usize, usize),
    b_stride: (usize, usize),
    y: Shared<f32>,
}

fn binary_with<F: Map2>(args: BinaryArgs<'_>, f: F) {
    let BinaryArgs { isa, par, rows, cols, a, b, a_stride, b_stride, y } = args;
    if rows == 0 || cols == 0 {
        return;
    }
    let run = |rows: std::ops::Range<usize>, from: usize, n: usize| {
        let (a, b, y) = (a.ptr().cast_const(), b.ptr().cast_const(), y.ptr());
        isa.dispatch(BinaryRows { f, a, b, a_stride, b_stride, y, rows, cols, from, n });
    };
    if rows == 1 {
        split(par, cols, STEP, &|from, n| run(0..1, from, n));
    } else {
        split(par, rows, STEP.div_ceil(cols), &|r, n| run(r..r + n, 0, cols));
    }
}

fn binary_impl(op: Binary, args: BinaryArgs<'_>) {
    match op {
        Binary::Add => binary_with(args, AddOp),
        Binary::Sub => binary_with(args, SubOp),
        Binary::Mul => binary_with(args, MulOp),
        Binary::Div => binary_with(args, DivOp),
        Binary::Min => binary_with(args, MinOp),
        Binary::Max => binary_with(args, MaxOp),
        Binary::Pow => binary_with(args, PowOp),
        Binary::Less => binary_with(args, LessOp),
        Binary::LessOrEqual => binary_with(args, LessOrEqualOp),
        Binary::Equal => binary_with(args, EqualOp),
        Binary::NotEqual => binary_with(args, NotEqualOp),
    }
}

/// `y[r, c] = op(a[r, c], b[r, c])` for `rows × cols` elements; `y` has no gaps.
///
/// # Panics
/// When an operand or `y` is too short, or a column stride is neither 0 nor 1.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation and its shape")]
pub fn binary(
    isa: Isa,
    par: &dyn Parallel,
    op: Binary,
    rows: usize,
    cols: usize,
    a: Rows<'_>,
    b: Rows<'_>,
    y: &mut [f32],
) {
    a.check("a", rows, cols);
    b.check("b", rows, cols);
    assert_eq!(y.len(), rows * cols, "binary: output length against {rows} rows of {cols}");
    let args = BinaryArgs {
        isa,
        par,
        rows,
        cols,
        a: Shared::read(a.data),
        b: Shared::read(b.data),
        a_stride: (a.row, a.col),
        b_stride: (b.row, b.col),
        y: Shared::new(y),
    };
    binary_impl(op, args);
}

/// `y[r, c] = op(y[r, c], b[r, c])`, or `op(b, y)` when `swapped`; `y` has no gaps.
///
/// # Panics
/// As [`binary`].
#[expect(clippy::too_many_arguments, reason = "the operands of the operation and its shape")]
pub fn binary_inplace(
    isa: Isa,
    par: &dyn Parallel,
    op: Binary,
    rows: usize,
    cols: usize,
    y: &mut [f32],
    b: Rows<'_>,
    swapped: bool,
) {
    b.check("b", rows, cols);
    assert_eq!(y.len(), rows * cols, "binary: output length against {rows} rows of {cols}");
    let y = Shared::new(y);
    let other = Shared::read(b.data);
    let (mine, theirs) = ((y, (cols, 1)), (other, (b.row, b.col)));
    let ((a, a_stride), (b, b_stride)) = if swapped { (theirs, mine) } else { (mine, theirs) };
    binary_impl(op, BinaryArgs { isa, par, rows, cols, a, b, a_stride, b_stride, y });
}
