//! Shape arithmetic: what is known about the elements of small integer tensors.
//!
//! Exporters compute shapes inside the graph: `Shape`, then a few integer
//! operators, then `Reshape` or `Expand`. Elementwise operators keep such contents
//! known as formulas over symbols ([`Known::Dims`]). Floats are followed too as long as every
//! element is an integer, because older exporters scale extents as
//! `Cast(Floor(Cast(extent) * 2.0))`.
//!
//! All-constant inputs are not handled here: the graph folds those through the
//! operator's own `eval`, which is exact in every element type.

use crate::{Bounds, Dim, Fact, InferArgs, Known};
use deepseek_tensor::{DType, Tensor};
use std::cmp::Ordering;

/// Largest tensor whose elements are read as formulas, as [`Fact::as_dims`].
const MAX_CONTENTS: usize = 4096;

/// Elements of a tensor of rank 0 or 1 as formulas, if all are known integers.
pub fn contents(fact: &Fact) -> Option<Vec<Dim>> {
    let dtype = fact.dtype().ok()?;
    if fact.rank()? > 1 || !carries(dtype) {
        return None;
    }
    match fact.known.as_ref()? {
        Known::Tensor(t) if dtype.is_float() => {
            let integer =
                |x: f64| (x.fract() == 0.0 && x.abs() < 2f64.powi(53)).then_some(x as i64);
            let values = (t.len() <= MAX_CONTENTS).then(|| super::to_f64(t).ok())??;
            values.into_iter().map(|x| integer(x).map(Dim::from)).collect()
        }
        _ => fact.as_dims(),
    }
}

/// Whether contents of `dtype` are followed.
pub fn carries(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32 | DType::F32 | DType::F64)
}

/// The fact of an elementwise result of type `dtype`, `f` of the elements of all
/// inputs, which broadcast; `None` if an input is unknown, `f` finds no formula, or
/// all inputs are constants.
pub fn combine(args: &InferArgs, dtype: DType, f: impl Fn(&[&Dim]) -> Option<Dim>) -> Option<Fact> {
    if !carries(dtype) {
        return None;
    }
    let (rows, scalar) = elements(args)?;
    let out = each(&rows, f)?;
    Some(Fact::dims(dtype, out, scalar))
}

/// The fact of a comparison, if its outcome is the same for every size that the
/// symbols may take.
pub fn decide(args: &InferArgs, holds: impl Fn(Ordering) -> bool) -> Option<Fact> {
    let (rows, scalar) = elements(args)?;
    let out = each(&rows, |v| {
        let mut outcomes = orders(v.first()?, v.get(1)?).map(&holds);
        let first = outcomes.next()?;
        outcomes.all(|other| other == first).then_some(first)
    })?;
    let shape: &[usize] = if scalar { &[] } else { &[out.len()] };
    Some(Fact::constant(Tensor::from_vec(shape, out).ok()?))
}

/// The orders of two formulas that are not ruled out.
fn orders(a: &Dim, b: &Dim) -> impl Iterator<Item = Ordering> {
    let bounds = Bounds::default();
    let possible = [
        (Ordering::Less, !b.always_le(a, &bounds)),
        (Ordering::Equal, !a.always_lt(b, &bounds) && !b.always_lt(a, &bounds)),
        (Ordering::Greater, !a.always_le(b, &bounds)),
    ];
    possible.into_iter().filter(|&(_, possible)| possible).map(|(order, _)| order)
}

/// Contents of every input, and whether all inputs are scalars.
fn elements(args: &InferArgs) -> Option<(Vec<Vec<Dim>>, bool)> {
    if (0..args.len()).all(|i| args.get(i).is_none_or(|f| f.as_constant().is_some())) {
        return None;
    }
    let rows = (0..args.len()).map(|i| contents(args.get(i)?)).collect::<Option<Vec<_>>>()?;
    let scalar = (0..args.len()).all(|i| args.get(i).and_then(Fact::rank) == Some(0));
    Some((rows, scalar))
}

fn each<R>(rows: &[Vec<Dim>], f: impl Fn(&[&Dim]) -> Option<R>) -> Option<Vec<R>> {
    let n = if rows.iter().any(Vec::is_empty) { 0 } else { rows.iter().map(Vec::len).max()? };
    if n > 0 && rows.iter().any(|r| r.len() != 1 && r.len() != n) {
        return None;
    }
    (0..n)
        .map(|i| {
            let column: Vec<&Dim> =
                rows.iter().map(|r| if r.len() == 1 { &r[0] } else { &r[i] }).collect();
            f(&column)
        })
        .collect()
}

/// A formula, unless it is beyond what formulas can say.
pub fn sound(dim: Dim) -> Option<Dim> {
    dim.poison().is_none().then_some(dim)
}

/// `a / b` rounded toward zero, where that is provably a floor division or exact.
pub fn div_trunc(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.as_const() == Some(0) {
        return None;
    }
    let quotient = a.floor_div(b);
    let sizes = is_size(a) && is_size(b);
    if sizes || &(&quotient * b) == a { sound(quotient) } else { None }
}

/// `a / b` if the quotient is provably an integer.
pub fn div_exact(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.as_const() == Some(0) {
        return None;
    }
    let quotient = a.floor_div(b);
    if &(&quotient * b) == a { sound(quotient) } else { None }
}

