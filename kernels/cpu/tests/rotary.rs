//! Rotary embedding against double precision, at every level. Add a case to `CASES`.

mod common;
use common::{Failures, Threads, isas, values};
use deepseek_kernels_cpu::Serial;
use deepseek_kernels_cpu::rotary::*;

struct Case {
    name: &'static str,
    /// Batch, heads, seq, dim, rotary.
    sizes: [usize; 5],
    /// Rows of cosines and sines that ids choose from; 0: in order.
    table: usize,
    /// Every sequence has the same angles.
    shared: bool,
}

const CASES: &[Case] = &[
    Case { name: "one pair", sizes: [1, 1, 1, 2, 2], table: 0, shared: false },
    Case { name: "heads", sizes: [2, 3, 5, 64, 64], table: 0, shared: false },
    Case { name: "odd sizes", sizes: [2, 3, 7, 75, 42], table: 0, shared: true },
    Case { name: "partial", sizes: [1, 4, 9, 128, 32], table: 0, shared: true },
    Case { name: "nothing rotated", sizes: [1, 2, 3, 8, 0], table: 0, shared: false },
    Case { name: "by id", sizes: [2, 2, 6, 96, 96], table: 11, shared: false },
    Case { name: "by id, partial, shared", sizes: [3, 2, 6, 40, 26], table: 20, shared: true },
    Case { name: "no tokens", sizes: [1, 2, 0, 8, 8], table: 0, shared: false },
    Case { name: "many", sizes: [2, 8, 130, 64, 64], table: 200, shared: true },
];

#[test]
fn rotation_agrees_with_double_precision() {
    let mut failures = Failures::default();
    for c in CASES {
        let [batch, heads, seq, dim, rotary] = c.sizes;
        let half = rotary / 2;
        let x = values(batch * heads * seq * dim, 1);
        let rows = if c.table > 0 { c.table } else { batch * seq };
        let (cos, sin) = (values(rows * half, 2), values(rows * half, 3));
        let batches = if c.shared { 1 } else { batch };
        let ids: Vec<i64> = (0..batches * seq).map(|i| (i * 7 % c.table.max(1)) as i64).collect();
        let first = if c.shared { 0 } else { seq };
        let tokens = if c.table > 0 {
            Tokens::ById { ids: &ids, strides: [first, 1] }
        } else {
            Tokens::InOrder
        };
        let strides = [first * half, half, 1];
        let angle = |b: usize, t: usize| match tokens {
            Tokens::InOrder => b * strides[0] + t * half,
            Tokens::ById { .. } => ids[b * first + t] as usize * half,
        };
        for (interleaved, seq_first) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let shape = RotaryShape { batch, heads, seq, dim, rotary, interleaved, seq_first };
            let (mut want, mut size) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            for (row, (want, size)) in want.chunks_mut(dim).zip(size.chunks_mut(dim)).enumerate() {
                let b = row / (heads * seq);
                let t = if seq_first { row / heads % seq } else { row % seq };
                let head: Vec<f64> = x[row * dim..][..dim].iter().map(|&x| f64::from(x)).collect();
                want.copy_from_slice(&head);
                for i in 0..half {
                    let at = angle(b, t) + i;
                    let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                    let (p, q) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                    want[p] = head[p] * c - head[q] * s;
                    want[q] = head[p] * s + head[q] * c;
                    size[p] = (head[p] * c).abs() + (head[q] * s).abs();
                    size[q] = (head[p] * s).abs() + (head[q] * c).abs();
                }
            }
            for isa in isas() {
                let what = format!(
                    "{} {} interleaved {interleaved} seq first {seq_first}",
                    isa.level(),
                    c.name
                );
                let (cos, sin) = (Angles { data: &cos, strides }, Angles { data: &sin, strides });
                let mut got = vec![f32::NAN; x.len()];
                rotary_kernel(isa, shape, &x, cos, sin, tokens, &mut got);
                // The statement of the module.
                let tol = |i: usize| 2.0 * f64::from(f32::EPSILON) * size[i];
                failures.close(&what, &got, &want, tol);
                let mut again = x.clone();
                rotary_inplace(isa, &Threads(3), shape, cos, sin, tokens, &mut again);
                failures.same(&format!("{what}, in place, 3 threads"), &again, &got);
            }
        }
    }
    failures.finish();
}

fn rotary_kernel(
    isa: deepseek_kernels_cpu::Isa,
    shape: RotaryShape,
    x: &[f32],
    cos: Angles<'_>,
    sin: Angles<'_>,
    tokens: Tokens<'_>,
    y: &mut [f32],
) {
    rotary(isa, &Serial, shape, x, cos, sin, tokens, y);
}

/// One angle for all pairs of a head: a stride of zero.
#[test]
fn an_angle_may_serve_all_pairs() {
    for isa in isas() {
        let shape = RotaryShape {
            batch: 1,
            heads: 1,
            seq: 2,
            dim: 6,
            rotary: 6,
            interleaved: true,
            seq_first: false,
        };
        let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (cos, sin) = ([0.0f32, 1.0], [1.0f32, 0.0]);
        let (cos, sin) =
            (Angles { data: &cos, strides: [0, 1, 0] }, Angles { data: &sin, strides: [0, 1, 0] });
        let mut y = x;
        rotary_inplace(isa, &Serial, shape, cos, sin, Tokens::InOrder, &mut y);
        assert_eq!(y, [-2.0, 1.0, -4.0, 3.0, -6.0, 5.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}

#[test]
#[should_panic(expected = "the tokens reach 16")]
fn an_id_beyond_the_table_is_refused() {
    let shape = RotaryShape {
        batch: 1,
        heads: 1,
        seq: 1,
        dim: 8,
        rotary: 8,
        interleaved: false,
        seq_first: false,
    };
    let table = [0.0f32; 12];
    let angles = Angles { data: &table, strides: [0, 4, 1] };
    let tokens = Tokens::ById { ids: &[3], strides: [0, 0] };
    rotary_inplace(isas()[0], &Serial, shape, angles, angles, tokens, &mut [0.0; 8]);
}
