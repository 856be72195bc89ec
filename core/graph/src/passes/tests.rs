//! Rules against the interpreter: what they change, what they leave, and that results stay.

use super::*;
use crate::{Attrs, Dim, Fact, Type, Value, ValueId, interpret, ops};
use deepseek_tensor::{DType, Tensor};

fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap()
}

fn op(name: &str, attrs: Attrs) -> Arc<dyn Operator> {
    build_op(name, attrs).unwrap()
}

/// Adds a node with one output of the same name.
fn node(g: &mut Graph, name: &str, op: Arc<dyn Operator>, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    g.add_node(name, op, &inputs, &[Some(name)]).unwrap()[0].unwrap()
}

fn named(g: &mut Graph, name: &str, op_name: &str, inputs: &[ValueId]) -> ValueId {
    node(g, name, op(op_name, Attrs::new()), inputs)
}

fn portable(g: &Graph) -> (Graph, Vec<String>) {
    let mut diagnostics = Diagnostics::new(Level::Missed);
    let outcome = Pipeline::portable().run(g, &mut diagnostics).unwrap();
    assert!(outcome.converged);
    (outcome.graph, diagnostics.entries().iter().map(Entry::to_string).collect())
}

fn names(g: &Graph) -> Vec<&str> {
    g.nodes().iter().map(|n| n.name.as_str()).collect()
}

/// A square matrix `x` of symbolic size.
fn square() -> (Graph, ValueId) {
    let mut g = Graph::new("g");
    let n = Dim::sym("n");
    let x = g.add_input("x", Type::tensor(DType::F32, [n.clone(), n])).unwrap();
    (g, x)
}

#[test]
fn a_patch_keeps_names_types_and_order() {
    let (mut g, x) = square();
    let a = g.add("a", ops::Softmax::default(), &[x]).unwrap();
    let b = g.add("b", ops::Softmax::default(), &[a]).unwrap();
    g.add_output("out", b).unwrap();
    let mut p = Patch::new(&g);
    let first = p.add("first", ops::Hardmax::default(), &[x.into()]).unwrap();
    let c = p.add("b", ops::Hardmax::default(), &[first]).unwrap();
    p.redirect(b, c).unwrap();
    let g = apply(&g, &[p]).unwrap();
    assert_eq!(names(&g), ["a", "first", "b"]);
    assert_eq!(g.outputs()[0].0, "out");
    assert_eq!(g.value(g.outputs()[0].1).name, "b");
    assert_eq!(g.fact(g.outputs()[0].1).to_string(), "f32[n, n]");
}

#[test]
fn a_node_can_be_put_behind_a_value() {
    let (mut g, x) = square();
    let y = g.add("y", ops::Softmax::default(), &[x]).unwrap();
    g.add_output("y", y).unwrap();
    let mut p = Patch::new(&g);
    let h = p.add("h", ops::Hardmax::default(), &[x.into()]).unwrap();
    p.redirect(x, h).unwrap();
    let behind = p.add("s", ops::LogSoftmax::default(), &[y.into()]).unwrap();
    p.redirect(y, behind).unwrap();
    let g = apply(&g, &[p]).unwrap();
    assert_eq!(names(&g), ["h", "y", "s"]);
}

#[test]
fn wrong_patches_are_refused() {
    let (mut g, x) = square();
    let a = g.add("a", ops::Softmax::default(), &[x]).unwrap();
    let b = g.add("b", ops::Softmax::default(), &[a]).unwrap();
    g.add_output("b", b).unwrap();
    let mut p = Patch::new(&g);
    let mean = p.add("m", ops::ReduceMean { keepdims: false, ..Default::default() }, &[x.into()]);
    let e = p.redirect(a, mean.unwrap()).unwrap_err();
    assert!(e.message().contains("f32[n, n] cannot be replaced by one of type f32[]"), "{e}");

    let mut p = Patch::new(&g);
    let c = p.add("c", ops::Softmax::default(), &[b.into()]).unwrap();
    p.redirect(a, c).unwrap();
    let e = apply(&g, &[p]).unwrap_err();
    assert!(e.message().contains("read itself"), "{e}");

    let mut p = Patch::new(&g);
    p.remove_node(0);
    let e = apply(&g, &[p]).unwrap_err();
    assert!(e.message().contains("removes 'a', which is still read"), "{e}");

    let other = g.clone();
    assert!(apply(&other, &[Patch::new(&g)]).is_err());
    let e = Patch::new(&g).add("m", ops::MatMul::default(), &[x.into()]).unwrap_err();
    assert_eq!(e.node(), Some("m"));
}

