//! Any text is a dimension, which prints as text that reads back the same, or an error.
#![no_main]

use deepseek_graph::Dim;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(dim) = Dim::parse(text) {
        if dim.poison().is_none() {
            let shown = dim.to_string();
            assert_eq!(Dim::parse(&shown).as_ref(), Ok(&dim), "{text:?} prints as {shown:?}");
        }
    }
});
