//! Properties of random formulas: a [`Tree`] is evaluated as it stands and through [`Dim`].
//! `PROPTEST_CASES` scales how many are tried.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::tests::{bind, bounds};
use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A formula as written, with no simplification.
#[derive(Clone, Debug)]
enum Tree {
    Const(i64),
    Sym(usize),
    Op(&'static str, Box<(Tree, Tree)>),
}

impl Tree {
    /// The value by the definition of each operation; `None` where it has none.
    fn value(&self, sizes: &[i64]) -> Option<i128> {
        let (op, sides) = match self {
            Self::Const(value) => return Some((*value).into()),
            Self::Sym(index) => return Some(sizes[*index].into()),
            Self::Op(op, sides) => (*op, sides),
        };
        let (a, b) = (sides.0.value(sizes)?, sides.1.value(sizes)?);
        let floor = |a: i128, b: i128| {
            a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
        };
        match op {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "floordiv" => floor(a, b),
            "ceildiv" => floor(-a, b).map(|q| -q),
            "mod" => floor(a, b).map(|q| a - b * q),
            "min" => Some(a.min(b)),
            "max" => Some(a.max(b)),
            _ if a == 1 => Some(b),
            _ => (a == b || b == 1).then_some(a),
        }
    }

    fn dim(&self) -> Dim {
        let (op, sides) = match self {
            Self::Const(value) => return Dim::from(*value),
            Self::Sym(index) => return Dim::sym(NAMES[*index]),
            Self::Op(op, sides) => (*op, sides),
        };
        let (a, b) = (sides.0.dim(), sides.1.dim());
        match op {
            "+" => a + b,
            "-" => a - b,
            "*" => a * b,
            "floordiv" => a.floor_div(&b),
            "ceildiv" => a.ceil_div(&b),
            "mod" => a.rem(&b),
            "min" => a.min(&b),
            "max" => a.max(&b),
            _ => a.broadcast(&b),
        }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let ops = ["+", "-", "*", "*", "+", "floordiv", "ceildiv", "mod", "min", "max", "broadcast"];
    let leaf = prop_oneof![(-9i64..20).prop_map(Tree::Const), (0..4usize).prop_map(Tree::Sym)];
    leaf.prop_recursive(5, 24, 2, move |inner| {
        (prop::sample::select(ops.to_vec()), inner.clone(), inner)
            .prop_map(|(op, a, b)| Tree::Op(op, Box::new((a, b))))
    })
}

fn sizes() -> impl Strategy<Value = [i64; 4]> {
    prop::array::uniform4(0i64..12)
}

fn bound_sizes(sizes: &[i64; 4]) -> Bindings {
    bind(&std::array::from_fn::<_, 4, _>(|i| (NAMES[i], sizes[i])))
}

/// Bounds around the sizes, some of them open above.
fn bounds_around(sizes: &[i64; 4], below: &[i64; 4], above: &[i64; 4]) -> Bounds {
    bounds(&std::array::from_fn::<_, 4, _>(|i| {
        let max = (above[i] < 6).then(|| sizes[i] + above[i]);
        (NAMES[i], (sizes[i] - below[i]).max(0), max)
    }))
}

/// Formulas that are never negative, to stand for sizes.
fn size_trees() -> impl Strategy<Value = Tree> {
    let clamp = |tree| Tree::Op("max", Box::new((tree, Tree::Const(0))));
    let plus = |(a, b)| Tree::Op("+", Box::new((Tree::Sym(a), Tree::Const(b))));
    prop_oneof![(0..4usize, 0i64..3).prop_map(plus), trees().prop_map(clamp)]
}

/// Four times the usual number of cases, which `PROPTEST_CASES` sets.
fn config() -> ProptestConfig {
    let cases = 4 * ProptestConfig::default().cases;
    ProptestConfig {
        failure_persistence: None,
        cases,
        max_global_rejects: 8 * cases,
        ..Default::default()
    }
}

#[test]
fn overflow_is_rare_in_random_formulas() {
    // So the properties below, which excuse it, do not pass by it.
    let mut runner = TestRunner::deterministic();
    let (mut defined, mut known) = (0, 0);
    for _ in 0..2_000 {
        let tree = trees().new_tree(&mut runner).unwrap().current();
        if tree.value(&[2, 3, 5, 7]).is_some() {
            defined += 1;
            known += i32::from(tree.dim().eval(&bound_sizes(&[2, 3, 5, 7])).is_ok());
        }
    }
    assert!(defined > 1_000 && known * 100 >= defined * 99, "{known} of {defined}");
}

/// `outer(k*inner(j*a+r, m) + q, n)` for all small constants, which random trees seldom hit, and
/// with a symbol as either divisor.
#[test]
fn nested_divisions_keep_their_value() {
    let op = |name, a, b| Tree::Op(name, Box::new((a, b)));
    let linear =
        |factor, tree, offset| op("+", op("*", Tree::Const(factor), tree), Tree::Const(offset));
    let divisors = || (-3..5).map(Tree::Const).chain([Tree::Sym(1)]);
    let names = ["floordiv", "ceildiv", "mod"];
    let mut compared = 0u32;
    for (outer, inner) in names.iter().flat_map(|outer| names.map(|inner| (*outer, inner))) {
        for (m, n) in divisors().flat_map(|m| divisors().map(move |n| (m.clone(), n))) {
            for (k, j) in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 2), (-1, 1)] {
                for (q, r) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (-1, -1)] {
                    let divided = op(inner, linear(j, Tree::Sym(0), r), m.clone());
                    let tree = op(outer, linear(k, divided, q), n.clone());
                    let dim = tree.dim();
                    for a in 0..14 {
                        let sizes = [a, 3, 0, 0];
                        let Some(direct) = tree.value(&sizes) else { continue };
                        let value = dim.compile(&NAMES.map(Symbol::new)).eval(&sizes);
                        assert_eq!(value.map(i128::from), Ok(direct), "{tree:?} at {a}: {dim}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 200_000, "{compared}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn canonical_value_is_the_direct_value(tree in trees(), sizes in sizes()) {
        let dim = tree.dim();
        let value = dim.eval(&bound_sizes(&sizes));
        let symbols = NAMES.map(Symbol::new);
        prop_assert_eq!(&value, &dim.compile(&symbols).eval(&sizes));
        if let Some(direct) = tree.value(&sizes) {
            match value {
                Err(DimError::Overflow { .. }) => {}
                other => prop_assert_eq!(other.map(i128::from), Ok(direct), "{}", dim),
            }
        }
    }

    #[test]
    fn printed_text_parses_back(tree in trees()) {
        let dim = tree.dim();
        if dim.poison().is_none() {
            prop_assert_eq!(Dim::parse(&dim.to_string()), Ok(dim));
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[-+*(), ab0-9`éminodfloriv]{0,40}") {
        if let Ok(dim) = Dim::parse(&text) {
            prop_assert_eq!(Dim::parse(&dim.to_string()), Ok(dim));
        }
    }

    #[test]
    fn any_name_survives(name in any::<String>()) {
        let dim = Dim::sym(&name) + 1;
        prop_assert_eq!(Dim::parse(&dim.to_string()), Ok(dim));
    }

    #[test]
    fn range_holds_the_value(
        tree in trees(), sizes in sizes(), below in sizes(), above in sizes(),
    ) {
        let dim = tree.dim();
        let range = dim.range(&bounds_around(&sizes, &below, &above));
        if let Ok(value) = dim.eval(&bound_sizes(&sizes)) {
            let inside = range.min <= value && range.max.is_none_or(|max| value <= max);
            prop_assert!(inside, "{} = {} is not in {:?}", dim, value, range);
        }
    }

    #[test]
    fn substitution_commutes_with_evaluation(
        tree in trees(), replacements in prop::array::uniform4(size_trees()), sizes in sizes(),
    ) {
        let values: Vec<_> = replacements.iter().map(|tree| tree.value(&sizes)).collect();
        let small = |value: &Option<i128>| value.is_some_and(|value| (0..1000).contains(&value));
        prop_assume!(values.iter().all(small));
        let replaced: Vec<i64> = values.iter().flatten().map(|&v| v as i64).collect();
        let map = NAMES.map(Symbol::new).into_iter().zip(replacements.iter().map(Tree::dim));
        let dim = tree.dim();
        let substituted = dim.substitute(&map.collect());
        let sizes = bound_sizes(&sizes);
        if let Ok(value) = dim.eval(&bound_sizes(&replaced.try_into().unwrap())) {
            match substituted.eval(&sizes) {
                Err(DimError::Overflow { .. } | DimError::TooComplex) => {}
                other => prop_assert_eq!(other, Ok(value), "{} from {}", substituted, dim),
            }
        }
    }

    #[test]
    fn proven_order_holds(
        a in trees(), b in trees(), sizes in sizes(), below in sizes(), above in sizes(),
    ) {
        let bounds = bounds_around(&sizes, &below, &above);
        let at = bound_sizes(&sizes);
        let (a, b) = (a.dim(), b.dim());
        let near = a.min(&b) + (&a - &b).max(&Dim::from(0)).floor_div(&Dim::from(3)) * 2;
        for (a, b) in [(&a, &b), (&near, &a), (&a, &near)] {
            if let (true, Ok(x), Ok(y)) = (a.always_le(b, &bounds), a.eval(&at), b.eval(&at)) {
                prop_assert!(x <= y, "{} = {} exceeds {} = {}", a, x, b, y);
            }
        }
    }

    #[test]
    fn covers_are_at_least_as_large(
        a in trees(), b in trees(), sizes in sizes(), below in sizes(), above in sizes(),
    ) {
        let bounds = bounds_around(&sizes, &below, &above);
        let at = bound_sizes(&sizes);
        let (a, b) = (a.dim(), b.dim());
        let smooth = a.without_rounding(&bounds);
        if let (Ok(value), Ok(bound)) = (a.eval(&at), smooth.eval(&at)) {
            prop_assert!(value <= bound, "{} = {} exceeds {} = {}", a, value, smooth, bound);
        }
        let cover = a.cover(&b, &bounds);
        if let (Ok(x), Ok(y), Ok(both)) = (a.eval(&at), b.eval(&at), cover.eval(&at)) {
            prop_assert!(x.max(y) <= both, "{} = {} for {} and {}", cover, both, x, y);
        }
    }

    #[test]
    fn unify_finds_the_size(factor in 1i64..50, offset in -20i64..50, size in 0i64..1000) {
        let dim = Dim::sym("s") * factor + offset;
        let mut bindings = Bindings::new();
        prop_assert_eq!(bindings.unify(&dim, factor * size + offset), Ok(()));
        prop_assert_eq!(bindings.get("s"), Some(size));
    }
}