#[test]
fn patches_that_conflict_wait_for_the_next_round() {
    let (mut g, x) = square();
    let a = g.add("a", ops::Softmax::default(), &[x]).unwrap();
    g.add_output("a", a).unwrap();
    let patch = |name: &str| {
        let mut p = Patch::new(&g);
        let new = p.add(name, ops::Hardmax::default(), &[x.into()]).unwrap();
        p.redirect(a, new).unwrap();
        p
    };
    assert_eq!(names(&apply(&g, &[patch("p"), patch("q")]).unwrap()), ["p"]);
}

#[test]
fn known_contents_become_constants_and_symbols_follow() {
    let mut g = Graph::new("g");
    let n = Dim::sym("n");
    let x = g.add_input("x", Type::tensor(DType::F32, [n.clone(), Dim::from(2)])).unwrap();
    let c = g.add_constant("c", f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0])).unwrap();
    let cc = g.add("cc", ops::MatMul::default(), &[c, c]).unwrap();
    let y = g.add("y", ops::MatMul::default(), &[x, cc]).unwrap();
    g.add_output("y", y).unwrap();
    let (out, log) = portable(&g);
    assert_eq!(names(&out), ["y"]);
    assert_eq!(log, ["fold: cc: constant f32[2, 2]"]);
    let folded = out.find("cc").unwrap();
    assert_eq!(out.constant(folded).unwrap().to_vec::<f32>().unwrap(), [7.0, 10.0, 15.0, 22.0]);
    assert!(out.find("c").is_none(), "an unread constant is dropped");
}

#[test]
fn folding_has_limits() {
    let mut g = Graph::new("g");
    let row = g.add_constant("row", f32s(&[1, 300], &[1.0; 300])).unwrap();
    let col = g.add_constant("col", f32s(&[300, 1], &[1.0; 300])).unwrap();
    let y = g.add("y", ops::MatMul::default(), &[col, row]).unwrap();
    g.add_output("y", y).unwrap();
    let (out, log) = portable(&g);
    assert_eq!(names(&out), ["y"]);
    assert_eq!(log, ["fold: y: not computed: 360000 bytes from 2400 grow by more than 65536"]);
    let roomy = FoldConstants { max_growth: 1 << 20, ..Default::default() };
    let passes = Pipeline::new(vec![Box::new(roomy)]);
    let out = passes.run(&g, &mut Diagnostics::off()).unwrap().graph;
    assert!(out.nodes().is_empty() && out.constant(out.outputs()[0].1).is_some());
    let slow = FoldConstants { max_growth: 1 << 20, max_work: 1000.0, ..FoldConstants::default() };
    let out = Pipeline::new(vec![Box::new(slow)]).run(&g, &mut Diagnostics::off()).unwrap().graph;
    assert_eq!(out.nodes().len(), 1);
}

#[test]
fn equal_things_are_computed_once() {
    let (mut g, x) = square();
    let c = g.add_constant("c", f32s(&[1], &[1.0])).unwrap();
    let d = g.add_constant("d", f32s(&[1], &[1.0])).unwrap();
    let s = |axis| ops::Softmax { axis };
    let a = g.add("a", s(0), &[x]).unwrap();
    let b = g.add("b", s(0), &[x]).unwrap();
    let other = g.add("other", s(1), &[x]).unwrap();
    let aa = g.add("aa", ops::RMSNormalization::default(), &[a, c]).unwrap();
    let bb = g.add("bb", ops::RMSNormalization::default(), &[b, d]).unwrap();
    for (name, id) in [("0", aa), ("1", bb), ("2", other), ("3", b)] {
        g.add_output(name, id).unwrap();
    }
    let (out, _) = portable(&g);
    assert_eq!(names(&out), ["a", "other", "aa"]);
    let outputs: Vec<_> =
        out.outputs().iter().map(|(n, v)| (&n[..], &out.value(*v).name[..])).collect();
    assert_eq!(outputs, [("0", "aa"), ("1", "aa"), ("2", "other"), ("3", "a")]);
}

