//! Writes a C program that calls every export wrongly: each pointer NULL, each pointer
//! misaligned, each text not UTF-8, each count absurd. `tests/c/run.sh` compiles it
//! with `tests/c/sweep.h` and runs it, plain and under the sanitizers.
//!
//! A new export is swept without being named here, as long as its parameters have names
//! and types that `valid` knows.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Export, exports};
use std::fmt::Write;

/// Parameters that may be NULL, with the reason.
fn may_be_null(export: &Export, parameter: &str) -> bool {
    match parameter {
        // The error is optional, options have defaults, lengths say how texts end.
        "err" | "options" | "lengths" | "out_details" => true,
        // A graph and a node may go without a name, a node without attributes.
        "attributes" => true,
        "name" => matches!(&*export.name, "deepseek_graph_new" | "deepseek_graph_add_node"),
        // Handed back to the caller's functions as they are.
        "ctx" | "user_data" => true,
        _ => false,
    }
}

fn is_pointer(ty: &str) -> bool {
    ty.starts_with('*')
}

/// Whether a pointer to this type can be misaligned.
fn has_alignment(ty: &str) -> bool {
    is_pointer(ty)
        && !matches!(ty, "*const c_char" | "*mut c_char" | "*const c_void" | "*mut c_void")
}

/// The opaque type that an out parameter yields.
fn yields(ty: &str) -> Option<&str> {
    ty.strip_prefix("*mut *mut ").filter(|t| *t != "deepseek_error")
}

/// A C expression for a good argument.
fn valid(export: &Export, name: &str, ty: &str) -> String {
    if let Some(yielded) = yields(ty) {
        return format!("&got_{yielded}");
    }
    let fixture = match (name, ty) {
        ("err", _) => "&err",
        ("path", _) => "\"no/such/file\"",
        ("name", _) => "\"y\"",
        ("op", _) => "\"Relu\"",
        ("symbol", _) => "\"batch\"",
        ("attributes", _) => "\"\"",
        ("text", _) => "\"text\"",
        ("names" | "symbols" | "texts" | "strings" | "shape", "*const *const c_char") => "texts",
        ("shapes", _) => "shapes",
        ("shape" | "values", "*const i64") => "extents",
        ("ranks" | "lengths" | "counts", _) => "sizes",
        ("tensors", _) => "tensors",
        ("inputs", _) => "values",
        ("out_values" | "out_value", "*mut deepseek_value") => "out_values",
        ("data", _) => "data",
        ("buffer", "*mut c_char") => "data",
        ("vectors", _) => "vectors",
        ("ids", _) => "ids",
        ("options", _) => "(void *)options",
        ("out_index" | "out_len" | "out_count", "*mut usize") => "&out_size",
        ("out_done", _) => "&out_int",
        ("out_data", _) => "&out_text",
        ("out_view", _) => "&out_view",
        ("out_value", _) => "&out_model_value",
        ("out_memory", _) => "&out_memory",
        ("ctx" | "user_data", _) => "NULL",
        ("release" | "on_done" | "on_release", _) => "NULL",
        ("dtype", _) => "DEEPSEEK_DTYPE_F32",
        ("value", _) => "fixture.value",
        ("index" | "item" | "timeout_ms" | "status", _) => "0",
        ("bytes", _) => "4",
        ("cap", _) => "64",
        ("max", _) => "8",
        ("size", _) => "sizeof options",
        ("count" | "rank" | "len" | "min" | "input_count" | "output_count", _) => "1",
        _ => "",
    };
    if !fixture.is_empty() {
        return fixture.to_owned();
    }
    let handle = ty.strip_prefix("*const ").or_else(|| ty.strip_prefix("*mut "));
    match handle.and_then(|h| h.strip_prefix("deepseek_")) {
        Some(handle) => format!("fixture.{handle}"),
        None => panic!("{}: no argument for {name}: {ty}; teach it to sweep.rs", export.name),
    }
}

