//! Any text is a graph, which prints as text that reads back the same, or an error.
#![no_main]

use deepseek_graph::text;
use std::collections::BTreeMap;

libfuzzer_sys::fuzz_target!(|input: &str| {
    if let Ok(graph) = text::parse(input, &BTreeMap::new()) {
        let shown = text::print(&graph);
        let back = text::parse(&shown, &text::large_constants(&graph));
        let again = back.map(|g| text::print(&g));
        assert_eq!(again.as_ref().ok(), Some(&shown), "{input:?}: {:?}", again.as_ref().err());
    }
});