#[test]
fn symbols_follow_the_values_that_bind_them() {
    let (mut g, x) = square();
    let a = named(&mut g, "a", "NonZero", &[x]);
    let b = named(&mut g, "b", "NonZero", &[x]);
    let f = named(&mut g, "f", "Neg", &[b]);
    let sum = named(&mut g, "sum", "Add", &[a, f]);
    g.add_output("sum", sum).unwrap();
    let symbol = |g: &Graph, v: ValueId| g.fact(v).shape().unwrap()[1].clone();
    assert_ne!(symbol(&g, a), symbol(&g, f));
    // A node that replaces another takes over its symbol, whatever it is called.
    let mut p = Patch::new(&g);
    let new = p.add_node("a", op("NonZero", Attrs::new()), &[Some(x.into())], &[true]);
    let new = new.unwrap()[0].unwrap();
    assert_ne!(p.fact(new).unwrap().shape().unwrap()[1], symbol(&g, a));
    p.redirect(b, new).unwrap();
    let patched = apply(&g, &[p]).unwrap();
    assert_eq!(symbol(&patched, patched.find("f").unwrap()), symbol(&g, f));
    let (out, _) = portable(&g);
    assert_eq!(names(&out), ["a", "f", "sum"]);
    assert_eq!(symbol(&out, out.find("f").unwrap()), symbol(&g, a));
    assert_eq!(symbol(&out, out.find("sum").unwrap()), symbol(&g, a));
}

#[test]
fn rounds_are_bounded() {
    /// Wraps the output in one more node each time.
    struct Grow;
    impl Pass for Grow {
        fn name(&self) -> &'static str {
            "grow"
        }
        fn run<'g>(&self, graph: &'g Graph, _: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
            let (_, y) = graph.outputs()[0];
            let mut p = Patch::new(graph);
            let wrapped = p.add("w", ops::Softmax::default(), &[y.into()])?;
            p.redirect(y, wrapped)?;
            Ok(vec![p])
        }
    }
    let (mut g, x) = square();
    let y = g.add("y", ops::Softmax::default(), &[x]).unwrap();
    g.add_output("y", y).unwrap();
    let pipeline = Pipeline::new(vec![Box::new(Grow)]).max_rounds(3);
    let outcome = pipeline.run(&g, &mut Diagnostics::off()).unwrap();
    assert!(!outcome.converged);
    assert_eq!((outcome.rounds, names(&outcome.graph)), (3, vec!["y", "w", "w_1", "w_2"]));
}

#[test]
fn subgraphs_are_rewritten_too() {
    let ty = || Type::tensor(DType::F32, [1, 1, 1, 2].map(|d: i64| Dim::from(d)));
    let mut body = Graph::new("mod");
    let s = body.add_input("s", ty()).unwrap();
    let c = body.add_constant("c", f32s(&[2, 2], &[0.0, 1.0, 1.0, 0.0])).unwrap();
    let cc = body.add("cc", ops::MatMul::default(), &[c, c]).unwrap();
    let t = body.add("t", ops::MatMul::default(), &[s, cc]).unwrap();
    body.add_output("t", t).unwrap();
    let mut g = Graph::new("g");
    let q = g
        .add_input("q", Type::tensor(DType::F32, [1, 1, 1, 1].map(|d: i64| Dim::from(d))))
        .unwrap();
    let k = g.add_constant("k", f32s(&[1, 1, 2, 1], &[1.0, 2.0])).unwrap();
    let op = ops::FlexAttention { score_mod: Some(Arc::new(body)), ..Default::default() };
    let y = g.add("y", op, &[q, k, k]).unwrap();
    g.add_output("y", y).unwrap();
    let (out, log) = portable(&g);
    assert_eq!(log, ["fold: y > cc: constant f32[2, 2]"]);
    assert_eq!(out.nodes()[0].op.subgraphs()[0].nodes().len(), 1);
    assert_eq!(names(&out), ["y"]);
    let run = |g: &Graph| interpret::run(g, vec![f32s(&[1, 1, 1, 1], &[0.5]).into()]).unwrap();
    let item = |v: Vec<Value>| v[0].tensor().unwrap().item::<f32>().unwrap();
    assert_eq!(item(run(&g)), item(run(&out)));
}

