//! What is promised of every export, and of every struct that crosses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Export, Struct, committed, exports, repository, structs};
use quote::ToTokens;
use std::fmt::Write;
use std::process::Command;
use syn::{Expr, Stmt};

/// Calls that are the whole body of an export.
const GUARDS: [&str; 2] = ["guard", "guard_value"];

/// The last word of the callee, if an expression is a call.
fn callee(expr: &Expr) -> Option<String> {
    let Expr::Call(call) = expr else { return None };
    let Expr::Path(path) = &*call.func else { return None };
    path.path.segments.last().map(|s| s.ident.to_string())
}

fn faults(export: &Export) -> Vec<&'static str> {
    let sig = &export.item.sig;
    let mut faults = Vec::new();
    if sig.unsafety.is_none() {
        faults.push("is not unsafe");
    }
    if !matches!(export.item.vis, syn::Visibility::Public(_)) {
        faults.push("is not public");
    }
    let attrs = export.item.attrs.iter().map(|a| a.to_token_stream().to_string());
    if !attrs.into_iter().any(|a| a.contains("no_mangle")) {
        faults.push("is not no_mangle");
    }
    if sig.abi.as_ref().and_then(|abi| abi.name.as_ref()).map(|n| n.value()).as_deref() != Some("C")
    {
        faults.push("is not extern \"C\"");
    }
    if !export.name.starts_with("deepseek_") {
        faults.push("does not start with deepseek_");
    }
    if !export.docs.ends_with('.') || !export.docs.contains("Since 0.") {
        faults.push("has no comment that ends in its version");
    }
    match &export.item.block.stmts[..] {
        [Stmt::Expr(body, None)] if callee(body).is_some_and(|c| GUARDS.contains(&&*c)) => {
            let status = callee(body).as_deref() == Some("guard");
            if status != (export.result == "deepseek_status") && !export.name.ends_with("_code") {
                faults.push("guards another kind of result than it returns");
            }
        }
        _ => faults.push("has a body that is not one guard"),
    }
    let last = export.parameters.last();
    let reports = last.is_some_and(|(name, _)| name == "err");
    if export.item.block.to_token_stream().to_string().starts_with("{ guard (") && !reports {
        faults.push("returns a status without an err parameter at the end");
    }
    faults
}

