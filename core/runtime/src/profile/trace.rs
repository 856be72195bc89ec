//! The Chrome trace format.

use super::json::quote;
use super::{Profile, micros};
use std::fmt::Write;

impl Profile {
    /// The events in the Chrome trace format, which Perfetto and `chrome://tracing` open: a
    /// track of time with one complete event a node, and tracks of memory: what the run
    /// holds, what of it is alive as planned and in fact, and the process's resident set.
    pub fn to_chrome_trace(&self) -> String {
        let mut out = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
        let name = if self.graph.is_empty() { "run" } else { &self.graph };
        let mut line = |text: std::fmt::Arguments| {
            let first = if out.ends_with("[\n") { "" } else { ",\n" };
            write!(out, "{first}{text}").expect("a string grows");
        };
        line(format_args!(
            "{{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{{\"name\":{}}}}}",
            quote(name)
        ));
        for e in &self.events {
            let (ts, dur) = (micros(e.start), micros(e.duration));
            line(format_args!(
                "{{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":{ts:.3},\"dur\":{dur:.3},\"name\":{},\
                 \"cat\":{},\"args\":{{\"kernel\":{},\"output_bytes\":{},\"planned_bytes\":{},\
                 \"actual_bytes\":{},\"scratch_bytes\":{}}}}}",
                quote(&e.node),
                quote(&e.op),
                quote(&e.kernel),
                e.output_bytes,
                e.planned_bytes,
                e.actual_bytes,
                e.scratch_bytes,
            ));
            let end = ts + dur;
            let mut counter = |name: &str, bytes: u64| {
                line(format_args!(
                    "{{\"ph\":\"C\",\"pid\":1,\"ts\":{end:.3},\"name\":\"{name}\",\
                     \"args\":{{\"bytes\":{bytes}}}}}"
                ));
            };
            counter("working memory", e.live_bytes);
            counter("alive, planned", e.planned_bytes);
            counter("alive, actual", e.actual_bytes);
            if let Some(bytes) = e.rss_bytes {
                counter("process resident set", bytes);
            }
        }
        out.push_str("\n]}\n");
        out
    }
}