#[test]
fn what_counts_as_an_identity() {
    let ints = |v: &[i64]| Tensor::from_slice(&[v.len()], v).unwrap();
    let one = || f32s(&[1], &[1.0]);
    struct Case(&'static str, Attrs, Vec<Option<Tensor>>, bool);
    let plain = Attrs::new;
    let shape = [4, 3];
    for Case(name, attrs, extra, gone) in [
        Case("Identity", plain(), vec![], true),
        Case("Dropout", plain(), vec![], true),
        Case("Dropout", plain(), vec![None, Some(Tensor::scalar(false).unwrap())], true),
        Case("Cast", plain().with("to", DType::F32), vec![], true),
        Case("Cast", plain().with("to", DType::F64), vec![], false),
        Case("Transpose", plain().with("perm", vec![0i64, 1]), vec![], true),
        Case("Transpose", plain().with("perm", vec![1i64, 0]), vec![], false),
        Case("Reshape", plain(), vec![Some(ints(&[0, 3]))], true),
        Case("Reshape", plain(), vec![Some(ints(&[-1]))], false),
        Case("Expand", plain(), vec![Some(ints(&[1, 3]))], true),
        Case("Expand", plain(), vec![Some(ints(&[2, 1, 1]))], false),
        Case("Tile", plain(), vec![Some(ints(&[1, 1]))], true),
        Case("Pad", plain(), vec![Some(ints(&[0, 0, 0, 0]))], true),
        Case("Pad", plain(), vec![Some(ints(&[1, 0, -1, 0]))], false),
        Case("Slice", plain(), vec![Some(ints(&[0])), Some(ints(&[3])), Some(ints(&[1]))], true),
        Case(
            "Slice",
            plain(),
            vec![Some(ints(&[-1])), Some(ints(&[-9])), Some(ints(&[1])), Some(ints(&[-1]))],
            false,
        ),
        Case("Concat", plain().with("axis", 0i64), vec![], true),
        Case("Sum", plain(), vec![], true),
        Case("Mul", plain(), vec![Some(one())], true),
        Case("Mul", plain(), vec![Some(f32s(&[2, 1, 1], &[1.0, 1.0]))], false),
        Case("Div", plain(), vec![Some(one())], true),
        Case("Sub", plain(), vec![Some(f32s(&[3], &[0.0; 3]))], true),
        Case("Sub", plain(), vec![Some(f32s(&[3], &[-0.0; 3]))], false),
        Case("Add", plain(), vec![Some(f32s(&[3], &[0.0; 3]))], false),
        Case("Clip", plain(), vec![], true),
    ] {
        let mut g = Graph::new("g");
        let dims = [Dim::sym("n"), Dim::from(3)];
        let x = g.add_input("x", Type::tensor(DType::F32, dims)).unwrap();
        let mut inputs = vec![Some(x)];
        for (i, t) in extra.iter().enumerate() {
            inputs.push(t.clone().map(|t| g.add_constant(&format!("c{i}"), t).unwrap()));
        }
        let made = op(name, attrs.clone());
        let y = g.add_node("y", made, &inputs, &[Some("y")]).unwrap()[0].unwrap();
        let z = g.add("z", ops::LogSoftmax { axis: 0 }, &[y]);
        g.add_output("z", z.unwrap()).unwrap();
        let (out, log) = portable(&g);
        let what = format!("{name} {attrs:?} {extra:?}: {log:?}");
        assert_eq!(out.nodes().len() == 1, gone, "{what}");
        let x = || vec![Value::from(f32s(&shape, &(0..12).map(|i| i as f32).collect::<Vec<_>>()))];
        assert_same(&interpret::run(&g, x()).unwrap(), &interpret::run(&out, x()).unwrap(), &what);
    }
}

/// Fails unless two runs gave the same bits.
fn assert_same(a: &[Value], b: &[Value], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.tensor().unwrap(), b.tensor().unwrap());
        assert!(crate::same_tensor(a, b), "{what}: {a:?} and {b:?}");
    }
}

