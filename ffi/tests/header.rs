//! The header is what the source says. `DEEPSEEK_BLESS=1` writes it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cbindgen::{Builder, Config};
use common::{MODULES, committed, read, repository, variant_docs};
use deepseek::{Code, DType};
use std::fmt::Write;

const HEADER: &str = "include/deepseek/deepseek.h";

/// An anonymous enum: `prefix` and name, number, comment.
fn numbers(out: &mut String, prefix: &str, constants: &[(String, i32, String)]) {
    out.push_str("enum {\n");
    for (name, number, docs) in constants {
        writeln!(out, "    /** {docs} */\n    {prefix}{name} = {number},").unwrap();
    }
    out.push_str("};\n\n");
}

/// Versions and numbers, from where they are defined.
fn constants() -> String {
    let version = deepseek::VERSION;
    let mut parts = version.split('.');
    let mut out = String::from("/** Version of this header. */\n");
    for part in ["MAJOR", "MINOR", "PATCH"] {
        let value = parts.next().expect("a version has three parts");
        writeln!(out, "#define DEEPSEEK_VERSION_{part} {value}").unwrap();
    }
    writeln!(out, "#define DEEPSEEK_VERSION \"{version}\"").unwrap();
    out.push_str("/** Version of this header as one number, see deepseek_version_number. */\n");
    let packed = deepseek_ffi::pack_version(version);
    writeln!(out, "#define DEEPSEEK_VERSION_NUMBER {packed}\n").unwrap();
    out.push_str(
        "#if defined(_WIN32)\n#define DEEPSEEK_API\n#else\n\
         #define DEEPSEEK_API __attribute__((visibility(\"default\")))\n#endif\n\n",
    );

    out.push_str("/** Values of deepseek_status. Never reused; new ones are only added. */\n");
    let docs = variant_docs("core/tensor/src/error.rs", "Code");
    let mut codes = vec![("OK".to_owned(), 0, "The call succeeded.".to_owned())];
    codes.extend(
        Code::ALL.iter().zip(docs).map(|(c, docs)| (c.name().to_owned(), c.as_i32(), docs)),
    );
    numbers(&mut out, "DEEPSEEK_STATUS_", &codes);

    out.push_str("/** Values of deepseek_dtype. Never reused; new ones are only added. */\n");
    let docs = variant_docs("core/tensor/src/dtype.rs", "DType").into_iter();
    let dtypes = DType::ALL.iter().zip(docs).map(|(d, docs)| {
        (d.name().to_ascii_uppercase(), *d as i32, docs.replace("[`crate::", "`"))
    });
    numbers(&mut out, "DEEPSEEK_DTYPE_", &dtypes.collect::<Vec<_>>());
    out.truncate(out.trim_end().len());
    out
}

fn header() -> String {
    let mut config = Config::from_file(repository("ffi/cbindgen.toml")).unwrap();
    config.header = Some(read("ffi/preface.h").trim_end().to_owned());
    config.after_includes = Some(format!("\n{}", constants()));
    let mut builder = Builder::new().with_config(config);
    for module in MODULES {
        builder = builder.with_src(repository(&format!("ffi/src/{module}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("the source parses").write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_committed_header_is_what_the_source_says() {
    committed(HEADER, &header());
}
