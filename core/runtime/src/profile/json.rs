//! The profile as one JSON object.

use super::{Profile, ProfileEvent, ProfileTensor, micros};

impl Profile {
    /// One object: `graph`, `formula`, `planned_bytes`, `observed_bytes`, `arena_bytes`,
    /// `output_bytes`, `constant_bytes`, `duration_us`; `peak` with `event`, `node`, `bytes`
    /// and `tensors`; `kernels` with `op`, `kernel`, `nodes`, `us`, `output_bytes`; and
    /// `events`, whose keys are the fields of [`ProfileEvent`], times in microseconds. What
    /// is not known is null.
    pub fn to_json(&self) -> String {
        let peak = self.events.get(self.peak_event);
        let kernels = self.by_kernel().into_iter().map(|r| {
            object([
                ("op", quote(r.op)),
                ("kernel", quote(r.kernel)),
                ("nodes", r.nodes.to_string()),
                ("us", number(micros(r.time))),
                ("output_bytes", r.output_bytes.to_string()),
            ])
        });
        object([
            ("graph", quote(&self.graph)),
            ("formula", quote(&self.formula)),
            ("planned_bytes", self.planned_bytes.to_string()),
            ("observed_bytes", self.observed_bytes.to_string()),
            ("arena_bytes", self.arena_bytes.to_string()),
            ("output_bytes", self.output_bytes.to_string()),
            ("constant_bytes", self.constant_bytes.to_string()),
            ("duration_us", number(micros(self.duration()))),
            (
                "peak",
                object([
                    ("event", self.peak_event.to_string()),
                    ("node", optional(peak, |e| quote(&e.node))),
                    ("bytes", optional(peak, |e| e.actual_bytes.to_string())),
                    ("tensors", array(self.peak.iter().map(tensor))),
                ]),
            ),
            ("kernels", array(kernels)),
            ("events", array(self.events.iter().map(event))),
        ])
    }
}

fn event(e: &ProfileEvent) -> String {
    object([
        ("node", quote(&e.node)),
        ("op", quote(&e.op)),
        ("kernel", quote(&e.kernel)),
        ("start_us", number(micros(e.start))),
        ("duration_us", number(micros(e.duration))),
        ("output_bytes", e.output_bytes.to_string()),
        ("live_bytes", e.live_bytes.to_string()),
        ("planned_bytes", e.planned_bytes.to_string()),
        ("actual_bytes", e.actual_bytes.to_string()),
        ("scratch_bytes", e.scratch_bytes.to_string()),
        ("rss_bytes", optional(e.rss_bytes, |n| n.to_string())),
        ("in_place", optional(e.in_place, |n| n.to_string())),
        ("outputs", array(e.outputs.iter().map(tensor))),
    ])
}

fn tensor(t: &ProfileTensor) -> String {
    object([
        ("name", quote(&t.name)),
        ("kind", quote(t.kind.name())),
        ("dtype", optional(t.dtype, |d| quote(d.name()))),
        ("shape", array(t.shape.iter().map(usize::to_string))),
        ("bytes", t.bytes.to_string()),
        ("planned_bytes", optional(t.planned_bytes, |n| n.to_string())),
        ("offset", optional(t.offset, |n| n.to_string())),
    ])
}

pub(crate) fn object<const N: usize>(fields: [(&str, String); N]) -> String {
    let fields = fields.map(|(key, value)| format!("\"{key}\":{value}"));
    format!("{{{}}}", fields.join(","))
}

pub(crate) fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

pub(crate) fn optional<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "null".to_owned(), text)
}

fn number(x: f64) -> String {
    format!("{x:.3}")
}

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
