//! Plays `tests/surface/cases.json` through the Rust API: the same calls, the same
//! bits and the same errors as every other surface. To add a case, see the README there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek::{
    DType, Error, GraphBuilder, ModelOptions, Result, RunOptions, Runtime, RuntimeOptions,
    SymbolBounds, Tensor, Value, ValueRef, parse_attrs,
};
use serde_json::Value as Json;
use std::collections::BTreeMap;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/surface/cases.json");

fn text<'a>(j: &'a Json, key: &str) -> &'a str {
    j[key].as_str().unwrap_or_else(|| panic!("'{key}' of {j} is text"))
}

fn list<'a>(j: &'a Json, key: &str) -> &'a [Json] {
    j[key].as_array().unwrap_or_else(|| panic!("'{key}' of {j} is a list"))
}

fn tensor(j: &Json) -> Result<Tensor> {
    let shape: Vec<usize> = list(j, "shape").iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let dtype = DType::parse(text(j, "dtype"))?;
    if dtype == DType::String {
        let strings = list(j, "strings").iter().map(|s| s.as_str().unwrap().to_owned());
        return Tensor::from_strings(&shape, strings.collect());
    }
    Tensor::from_bytes(dtype, &shape, &unhex(text(j, "hex")))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Options of a model; the defaults where there are none.
fn options(j: &Json) -> ModelOptions {
    let Some(options) = j.as_object() else { return ModelOptions::default() };
    let extents = |shape: &Json| {
        shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
    };
    let shapes = options["shapes"].as_object().unwrap().iter();
    let bounds = options["bounds"].as_object().unwrap().iter();
    let bounds = bounds.map(|(symbol, b)| SymbolBounds {
        symbol: symbol.clone(),
        min: b["min"].as_i64().unwrap(),
        max: b["max"].as_i64(),
    });
    ModelOptions {
        memory_budget_bytes: options["memory_budget_bytes"].as_u64().unwrap(),
        whole: options["whole"].as_bool().unwrap(),
        shapes: shapes.map(|(name, shape)| (name.clone(), extents(shape))).collect(),
        bounds: bounds.collect(),
        ..ModelOptions::default()
    }
}

/// Records the graph, runs it, and gives the named outputs.
fn play(case: &Json, runtime: &Runtime) -> Result<Vec<(String, Value)>> {
    let graph = &case["graph"];
    let mut builder = GraphBuilder::new(text(case, "name"));
    let mut values: BTreeMap<String, ValueRef> = BTreeMap::new();
    for input in list(graph, "inputs") {
        let name = text(input, "name");
        let shape: Vec<&str> = list(input, "shape").iter().map(|d| d.as_str().unwrap()).collect();
        let value = builder.input(name, DType::parse(text(input, "dtype"))?, &shape)?;
        values.insert(name.into(), value);
    }
    for bound in list(graph, "bounds") {
        builder.bound(
            text(bound, "symbol"),
            bound["min"].as_i64().unwrap(),
            bound["max"].as_i64(),
        )?;
    }
    for constant in list(graph, "constants") {
        let name = text(constant, "name");
        values.insert(name.into(), builder.constant(name, tensor(constant)?)?);
    }
    for node in list(graph, "nodes") {
        let inputs: Vec<Option<ValueRef>> =
            list(node, "inputs").iter().map(|n| n.as_str().map(|n| values[n])).collect();
        let outputs = list(node, "outputs");
        let attrs = parse_attrs(text(node, "attrs"))?;
        let made =
            builder.node(text(node, "op"), text(node, "name"), attrs, &inputs, outputs.len())?;
        for (name, value) in outputs.iter().zip(made) {
            values.insert(name.as_str().unwrap().into(), value);
        }
    }
    for output in list(graph, "outputs") {
        builder.output(output[0].as_str().unwrap(), values[output[1].as_str().unwrap()])?;
    }
    let model = builder.build_with(runtime, &options(&graph["options"]))?;
    let inputs = list(case, "inputs")
        .iter()
        .map(|i| Ok((text(i, "name").to_owned(), tensor(i)?.into())))
        .collect::<Result<Vec<_>>>()?;
    model.session().run(inputs, &RunOptions::default())
}

fn same(got: &[(String, Value)], want: &[Json]) -> std::result::Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} outputs, want {}", got.len(), want.len()));
    }
    for ((name, value), want) in got.iter().zip(want) {
        let want_tensor = tensor(want).map_err(|e| e.to_string())?;
        let got = value.tensor().map_err(|e| e.to_string())?;
        let bits = |t: &Tensor| match t.dtype() {
            DType::String => format!("{:?}", t.as_strings()),
            _ => format!("{:?}", t.to_contiguous().and_then(|t| Ok(t.as_bytes()?.to_vec()))),
        };
        if name != text(want, "name")
            || (got.dtype(), got.shape()) != (want_tensor.dtype(), want_tensor.shape())
            || bits(got) != bits(&want_tensor)
        {
            return Err(format!(
                "{name} {got:?} {}, want {want_tensor:?} {}",
                bits(got),
                bits(&want_tensor)
            ));
        }
    }
    Ok(())
}

fn fails_as(error: &Error, want: &Json) -> std::result::Result<(), String> {
    let line = error.to_string();
    let missing: Vec<_> =
        list(want, "contains").iter().filter(|t| !line.contains(t.as_str().unwrap())).collect();
    if error.code().name() != text(want, "code") || !missing.is_empty() || line.contains('\n') {
        return Err(format!("'{line}', want {} with {missing:?} in one line", text(want, "code")));
    }
    Ok(())
}

#[test]
fn every_case_gives_the_expected_bits_and_errors() {
    let file: Json = serde_json::from_str(&std::fs::read_to_string(CASES).unwrap()).unwrap();
    let cases = list(&file, "cases");
    assert!(cases.len() >= 40, "the cases were read");
    let runtime = Runtime::new(&RuntimeOptions { threads: 2, ..Default::default() }).unwrap();
    let mut failures = Vec::new();
    for case in cases {
        let expect = &case["expect"];
        let outcome = match (play(case, &runtime), expect.get("error")) {
            (Ok(outputs), None) => same(&outputs, list(expect, "outputs")),
            (Err(e), Some(want)) => fails_as(&e, want),
            (Ok(_), Some(want)) => Err(format!("succeeded, want {}", text(want, "code"))),
            (Err(e), None) => Err(e.to_string()),
        };
        if let Err(why) = outcome {
            failures.push(format!("{}: {why}", text(case, "name")));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