/// Whether the formula is never negative.
pub fn is_size(dim: &Dim) -> bool {
    Dim::from(0i64).always_le(dim, &Bounds::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Operator, Type, ValueId, ops};

    #[test]
    fn division_is_followed_only_where_truncation_and_floor_agree() {
        let n = Dim::sym("n");
        assert_eq!(div_trunc(&n, &Dim::from(2i64)), Some(n.floor_div(&Dim::from(2i64))));
        assert_eq!(div_trunc(&(&n * 4), &Dim::from(-2i64)), Some(&n * -2));
        assert_eq!(div_trunc(&(&n - 7), &Dim::from(2i64)), None);
        assert_eq!(div_trunc(&n, &Dim::from(0i64)), None);
        assert_eq!(div_exact(&n, &Dim::from(2i64)), None);
        assert_eq!(div_exact(&(&n * 6), &Dim::from(2i64)), Some(&n * 3));
    }

    #[test]
    fn float_contents_count_while_they_are_integers() {
        let whole = Fact::constant(Tensor::from_slice(&[2], &[1.0f32, -3.0]).unwrap());
        assert_eq!(contents(&whole), Some(vec![Dim::from(1i64), Dim::from(-3i64)]));
        let half = Fact::constant(Tensor::from_slice(&[1], &[0.5f32]).unwrap());
        assert_eq!(contents(&half), None);
    }

    /// A graph with one input `x: f32[n, 3, h, w]`, built by small closures.
    struct Net(Graph, ValueId);

    impl Net {
        fn new() -> Self {
            let mut g = Graph::new("net");
            let shape = [Dim::sym("n"), 3.into(), Dim::sym("h"), Dim::sym("w")];
            let x = g.add_input("x", Type::tensor(DType::F32, shape)).unwrap();
            Net(g, x)
        }

        fn add(&mut self, op: impl Operator, inputs: &[ValueId]) -> ValueId {
            let name = self.0.unique_name(op.name());
            self.0.add(&name, op, inputs).unwrap()
        }

        fn ints(&mut self, shape: &[usize], v: &[i64]) -> ValueId {
            let name = self.0.unique_name("c");
            self.0.add_constant(&name, Tensor::from_slice(shape, v).unwrap()).unwrap()
        }

        fn extent(&mut self, axis: i64) -> ValueId {
            let shape = self.add(ops::Shape::default(), &[self.1]);
            let axis = self.ints(&[], &[axis]);
            self.add(ops::Gather::default(), &[shape, axis])
        }

        fn shape(&self, v: ValueId) -> String {
            self.0.fact(v).to_string()
        }
    }

    /// `x.expand(-1, 3, h, w)` as PyTorch writes it: ones times −1, compared with the wanted
    /// shape, chosen where equal.
    #[test]
    fn expand_with_wildcards_keeps_symbols() {
        let mut net = Net::new();
        let wanted = net.add(ops::Shape::default(), &[net.1]);
        let four = net.ints(&[1], &[4]);
        let one = Tensor::from_slice(&[1], &[1i64]).unwrap();
        let ones = net.add(ops::ConstantOfShape { value: Some(one) }, &[four]);
        let minus = net.ints(&[], &[-1]);
        let negative = net.add(ops::Mul {}, &[ones, minus]);
        let wild = net.add(ops::Equal {}, &[wanted, negative]);
        let target = net.add(ops::Where {}, &[wild, ones, wanted]);
        let y = net.add(ops::Expand {}, &[net.1, target]);
        assert_eq!(net.shape(y), "f32[n, 3, h, w]");
    }

    /// `h // 2` as PyTorch writes it for integers: the truncated quotient, less one where the
    /// remainder is not zero and the signs differ.
    #[test]
    fn floor_division_of_an_extent_is_a_formula() {
        let mut net = Net::new();
        let (h, two, zero) = (net.extent(2), net.ints(&[], &[2]), net.ints(&[], &[0]));
        let quotient = net.add(ops::Div {}, &[h, two]);
        let rest = net.add(ops::Mod::default(), &[h, two]);
        let divides = net.add(ops::Equal {}, &[rest, zero]);
        let remains = net.add(ops::Not {}, &[divides]);
        let (a, b) = (net.add(ops::Less {}, &[h, zero]), net.add(ops::Less {}, &[two, zero]));
        let signs = net.add(ops::Xor {}, &[a, b]);
        let fix = net.add(ops::And {}, &[remains, signs]);
        let fix = net.add(ops::Cast { to: DType::I64, ..Default::default() }, &[fix]);
        let floor = net.add(ops::Sub {}, &[quotient, fix]);
        let got = net.0.fact(floor).as_dims();
        assert_eq!(got, Some(vec![Dim::sym("h").floor_div(&2.into())]));
    }

    /// An extent scaled by way of floats, then a range and a constant of that length.
    #[test]
    fn scaled_extents_shape_what_is_made_from_them() {
        let mut net = Net::new();
        let h = net.extent(2);
        let float = net.add(ops::Cast { to: DType::F32, ..Default::default() }, &[h]);
        let two = net.0.add_constant("two", Tensor::scalar(2f32).unwrap()).unwrap();
        let scaled = net.add(ops::Mul {}, &[float, two]);
        let floor = net.add(ops::Floor {}, &[scaled]);
        let int = net.add(ops::Cast { to: DType::I64, ..Default::default() }, &[floor]);
        let (zero, one) = (net.ints(&[], &[0]), net.ints(&[], &[1]));
        let range = net.add(ops::Range::default(), &[zero, int, one]);
        assert_eq!(net.shape(range), "i64[2*h]");
        let (axis, batch) = (net.ints(&[1], &[0]), net.extent(0));
        let pair = [batch, int].map(|v| net.add(ops::Unsqueeze {}, &[v, axis]));
        let shape = net.add(ops::Concat::default(), &pair);
        let made = net.add(ops::ConstantOfShape::default(), &[shape]);
        assert_eq!(net.shape(made), "f32[n, 2*h]");
    }
}
