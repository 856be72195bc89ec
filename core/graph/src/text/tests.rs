use super::*;
use crate::{Attr, Attrs, Bindings, Dim, Graph, Type, build_op, interpret, ops};
use deepseek_tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Prints, parses and prints again; the two texts must be the same.
#[track_caller]
fn round_trip(graph: &Graph) -> String {
    let text = print(graph);
    let back = parse(&text, &large_constants(graph)).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&back), text);
    assert_eq!(
        large_constants(&back).keys().collect::<Vec<_>>(),
        large_constants(graph).keys().collect::<Vec<_>>()
    );
    text
}

#[test]
fn a_graph_reads_as_documented() {
    let text = r#"graph "encoder" where batch in 1..64, seq in 1.. {
  input %ids: i64[batch, seq]
  const %table: f32[100, 6] = @table
  const %axes: i64[1] = [2]
  %h: f32[batch, seq, 6] = Gather(%table, %ids) {axis = 0} "/embeddings/word"
  _, %b: f32[batch, seq, 3] = Split(%h, _) {axis = 2, num_outputs = 2} "halves"
  output "last" = %b
}
"#;
    let table = Tensor::zeros(DType::F32, &[100, 6]).unwrap();
    let constants = BTreeMap::from([("table".to_owned(), table)]);
    let graph = parse(text, &constants).unwrap();
    assert_eq!(print(&graph), text);
    assert_eq!(large_constants(&graph).into_keys().collect::<Vec<_>>(), ["table"]);
}

#[test]
fn types_and_names_may_be_left_out_and_comments_put_in() {
    let text = "// doc\ngraph \"g\" { input %x: f32[n] // the input\n %y = Transpose(%x) output \"y\" = %y }";
    let graph = parse(text, &BTreeMap::new()).unwrap();
    assert_eq!(graph.fact(graph.find("y").unwrap()).to_string(), "f32[n]");
    assert_eq!(graph.nodes()[0].name, "y");
}

#[test]
fn strange_names_survive() {
    let mut g = Graph::new("a \"b\"\n\u{1}");
    g.set_bound("odd `name`", 0, Some(3)).unwrap();
    let shape = [Dim::sym("odd `name`"), Dim::parse("max(n,2*m)-1").unwrap(), Dim::sym("]")];
    let x = g.add_input("x:0 %\\", Type::tensor(DType::String, shape)).unwrap();
    let y = g.add("", ops::Transpose::default(), &[x]).unwrap();
    g.add_output("é\t", y).unwrap();
    let text = round_trip(&g);
    assert!(text.contains("where `odd ``name``` in 0..3 {"), "{text}");
}

#[test]
fn elements_of_every_type_keep_their_bits() {
    let mut g = Graph::new("constants");
    for dtype in DType::ALL {
        let t = match dtype {
            DType::String => {
                Tensor::from_strings(&[2], vec!["\"".into(), "ü\u{0}".into()]).unwrap()
            }
            DType::Bool => Tensor::from_slice(&[2], &[true, false]).unwrap(),
            d if d.is_packed() => {
                let n = 1usize << d.bits();
                Tensor::from_unpacked(d, &[n], &(0..n as u8).collect::<Vec<_>>()).unwrap()
            }
            // Every byte in every place: NaNs, infinities, zeros of both signs, extremes.
            d => {
                let width = d.bits() / 8;
                let bytes: Vec<u8> = [0x00, 0x80, 0x7f, 0xff, 0x01, 0x3c, 0xc0, 0xf0]
                    .iter()
                    .flat_map(|&b| [[b; 8], [0, 0, 0, 0, 0, 0, b, b], [0, 0, b, b, 0, 0, b, 0x7f]])
                    .flat_map(|word| word[8 - width..].to_vec())
                    .collect();
                Tensor::from_bytes(d, &[bytes.len() / width], &bytes).unwrap()
            }
        };
        g.add_constant(dtype.name(), t).unwrap();
    }
    for (name, x) in [("pi", std::f32::consts::PI), ("tiny", 1e-45), ("inf", f32::NEG_INFINITY)] {
        g.add_constant(name, Tensor::scalar(x).unwrap()).unwrap();
    }
    let text = round_trip(&g);
    let back = parse(&text, &BTreeMap::new()).unwrap();
    for (id, tensor) in g.constants() {
        let name = &g.value(*id).name;
        let other = back.constant(back.find(name).unwrap()).unwrap();
        assert!(crate::same_tensor(tensor, other), "{name}: {text}");
    }
}

#[test]
fn attributes_of_every_operator_round_trip() {
    for def in ops::all() {
        let Ok(op) = (def.from_attrs)(Attrs::new()) else { continue };
        let text = print_attrs(&op.attrs());
        let attrs = parse_attrs(&text).unwrap_or_else(|e| panic!("{}: {e}", def.name));
        let again = build_op(def.name, attrs).unwrap_or_else(|e| panic!("{}: {e}", def.name));
        assert_eq!(print_attrs(&again.attrs()), text, "{}", def.name);
    }
}

