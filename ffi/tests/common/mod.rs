//! What the source of this crate says about its exports, for tests that hold the
//! artifacts against it.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::allow_attributes, reason = "whether the expectation holds differs between them")]

use quote::ToTokens;
use std::path::{Path, PathBuf};
use syn::{Attribute, Expr, Fields, FnArg, Item, ItemFn, Lit, Meta, Pat, ReturnType};

/// The modules in the order of the header.
pub const MODULES: [&str; 14] = [
    "version", "error", "buffer", "cancel", "options", "runtime", "tensor", "model", "outputs",
    "profile", "run", "session", "graph", "embedder",
];

/// A folder or file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Reads a file of the repository.
pub fn read(path: &str) -> String {
    let path = repository(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares a committed file with what it should be; writes it if `DEEPSEEK_BLESS` is set.
#[track_caller]
pub fn committed(path: &str, want: &str) {
    if std::env::var_os("DEEPSEEK_BLESS").is_some() {
        let path = repository(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, want).unwrap();
        return;
    }
    let have = std::fs::read_to_string(repository(path)).unwrap_or_default();
    if have != want {
        let differs = have.lines().zip(want.lines()).position(|(a, b)| a != b);
        let line = differs.unwrap_or_else(|| have.lines().count().min(want.lines().count()));
        panic!(
            "{path} is out of date from line {}:\n  have: {}\n  want: {}\nrun `make header` and review the change",
            line + 1,
            have.lines().nth(line).unwrap_or("(end)"),
            want.lines().nth(line).unwrap_or("(end)")
        );
    }
}

/// An exported function.
pub struct Export {
    pub module: String,
    pub name: String,
    pub docs: String,
    pub item: ItemFn,
    /// Name and type of each parameter, the type as Rust spells it without spaces.
    pub parameters: Vec<(String, String)>,
    /// Type of the result, empty for none.
    pub result: String,
}

fn parse(path: &str) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn items(module: &str) -> Vec<Item> {
    parse(&format!("ffi/src/{module}.rs")).items
}

pub fn docs(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|a| match &a.meta {
        Meta::NameValue(nv) if nv.path.is_ident("doc") => match &nv.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(s) => Some(s.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn spelled(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace(" :: ", "::").replace("* ", "*")
}

fn is_exported(item: &ItemFn) -> bool {
    item.attrs.iter().any(|a| spelled(&a.meta).contains("no_mangle")) || item.sig.abi.is_some()
}

/// The exports of the modules, in the order of the header.
pub fn exports() -> Vec<Export> {
    MODULES.iter().flat_map(|module| exports_of(module)).collect()
}

pub fn exports_of(module: &str) -> Vec<Export> {
    let functions = items(module).into_iter().filter_map(|item| match item {
        Item::Fn(f) if is_exported(&f) => Some(f),
        _ => None,
    });
    functions
        .map(|item| Export {
            module: module.to_owned(),
            name: item.sig.ident.to_string(),
            docs: docs(&item.attrs),
            parameters: item.sig.inputs.iter().map(parameter).collect(),
            result: match &item.sig.output {
                ReturnType::Default => String::new(),
                ReturnType::Type(_, ty) => spelled(ty),
            },
            item,
        })
        .collect()
}

fn parameter(arg: &FnArg) -> (String, String) {
    let FnArg::Typed(arg) = arg else { panic!("an export has no receiver") };
    let Pat::Ident(name) = &*arg.pat else { panic!("parameters of exports have names") };
    (name.ident.to_string(), spelled(&arg.ty))
}

/// A `repr(C)` struct and its fields.
pub struct Struct {
    pub name: String,
    pub fields: Vec<String>,
}

/// The `repr(C)` structs of the modules.
pub fn structs() -> Vec<Struct> {
    let items = MODULES.iter().flat_map(|module| items(module));
    let structs = items.filter_map(|item| match item {
        Item::Struct(s) if s.attrs.iter().any(|a| spelled(&a.meta) == "repr (C)") => Some(s),
        _ => None,
    });
    structs
        .map(|s| {
            let Fields::Named(fields) = &s.fields else { panic!("{} has named fields", s.ident) };
            let name = |f: &syn::Field| f.ident.as_ref().unwrap().to_string().replace("r#", "");
            Struct { name: s.ident.to_string(), fields: fields.named.iter().map(name).collect() }
        })
        .collect()
}

/// Documentation of each variant of an enum in a file of the repository.
pub fn variant_docs(path: &str, name: &str) -> Vec<String> {
    let variants = parse(path).items.into_iter().find_map(|item| match item {
        Item::Enum(e) if e.ident == name => Some(e.variants),
        _ => None,
    });
    let variants = variants.unwrap_or_else(|| panic!("{path} has no enum {name}"));
    variants.iter().map(|v| docs(&v.attrs)).collect()
}