#[test]
fn every_export_is_guarded_and_documented() {
    let mut report = String::new();
    let hooks = common::exports_of("hooks");
    for export in exports().iter().chain(&hooks) {
        for fault in faults(export) {
            writeln!(report, "{}.rs: {} {fault}", export.module, export.name).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
    assert!(exports().len() > 50, "the walk found {} exports", exports().len());
}

#[test]
fn no_module_is_left_out() {
    let lib = common::read("ffi/src/lib.rs");
    let modules = lib.lines().filter_map(|l| l.strip_prefix("mod ")?.strip_suffix(';'));
    for module in modules {
        let walked = common::MODULES.contains(&module) || matches!(module, "hooks" | "call");
        assert!(walked, "ffi/src/{module}.rs is not in the header; add it to MODULES");
    }
    assert!(common::exports_of("call").is_empty(), "call.rs exports nothing");
}

#[test]
fn the_list_of_exports_is_committed() {
    let mut names: Vec<_> = exports().into_iter().map(|e| e.name).collect();
    names.sort();
    committed("ffi/abi/exports.txt", &(names.join("\n") + "\n"));
}

/// Size, alignment and offsets of structs, as Rust has them.
macro_rules! layout {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        fn rust_layout() -> (String, Vec<Struct>) {
            let mut out = String::new();
            let mut listed = Vec::new();
            $({
                type T = deepseek_ffi::$name;
                let name = stringify!($name);
                writeln!(out, "{name} size {} align {}", size_of::<T>(), align_of::<T>()).unwrap();
                let mut fields = Vec::new();
                $({
                    let field = stringify!($field).replace("r#", "");
                    writeln!(out, "{name}.{field} {}", std::mem::offset_of!(T, $field)).unwrap();
                    fields.push(field);
                })*
                listed.push(Struct { name: name.to_owned(), fields });
            })*
            (out, listed)
        }
    };
}

layout! {
    deepseek_runtime_options { struct_size, memory_budget_bytes, threads, isa }
    deepseek_model_options {
        struct_size,
        flags,
        memory_budget_bytes,
        shape_names,
        shapes,
        shape_ranks,
        shape_count,
        bound_symbols,
        bound_mins,
        bound_maxs,
        bound_count,
        precision,
        calibration,
        accuracy_budget,
        metric,
    }
    deepseek_session_options { struct_size, flags }
    deepseek_embedder_options { struct_size, flags }
    deepseek_run_options { struct_size, timeout_ms, cancel, ragged }
    deepseek_tensor_view { data, shape, strides, bytes, count, rank, dtype, device }
    deepseek_model_value { name, r#type, shape, rank, dtype, reserved }
    deepseek_memory { arena_bytes, output_bytes, planned_bytes, constant_bytes, dynamic_values }
}

/// Constants of the header, as Rust has them.
fn rust_constants() -> String {
    let mut out = String::new();
    writeln!(out, "DEEPSEEK_STATUS_OK 0").unwrap();
    for code in deepseek::Code::ALL {
        writeln!(out, "DEEPSEEK_STATUS_{} {}", code.name(), code.as_i32()).unwrap();
    }
    for dtype in deepseek::DType::ALL {
        let name = dtype.name().to_ascii_uppercase();
        writeln!(out, "DEEPSEEK_DTYPE_{name} {}", dtype as i32).unwrap();
    }
    for (name, value) in [
        ("ISA_BEST", i64::from(deepseek_ffi::DEEPSEEK_ISA_BEST)),
        ("ISA_SCALAR", deepseek_ffi::DEEPSEEK_ISA_SCALAR.into()),
        ("ISA_AVX2", deepseek_ffi::DEEPSEEK_ISA_AVX2.into()),
        ("ISA_AVX512", deepseek_ffi::DEEPSEEK_ISA_AVX512.into()),
        ("ISA_AVX_VNNI", deepseek_ffi::DEEPSEEK_ISA_AVX_VNNI.into()),
        ("ISA_AVX512_VNNI", deepseek_ffi::DEEPSEEK_ISA_AVX512_VNNI.into()),
        ("ISA_AVX512_BF16", deepseek_ffi::DEEPSEEK_ISA_AVX512_BF16.into()),
        ("ISA_AMX", deepseek_ffi::DEEPSEEK_ISA_AMX.into()),
        ("MODEL_WHOLE", deepseek_ffi::DEEPSEEK_MODEL_WHOLE.cast_signed()),
        ("DEVICE_CPU", deepseek_ffi::DEEPSEEK_DEVICE_CPU.into()),
        ("VALUE_NONE", deepseek_ffi::DEEPSEEK_VALUE_NONE.into()),
    ] {
        writeln!(out, "DEEPSEEK_{name} {value}").unwrap();
    }
    out
}

/// A C program that prints what `rust_layout` and `rust_constants` say.
fn layout_program(structs: &[Struct], constants: &str) -> String {
    let mut out = String::from(
        "#include <deepseek/deepseek.h>\n#include <stdio.h>\n#include <stddef.h>\n\
         #define SIZE(T) struct T##_align { char c; T t; }; \\\n    \
         printf(#T \" size %zu align %zu\\n\", sizeof(T), offsetof(struct T##_align, t))\n\
         #define FIELD(T, f) printf(#T \".\" #f \" %zu\\n\", offsetof(T, f))\n\
         #define NUMBER(n) printf(#n \" %lld\\n\", (long long)(n))\n\
         int main(void)\n{\n",
    );
    for s in structs {
        writeln!(out, "    {{\n        SIZE({});", s.name).unwrap();
        for field in &s.fields {
            writeln!(out, "        FIELD({}, {field});", s.name).unwrap();
        }
        out.push_str("    }\n");
    }
    for line in constants.lines() {
        let name = line.split(' ').next().unwrap();
        writeln!(out, "    printf(\"%s %lld\\n\", \"{name}\", (long long)({name}));").unwrap();
    }
    out.push_str("    return 0;\n}\n");
    out
}

#[test]
fn c_and_rust_agree_on_layouts_and_numbers() {
    let (layout, listed) = rust_layout();
    for s in structs() {
        let known = listed.iter().find(|l| l.name == s.name);
        let known = known.unwrap_or_else(|| panic!("{} is missing in layout!", s.name));
        assert_eq!(known.fields, s.fields, "fields of {} in layout!", s.name);
    }
    let constants = rust_constants();
    let rust = format!("{layout}{constants}");
    committed("ffi/abi/layout.txt", &rust);

    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&source, layout_program(&structs(), &constants)).unwrap();
    let compiled = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(repository("include"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("a C compiler is on the path, or named by CC");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = Command::new(&program).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), rust, "C and Rust disagree");
}

#[test]
fn structs_have_no_padding() {
    let (layout, _) = rust_layout();
    // In each struct, offsets step by 4 or 8 and end at the size, without a hole between
    // a 4-byte field and an 8-byte one.
    let mut lines = layout.lines().peekable();
    while let Some(head) = lines.next() {
        let words: Vec<_> = head.split(' ').collect();
        let size: usize = words[2].parse().unwrap();
        let mut offsets = Vec::new();
        while let Some(line) = lines.next_if(|l| l.starts_with(&format!("{}.", words[0]))) {
            offsets.push(line.split(' ').nth(1).unwrap().parse::<usize>().unwrap());
        }
        offsets.push(size);
        let narrow = offsets.windows(2).filter(|w| w[1] - w[0] == 4).count();
        let wide = offsets.windows(2).filter(|w| w[1] - w[0] == 8).count();
        assert_eq!(narrow * 4 + wide * 8, size, "{head}");
        assert_eq!(narrow % 2, 0, "{head}: 4-byte fields come in pairs");
    }
}

#[test]
fn versions_agree() {
    let header = common::read("include/deepseek/deepseek.h");
    let macro_of = |name: &str| {
        let line = header.lines().find_map(|l| l.strip_prefix(&format!("#define {name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).trim().trim_matches('"').to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    let parts = ["MAJOR", "MINOR", "PATCH"].map(|p| macro_of(&format!("DEEPSEEK_VERSION_{p}")));
    assert_eq!(macro_of("DEEPSEEK_VERSION"), version);
    assert_eq!(parts.join("."), version);
    let [major, minor, patch] = parts.map(|p| p.parse::<u32>().unwrap());
    let packed: u32 = macro_of("DEEPSEEK_VERSION_NUMBER").parse().unwrap();
    assert_eq!(packed, major * 1_000_000 + minor * 1000 + patch);
    // SAFETY: neither call takes a pointer; the string is static and ends in NUL.
    let (number, text) = unsafe {
        let text = std::ffi::CStr::from_ptr(deepseek_ffi::deepseek_version());
        (deepseek_ffi::deepseek_version_number(), text)
    };
    assert_eq!((number, text.to_str().unwrap()), (packed, version));
}