/// One wrong call and what must come of it.
fn probe(out: &mut String, export: &Export, wrong: usize, argument: &str, expect: &str) {
    let name = &export.name;
    let mut arguments: Vec<String> =
        export.parameters.iter().map(|(n, t)| valid(export, n, t)).collect();
    let parameter = &export.parameters[wrong].0;
    argument.clone_into(&mut arguments[wrong]);
    let call = format!("{name}({})", arguments.join(", "));
    writeln!(out, "    at = \"{name}: {parameter} = {}\";", argument.replace('"', "'")).unwrap();
    match (&*export.result, expect) {
        ("deepseek_status", "refused" | "refused somehow") if name != "deepseek_error_code" => {
            writeln!(out, "    status = {call};").unwrap();
            let named = expect == "refused" && parameter != "err";
            let part = if named { format!("\"{parameter}\"") } else { "NULL".to_owned() };
            writeln!(out, "    refused(at, status, err, {part});").unwrap();
        }
        ("" | "deepseek_status", _) => writeln!(out, "    {call};").unwrap(),
        _ => writeln!(out, "    (void){call};").unwrap(),
    }
    out.push_str("    deepseek_error_free(err);\n    err = NULL;\n");
    for (_, ty) in &export.parameters {
        if let Some(yielded) = yields(ty) {
            let got = format!("got_{yielded}");
            if expect.starts_with("refused") {
                writeln!(out, "    untouched(at, {got});").unwrap();
            }
            writeln!(out, "    {yielded}_free({got});\n    {got} = NULL;").unwrap();
        }
    }
}

fn sweep(export: &Export) -> String {
    let mut out = String::new();
    writeln!(out, "static void sweep_{}(void)\n{{", export.name).unwrap();
    out.push_str("    const char *at;\n    deepseek_error *err = NULL;\n");
    if export.result == "deepseek_status" && export.name != "deepseek_error_code" {
        out.push_str("    deepseek_status status;\n    (void)status;\n");
    }
    for (_, ty) in &export.parameters {
        if let Some(yielded) = yields(ty) {
            writeln!(out, "    {yielded} *got_{yielded} = NULL;").unwrap();
        }
    }
    let frees = export.name.ends_with("_free");
    for (i, (name, ty)) in export.parameters.iter().enumerate() {
        let good = valid(export, name, ty);
        if is_pointer(ty) {
            let expect = if may_be_null(export, name) { "accepted" } else { "refused" };
            probe(&mut out, export, i, "NULL", expect);
        }
        // `_init` writes bytes, so any address will do.
        if has_alignment(ty) && !export.name.ends_with("_init") {
            probe(&mut out, export, i, &format!("(void *)((char *)(void *){good} + 1)"), "refused");
        }
        if ty == "*const c_char" && name != "data" {
            probe(&mut out, export, i, "\"\\xff\"", "refused");
        }
        let absurd =
            ["count", "rank", "len", "cap", "bytes", "input_count", "output_count", "index"];
        if ty == "usize" && absurd.contains(&&**name) {
            // The message names the array that would be so long.
            probe(&mut out, export, i, "SIZE_MAX", "refused somehow");
        }
    }
    if frees {
        // Valid handles are freed when the program ends.
        out = out.replace("    deepseek_error_free(err);\n    err = NULL;\n", "");
        out = out.replace("    deepseek_error *err = NULL;\n", "");
    }
    out.push_str("    (void)at;\n}\n\n");
    out
}

#[test]
fn the_sweep_is_written() {
    let mut out = String::from("#include \"sweep.h\"\n\n");
    let mut main = String::from("int main(int argc, char **argv)\n{\n    begin(argc, argv);\n");
    let mut calls = 0;
    for export in exports() {
        if export.parameters.iter().any(|(_, ty)| is_pointer(ty)) {
            let text = sweep(&export);
            calls += text.matches("    at = ").count();
            out.push_str(&text);
            writeln!(main, "    sweep_{}();", export.name).unwrap();
        }
    }
    writeln!(main, "    printf(\"{calls} wrong calls\\n\");\n    end();\n    return 0;\n}}")
        .unwrap();
    assert!(calls > 200, "{calls} calls");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("sweep.c");
    std::fs::write(path, out + &main).unwrap();
}
