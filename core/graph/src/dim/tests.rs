//! Tables, one per promise. Add a rule's identity to `same`, and a case that it must not touch to
//! `different`; `properties` then tries the rule on random formulas.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::*;

fn dim(text: &str) -> Dim {
    Dim::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(super) fn bind(pairs: &[(&str, i64)]) -> Bindings {
    let mut bindings = Bindings::new();
    for (name, value) in pairs {
        bindings.bind(*name, *value).unwrap();
    }
    bindings
}

pub(super) fn bounds(entries: &[(&str, i64, Option<i64>)]) -> Bounds {
    let mut bounds = Bounds::new();
    for (name, min, max) in entries {
        bounds.set(*name, *min, *max).unwrap();
    }
    bounds
}

/// Runs every row and reports all that fail.
fn each<T: std::fmt::Debug>(rows: &[T], check: impl Fn(&T) -> Result<(), String>) {
    let failed: Vec<String> = rows
        .iter()
        .filter_map(|row| check(row).err().map(|why| format!("{row:?}: {why}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn same() {
    let rows = [
        ("seq+batch*2", "2*batch+seq"),
        ("(a+b)*c", "a*c+b*c"),
        ("(a+b)*(a-b)", "a*a-b*b"),
        ("x-x", "0"),
        ("--x", "x"),
        ("(2*a)-(-3*a)", "5*a"),
        // Exact division.
        ("floordiv(2*a,2)", "a"),
        ("floordiv(a*b,b)", "a"),
        ("floordiv(4*a+8,4)", "a+2"),
        ("floordiv(64*b*(s+p),s+p)", "64*b"),
        ("floordiv(b*s*64,b*64)", "s"),
        ("ceildiv(a*b,b)", "a"),
        ("ceildiv(x,1)", "x"),
        ("floordiv(x,-2)", "floordiv(-x,2)"),
        ("floordiv(a*b,a*c)", "floordiv(b,c)"),
        ("floordiv(a*b+c,b)", "a+floordiv(c,b)"),
        // Partial and nested division by constants.
        ("floordiv(x-1,2)+1", "ceildiv(x,2)"),
        ("floordiv(6*x+3,4)", "floordiv(3*x+1,2)"),
        ("floordiv(4*y+x,4)", "y+floordiv(x,4)"),
        ("floordiv(floordiv(x,2),3)", "floordiv(x,6)"),
        ("floordiv(floordiv(x-3,2)-2,2)", "floordiv(x-7,4)"),
        ("floordiv(floordiv(x,2)+1,3)", "floordiv(x+2,6)"),
        ("floordiv(mod(x,8),8)", "0"),
        ("floordiv(x,x+1)", "0"),
        ("ceildiv(x+1,x+2)", "1"),
        // Remainders.
        ("mod(x,1)", "0"),
        ("mod(3*x,3)", "0"),
        ("mod(a*b,b)", "0"),
        ("mod(x+5,3)", "mod(x+2,3)"),
        ("mod(2*x+1,4)", "2*mod(x,2)+1"),
        ("mod(mod(x,6),3)", "mod(x,3)"),
        ("mod(mod(x,3),6)", "mod(x,3)"),
        ("mod(x,-3)", "-mod(-x,3)"),
        ("mod(a*b,a*c)", "a*mod(b,c)"),
        // Order.
        ("min(x,x)", "x"),
        ("min(x,x+1)", "x"),
        ("max(2*x,3*x)", "3*x"),
        ("min(n,-1)", "-1"),
        ("max(x,0)", "x"),
        ("min(min(a,b),c)", "min(c,min(b,a))"),
        ("min(a,4,b,7)", "min(4,a,b)"),
        // Broadcasting.
        ("broadcast(1,x)", "x"),
        ("broadcast(x,x)", "x"),
        ("broadcast(a,b)", "broadcast(b,a)"),
        ("broadcast(x,8)", "8"),
        ("broadcast(0,1)", "0"),
        ("broadcast(broadcast(a,b),a)", "broadcast(a,b)"),
        ("broadcast(x,min(24,x))", "x"),
        ("broadcast(x,min(a,x))", "broadcast(min(a,x),x)"),
    ];
    each(&rows, |(a, b)| {
        let (a, b) = (dim(a), dim(b));
        if a == b { Ok(()) } else { Err(format!("{a} is not {b}")) }
    });
}

#[test]
fn different() {
    let rows = [
        ("2*floordiv(x,2)", "x"),
        ("floordiv(x,2)", "ceildiv(x,2)"),
        ("floordiv(a+b,a)", "b"),
        ("mod(x,2)", "mod(x,4)"),
        ("mod(mod(x,4),6)", "mod(x,6)"),
        ("min(a,b)", "max(a,b)"),
        ("min(x,2*y)", "x"),
        ("floordiv(x,0)", "0"),
        ("broadcast(3,4)", "4"),
    ];
    each(&rows, |(a, b)| {
        let (a, b) = (dim(a), dim(b));
        if a == b { Err(format!("both are {a}")) } else { Ok(()) }
    });
}

#[test]
fn prints_as_written() {
    let rows = [
        "0",
        "-7",
        "-9223372036854775808",
        "x-9223372036854775808",
        "2*seq+1",
        "-x+1",
        "2*batch+seq",
        "a*a*b-3*a",
        "ceildiv(seq,16)",
        "floordiv(h+1,4)",
        "floordiv(a,b)",
        "ceildiv(a,b)",
        "mod(-seq,64)",
        "min(4,a,b)",
        "broadcast(a,b)",
        "broadcast(3,4)",
        "`odd name`+`past-len`",
        "`back``tick`",
        "``",
        "`0x`",
        "`größe`",
        "/model/x.y:0#1",
        "max+min",
        "mod(x,0)",
    ];
    each(&rows, |text| {
        let printed = dim(text).to_string();
        if printed == *text { Ok(()) } else { Err(format!("prints as {printed}")) }
    });
    assert_eq!(dim(" - ( a ) * min ( b , 2 ) ").to_string(), "-a*min(2,b)");
}

#[test]
fn refuses_text() {
    let rows = [
        ("", 0),
        ("a+", 2),
        ("a b", 2),
        ("(a", 2),
        ("a)", 1),
        ("2x", 1),
        ("`a", 0),
        ("é", 0),
        ("foo(a,b)", 4),
        ("mod(a)", 5),
        ("mod(a,b,c)", 9),
        ("9223372036854775808", 0),
        ("a*", 2),
        ("a%b", 1),
    ];
    each(&rows, |(text, place)| match Dim::parse(text) {
        Err(DimError::Parse { at, .. }) if at == *place => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for hostile in [
        "(".repeat(60_000),
        "-".repeat(60_000),
        "min(a,".repeat(10_000),
        "floordiv(".repeat(7_000),
        "a+".repeat(40_000),
    ] {
        assert!(matches!(Dim::parse(&hostile), Err(DimError::Parse { .. })), "{:.9}", hostile);
    }
    let powers = vec!["x"; 30_000].join("*");
    assert_eq!(Dim::parse(&powers), Err(DimError::TooComplex));
    assert!(matches!(Dim::parse("9223372036854775807+1"), Err(DimError::Overflow { .. })));
}

#[test]
fn evaluates() {
    let sizes = bind(&[("a", 7), ("b", 3), ("one", 1), ("zero", 0)]);
    let rows = [
        ("2*a*b-1", 41),
        ("floordiv(-a,2)", -4),
        ("ceildiv(a,b)", 3),
        ("floordiv(a,-b)", -3),
        ("mod(-a,b)", 2),
        ("min(a,b)+max(a,b)", 10),
        ("broadcast(a,one)", 7),
        ("broadcast(one,zero)", 0),
        ("(a+b+1)*(a+b+1)*(a+b+1)*(a+b+1)*(a+b+1)*(a+b+1)*(a+b+1)*(a+b+1)", 214_358_881),
    ];
    let symbols: Vec<Symbol> = ["zero", "b", "one", "a"].map(Symbol::new).into();
    each(&rows, |(text, expected)| {
        let plain = dim(text).eval(&sizes);
        let compiled = dim(text).compile(&symbols).eval(&[0, 3, 1, 7]);
        if plain == Ok(*expected) && compiled == plain {
            return Ok(());
        }
        Err(format!("{plain:?}, compiled {compiled:?}"))
    });
}

#[test]
fn errors_name_both_sides() {
    let sizes = bind(&[("a", 7), ("b", 3), ("zero", 0), ("big", i64::MAX)]);
    let rows = [
        ("a+nope", "symbol nope has no value; bind it first"),
        ("2*big", "dimension 2*big overflows 64-bit integers; use smaller sizes"),
        ("floordiv(a,zero)", "dimension floordiv(a,zero) divides by zero"),
        ("broadcast(a,b)", "dimension broadcast(a,b): 7 and 3 are neither equal nor is one 1"),
    ];
    each(&rows, |(text, expected)| {
        let dim = dim(text);
        let error = dim.eval(&sizes).unwrap_err();
        let symbols: Vec<Symbol> = sizes.iter().map(|(symbol, _)| symbol.clone()).collect();
        let values: Vec<i64> = sizes.iter().map(|(_, value)| value).collect();
        if dim.compile(&symbols).eval(&values) != Err(error.clone()) {
            return Err("the compiled formula fails otherwise".into());
        }
        if error.to_string() == *expected { Ok(()) } else { Err(error.to_string()) }
    });
    let compiled = dim("a+b").compile(&[Symbol::new("a"), Symbol::new("b")]);
    assert_eq!(compiled.eval(&[1]), Err(DimError::Unbound { symbol: Symbol::new("b") }));
    let negative = DimError::Negative { symbol: Symbol::new("a"), value: -1 };
    assert_eq!(compiled.eval(&[-1, 2]), Err(negative));
}

#[test]
fn poison_absorbs_and_never_panics() {
    let max = Dim::from(i64::MAX);
    let x = Dim::sym("x");
    let rows = [
        &max + 1,
        &max * 2,
        -Dim::from(i64::MIN),
        &x * i64::MAX * 2,
        &x * i64::MAX + &x,
        Dim::from(i64::MIN).floor_div(&Dim::from(-1)),
        (&x * 3 + i64::MAX).ceil_div(&Dim::from(5)),
        Dim::overflow() * Dim::from(0),
        0 - Dim::overflow(),
        Dim::overflow().min(&x),
        x.floor_div(&Dim::overflow()),
        x.broadcast(&Dim::overflow()),
        Dim::sum([&x, &Dim::overflow()]),
        dim("2*x").substitute(&BTreeMap::from([(Symbol::new("x"), max.clone())])),
    ];
    each(&rows, |poisoned| {
        let error = poisoned.eval(&Bindings::new());
        let none = Bounds::new();
        if !matches!(error, Err(DimError::Overflow { .. })) || poisoned.is_const() {
            return Err(format!("{error:?}"));
        }
        if poisoned.always_eq(poisoned, &none) || Dim::from(0).always_le(poisoned, &none) {
            return Err("proves something".into());
        }
        Ok(())
    });
}

#[test]
fn shared_parts_do_not_blow_up() {
    // As trees these double at every step.
    let (mut a, mut b) = (Dim::sym("a"), Dim::sym("b"));
    for _ in 0..2_000 {
        (a, b) = ((&a + 3).floor_div(&(&b + 2)), (&a * 5 + &b).rem(&(&b + 1)));
    }
    assert_eq!(a.eval(&Bindings::new()), Err(DimError::TooComplex));
    let mut product = Dim::sym("x") + Dim::sym("y") + 1;
    for _ in 0..64 {
        product = &product * &product;
    }
    assert!(product.poison().is_some());
    // A chain only ever one level deeper would overflow the stack instead.
    let mut chain = Dim::sym("a");
    for i in 0..100_000 {
        chain = chain.floor_div(&Dim::sym("b")) + i;
    }
    assert!(chain.poison().is_some());
}

#[test]
fn large_products_stay_whole() {
    let long = |name: &str| Dim::sum((0..9).map(|i| Dim::sym(&format!("{name}{i}"))));
    let (p, q) = (long("p"), long("q"));
    let product = &p * &q;
    assert_eq!(product, &q * &p);
    assert_eq!(&product - &product, Dim::from(0));
    let text = (&product * 3 * Dim::sym("k") + 1).to_string();
    assert_eq!(dim(&text), &product * 3 * Dim::sym("k") + 1);
    let mut sizes = Bindings::new();
    for symbol in product.symbols() {
        sizes.bind(symbol, 2).unwrap();
    }
    assert_eq!(product.eval(&sizes), Ok(18 * 18));
}

#[test]
fn unifies() {
    let known = [("b", 4)];
    let s = |value| Ok(Some(value));
    let rows = [
        ("s", 5, s(5)),
        ("2*s+1", 9, s(4)),
        ("2*s+1", 8, Err("no size s makes dimension 2*s+1 equal to the actual 8")),
        ("s+9", 8, Err("no size s makes dimension s+9 equal to the actual 8")),
        ("b*s", 12, s(3)),
        ("-s+10", 4, s(6)),
        ("broadcast(s,b)-b+1", 1, Ok(None)),
        ("s-s+b", 4, Ok(None)),
        ("b", 4, Ok(None)),
        ("b", 5, Err("dimension b is 4 here, but the actual size is 5")),
        ("2*b", 9, Err("dimension 2*b is 8 here, but the actual size is 9")),
        (
            "s+t",
            9,
            Err(
                "dimension s+t = 9 does not determine s, t; bind it by another input or explicitly",
            ),
        ),
        (
            "floordiv(s,2)",
            9,
            Err("dimension floordiv(s,2) = 9 does not determine s; \
                 bind it by another input or explicitly"),
        ),
        ("s", -1, Err("symbol s is -1, but a size cannot be negative")),
    ];
    each(&rows, |(text, actual, expected)| {
        let mut bindings = bind(&known);
        let result = bindings.unify(&dim(text), *actual).map_err(|error| error.to_string());
        let result = result.map(|()| bindings.get("s"));
        if result == expected.map_err(str::to_owned) { Ok(()) } else { Err(format!("{result:?}")) }
    });
}

#[test]
fn bounds_are_checked() {
    let limits = bounds(&[("batch", 1, Some(8)), ("seq", 1, None)]);
    assert_eq!(limits.check(&bind(&[("batch", 8), ("other", 0)])), Ok(()));
    let error = limits.check(&bind(&[("batch", 9)])).unwrap_err();
    assert_eq!(error.to_string(), "symbol batch is 9, but its bounds are 1 to 8");
    let error = limits.check(&bind(&[("seq", 0)])).unwrap_err();
    assert_eq!(error.to_string(), "symbol seq is 0, but it must be at least 1");
    assert!(Bounds::new().set("x", -1, None).is_err());
    assert!(Bounds::new().set("x", 3, Some(2)).is_err());
}

#[test]
fn ranges() {
    let limits = bounds(&[("b", 1, Some(8)), ("s", 16, Some(4096)), ("n", 2, None)]);
    let rows = [
        ("2*b+1", 3, Some(17)),
        ("b*s", 16, Some(32768)),
        ("s-b", 8, Some(4095)),
        ("-n", i64::MIN, Some(-2)),
        ("free", 0, None),
        ("ceildiv(s,16)", 1, Some(256)),
        ("floordiv(s,b)", 2, Some(4096)),
        ("floordiv(s,n)", 0, Some(2048)),
        ("ceildiv(s,n)", 1, Some(2048)),
        ("mod(n,b)", 0, Some(7)),
        ("mod(b,s+1)", 1, Some(8)),
        ("min(n,b)", 1, Some(8)),
        ("max(n,b)", 2, None),
        ("broadcast(b,s)", 1, Some(4096)),
        ("free*n", 0, None),
        ("(b-4)*(b-4)", -47, Some(72)),
    ];
    each(&rows, |(text, min, max)| {
        let range = dim(text).range(&limits);
        let expected = Range { min: *min, max: *max };
        if range == expected { Ok(()) } else { Err(format!("{range:?}")) }
    });
    assert_eq!(Dim::overflow().range(&limits), Range { min: i64::MIN, max: None });
}

#[test]
fn proofs() {
    let limits = bounds(&[("b", 1, Some(128)), ("s", 1, Some(4096)), ("n", 1, None)]);
    let proven = [
        ("x", "x+y"),
        ("x", "x*n"),
        ("b*x", "128*x"),
        ("b*s", "524288"),
        ("b*s*x", "524288*x"),
        ("x", "16*ceildiv(x,16)"),
        ("64*x*y", "1024*y*ceildiv(x,16)"),
        ("2*floordiv(x,2)", "x"),
        ("n*floordiv(x,n)", "x"),
        ("x", "n*ceildiv(x,n)"),
        ("mod(x,y)", "x"),
        ("min(x,y)", "x"),
        ("min(2*x,y)", "y+3*x"),
        ("x", "max(x,y)+z"),
        ("max(x,y)", "x+y"),
        ("floordiv(x,2)+floordiv(y,2)", "floordiv(x+y,2)"),
        ("broadcast(x,y)", "x+y"),
    ];
    each(&proven, |(a, b)| {
        if dim(a).always_le(&dim(b), &limits) { Ok(()) } else { Err("not proven".into()) }
    });
    let false_claims = [
        ("x", "y"),
        ("x+1", "x"),
        ("x", "2*floordiv(x,2)"),
        ("16*ceildiv(x,16)", "x+14"),
        ("b*x", "127*x"),
        ("max(x,y)", "x"),
        ("n", "b"),
        ("x+1", "n*x"),
        // A divisor of either sign.
        ("0", "mod(x,y-8)"),
        ("0", "floordiv(x,y-8)"),
    ];
    each(&false_claims, |(a, b)| {
        if dim(a).always_le(&dim(b), &limits) { Err("proven".into()) } else { Ok(()) }
    });
    let order = |a: &str, b: &str| dim(a).cmp_under(&dim(b), &limits);
    assert_eq!(order("mod(x,2)", "x-2*floordiv(x,2)"), Some(Ordering::Equal));
    assert_eq!(order("s", "x+4097"), Some(Ordering::Less));
    assert_eq!(order("x+n", "x"), Some(Ordering::Greater));
    assert_eq!(order("x", "y"), None);
}

#[test]
fn broadcast_conflict_is_seen_when_built() {
    let error = Dim::from(3).try_broadcast(&Dim::from(4)).unwrap_err();
    let text = "dimension broadcast(3,4): 3 and 4 are neither equal nor is one 1";
    assert_eq!(error.to_string(), text);
    assert_eq!(Dim::from(3).try_broadcast(&Dim::sym("n")), Ok(Dim::from(3)));
    assert_eq!(Dim::from(3).try_broadcast(&Dim::from(1)), Ok(Dim::from(3)));
}

#[test]
fn covers_drop_rounding_and_take_the_greater_coefficients() {
    let limits = bounds(&[("x", 1, None), ("y", 0, Some(9))]);
    let smooth = |text: &str| dim(text).without_rounding(&limits).to_string();
    assert_eq!(smooth("64*ceildiv(x*y,16)"), "4*x*y+60");
    assert_eq!(smooth("3*floordiv(x,2)+y"), "2*x+y");
    // Nothing to drop: a quotient that counts negatively, of what may be negative, by a symbol.
    for same in ["x-floordiv(x,2)", "floordiv(y-x,2)", "floordiv(x,y)", "min(x,y)"] {
        assert_eq!(smooth(same), dim(same).to_string());
    }
    let cover = |a: &str, b: &str| dim(a).cover(&dim(b), &limits);
    assert_eq!(cover("3*x+y", "2*x+4*y+7"), dim("3*x+4*y+7"));
    assert_eq!(cover("x-3*y", "x*y-y"), dim("x*y+x-y"));
    assert_eq!(cover("mod(x,y-5)", "x"), dim("mod(x,y-5)").max(&dim("x")));
}