mod random_graphs {
    use super::*;
    use proptest::prelude::*;

    /// One step of a graph under construction; numbers pick among what is there.
    #[derive(Clone, Debug)]
    enum Step {
        Unary(usize, usize),
        Binary(usize, usize, usize),
        Constant(i8),
        Reshape(usize, bool),
        Output(usize),
    }

    const UNARY: [&str; 6] = ["Identity", "Neg", "Abs", "Relu", "Transpose", "Dropout"];
    const BINARY: [&str; 4] = ["Add", "Mul", "Sub", "MatMul"];

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = 0..64usize;
        let step = prop_oneof![
            4 => (0..UNARY.len(), at.clone()).prop_map(|(o, x)| Step::Unary(o, x)),
            4 => (0..BINARY.len(), at.clone(), at.clone())
                .prop_map(|(o, x, y)| Step::Binary(o, x, y)),
            2 => (-1..3i8).prop_map(Step::Constant),
            1 => (at.clone(), any::<bool>()).prop_map(|(x, flat)| Step::Reshape(x, flat)),
            1 => at.prop_map(Step::Output),
        ];
        prop::collection::vec(step, 1..24)
    }

    /// A graph over 2×2 matrices of small integers, exact in `f32` as long as it is shallow.
    fn graph(steps: &[Step]) -> Graph {
        let mut g = Graph::new("random");
        let n = Dim::sym("n");
        let mut values = vec![g.add_input("x", Type::tensor(DType::F32, [n.clone(), n])).unwrap()];
        for (i, step) in steps.iter().enumerate() {
            let pick = |k: &usize| values[k % values.len()];
            let name = format!("v{i}");
            let new = match step {
                Step::Unary(o, x) => {
                    let x = pick(x);
                    Some(named(&mut g, &name, UNARY[*o], &[x]))
                }
                Step::Binary(o, x, y) => {
                    let (x, y) = (pick(x), pick(y));
                    Some(named(&mut g, &name, BINARY[*o], &[x, y]))
                }
                Step::Constant(c) => {
                    let c = f32::from(*c);
                    Some(g.add_constant(&name, f32s(&[2, 2], &[c; 4])).unwrap())
                }
                Step::Reshape(x, flat) => {
                    let x = pick(x);
                    let to = if *flat { &[-1, 2][..] } else { &[0, 0] };
                    let shape = Tensor::from_slice(&[2], to).unwrap();
                    let shape = g.add_constant(&format!("{name}.shape"), shape).unwrap();
                    Some(named(&mut g, &name, "Reshape", &[x, shape]))
                }
                Step::Output(x) => {
                    let x = pick(x);
                    g.add_output(&name, x).unwrap();
                    None
                }
            };
            values.extend(new);
        }
        let last = *values.last().unwrap();
        g.add_output("last", last).unwrap();
        g
    }

    proptest! {
        #[test]
        fn clean_up_keeps_every_bit_and_all_passes_keep_the_types(steps in steps()) {
            let g = graph(&steps);
            let (out, _) = portable(&g);
            let io = |g: &Graph| -> Vec<(String, Fact)> {
                let inputs = g.inputs().iter().map(|v| g.value(*v)).map(|v| (v.name.clone(), v.fact.clone()));
                inputs.chain(g.outputs().iter().map(|(n, v)| (n.clone(), g.fact(*v).clone()))).collect()
            };
            for ((a, x), (b, y)) in io(&g).iter().zip(&io(&out)) {
                prop_assert_eq!(a, b);
                prop_assert_eq!(x.rank(), y.rank());
            }
            prop_assert!(out.nodes().len() <= g.nodes().len());
            let x = || vec![Value::from(f32s(&[2, 2], &[1.0, -2.0, 0.0, 3.0]))];
            // Fused products add in another order than the nodes they replace.
            let clean = Pipeline::cleanup().run(&g, &mut Diagnostics::new(Level::Off)).unwrap();
            let (a, b) = (interpret::run(&g, x()), interpret::run(&clean.graph, x()));
            assert_same(&a.unwrap(), &b.unwrap(), "random graph");
            let (again, log) = portable(&out);
            prop_assert_eq!(names(&again), names(&out), "{:?}", log);
        }
    }
}