fn print_attrs(attrs: &Attrs) -> String {
    let one = |(name, attr): (&str, &Attr)| format!("{name} = {}", super::print::attr_text(attr));
    attrs.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn subgraphs_nest_and_their_constants_have_paths() {
    let mut body = Graph::new("body");
    body.add_input("i", Type::tensor(DType::I64, [])).unwrap();
    let go = body.add_input("go", Type::tensor(DType::Bool, [])).unwrap();
    let x = body.add_input("x", Type::tensor(DType::F32, [Dim::sym("n")])).unwrap();
    let big = body.add_constant("w", Tensor::zeros(DType::F32, &[65]).unwrap()).unwrap();
    let y = body.add("y", ops::Concat { axis: 0 }, &[x, big]).unwrap();
    body.add_output("go", go).unwrap();
    body.add_output("y", y).unwrap();
    let mut g = Graph::new("outer");
    let m = g.add_constant("m", Tensor::scalar(3i64).unwrap()).unwrap();
    let x = g.add_input("x", Type::tensor(DType::F32, [Dim::sym("n")])).unwrap();
    let big = g.add_constant("loop/body/w", Tensor::zeros(DType::F32, &[66]).unwrap()).unwrap();
    let op = Arc::new(ops::Loop { body: Arc::new(body), carried: 1 });
    let y = g.add_node("loop", op, &[Some(m), None, Some(x)], &[Some("y")]).unwrap()[0].unwrap();
    g.add_output("y", y).unwrap();
    g.add_output("big", big).unwrap();
    let text = round_trip(&g);
    assert!(text.contains("@loop/body/w_1"), "{text}");
    let back = parse(&text, &large_constants(&g)).unwrap();
    let run = |g: &Graph| {
        let x = Tensor::from_slice(&[1], &[7.0f32]).unwrap();
        interpret::run(g, vec![x.into()]).unwrap()[0].tensor().unwrap().shape().to_vec()
    };
    assert_eq!(run(&back), [1 + 3 * 65]);
    assert_eq!(run(&back), run(&g));
    let grown = g.fact(y).shape().unwrap()[0].clone();
    assert!(grown.eval(&Bindings::default()).is_err(), "a grown extent is not the first one");
}

#[test]
fn errors_say_where() {
    for (text, place, what) in [
        ("graph \"g\" {\n  input %x: f32[n\n}", "2:", "expected ']'"),
        ("graph \"g\" {\n  %y = Transpose(%x)\n}", "2:19", "no value '%x'"),
        ("graph \"g\" {\n\n  %y = Nonsense()\n}", "3:3", "no operator"),
        ("graph \"g\" { input %x: f99[] }", "1:23", "f99"),
        ("graph \"g\" { const %x: i64[2] = [1] }", "1:23", "2 elements"),
        ("graph \"g\" { const %x: i64[1] = @w }", "1:33", "'w'"),
        ("graph \"g\" { const %x: i8[1] = [300] }", "1:23", "300"),
        ("graph \"g\" { const %x: i64[9223372036854775807, 2] = [] }", "1:23", "overflows"),
        ("graph \"g\" where n in 5..2 { }", "1:17", "bounds"),
        ("graph \"g\" { } }", "1:15", "end of the text"),
        ("graph \"g", "1:9", "does not end"),
        ("", "1:1", "expected 'graph'"),
    ] {
        let e = parse(text, &BTreeMap::new()).expect_err(text);
        assert!(e.message().starts_with(place), "{text}: {e}");
        assert!(e.message().contains(what), "{text}: {e}");
    }
}

#[test]
fn hostile_text_is_an_error() {
    let deep = "graph \"g\" { %y = Loop() {body = ".repeat(10_000);
    assert!(parse(&deep, &BTreeMap::new()).is_err());
    let deep = format!("graph \"g\" {{ input %x: {}", "seq(".repeat(100_000));
    assert!(parse(&deep, &BTreeMap::new()).is_err());
    let wide = format!("graph \"g\" {{ input %x: f32[{}1]", "1, ".repeat(100_000));
    assert!(parse(&wide, &BTreeMap::new()).is_err());
    // Every cut of a valid text, and every single damaged byte, is read without a panic.
    let valid = "graph \"g\" where n in 1..4 { input %x: f32[n] input %p: bool[] \
                 const %c: f32[2] = [1.0, nan(0x7fc00001)] () = If(%p, %x) {then_branch = \
                 graph \"t\" { input %a: f32[n] }, else_branch = graph \"e\" { input %a: f32[n] }} }";
    let text = print(&parse(valid, &BTreeMap::new()).unwrap());
    let text = format!(
        "{text}graph \"h\" {{ %\"a\\u{{41}}\", _ = Split(%x, _) {{axis = -1, l = [1.5, `]}}"
    );
    for end in 0..text.len() {
        if text.is_char_boundary(end) {
            let _ = parse(&text[..end], &BTreeMap::new());
        }
        for byte in [b'"', b'{', b'[', b'`', b'\\', b'%', b'(', 0x7f] {
            let mut bytes = text.clone().into_bytes();
            bytes[end] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = parse(&text, &BTreeMap::new());
            }
        }
    }
}

#[test]
fn attributes_stand_alone() {
    let attrs = parse_attrs(" axis = 1, mode = \"a, b\" ,k=[1.0, -2.5] ").unwrap();
    assert_eq!(attrs.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["axis", "k", "mode"]);
    assert!(attrs.get("mode").unwrap().same(&Attr::Str("a, b".to_owned())));
    assert!(attrs.get("k").unwrap().same(&Attr::Floats(vec![1.0, -2.5])));
    assert!(parse_attrs("").unwrap().iter().next().is_none());
    for wrong in ["axis", "axis = ", "axis = 1 mode = 2", "axis = 1}", "a = 1, a = 2", "= 3", ","] {
        assert!(parse_attrs(wrong).is_err(), "{wrong}");
    }
}
