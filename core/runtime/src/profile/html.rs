//! The profile as one HTML page that needs nothing else: figures, memory over time, the map
//! of the arena, what makes the peak, and where the time goes.

mod chart;

use super::{Profile, ProfileTensor, micros};
use chart::{arena_map, memory_over_time, resident_set};
use std::fmt::Write;
use std::time::Duration;

/// Tensors listed at the peak.
const TENSORS: usize = 24;

/// Nodes listed as the slowest.
const NODES: usize = 15;

/// Types, colours for light and dark, layout.
const STYLE: &str = include_str!("html/style.css");

impl Profile {
    /// A page with the figures of the run, planned against observed; memory over time with
    /// the peak marked; the map of the arena; the largest tensors at the peak; time by
    /// operator and kernel, and by node. It refers to nothing outside itself.
    pub fn to_html(&self) -> String {
        let name = if self.graph.is_empty() { "run" } else { &self.graph };
        let mut page = Page(String::new());
        page.put(format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>Profile of {0}</title><style>{STYLE}</style></head><body><main>\n\
             <h1>{0}</h1>\n",
            escape(name)
        ));
        self.figures(&mut page);
        page.put(format_args!("<h2>Memory over time</h2>\n"));
        memory_over_time(self, &mut page);
        resident_set(self, &mut page);
        page.put(format_args!("<h2>The arena</h2>\n"));
        arena_map(self, &mut page);
        self.peak_table(&mut page);
        self.kernel_table(&mut page);
        self.node_table(&mut page);
        page.put(format_args!("</main></body></html>\n"));
        page.0
    }

    fn figures(&self, page: &mut Page) {
        let verdict = match self.observed_bytes == self.planned_bytes {
            true => "<p class=\"good\">Planned bytes are observed bytes, exactly.</p>".to_owned(),
            false => format!(
                "<p class=\"note\">Observed {} bytes against {} planned: sizes that depend on \
                 data, and subgraphs, come on top of the plan.</p>",
                grouped(self.observed_bytes),
                grouped(self.planned_bytes)
            ),
        };
        let rss = self.events.iter().filter_map(|e| e.rss_bytes).max();
        page.put(format_args!("<div class=\"figures\">"));
        let mut figure = |label: &str, value: &str, detail: &str| {
            page.put(format_args!(
                "<div><span>{label}</span><b>{value}</b><small>{detail}</small></div>"
            ));
        };
        let exact = |n: u64| format!("{} bytes", grouped(n));
        let bytes = |n: u64| (human(n), exact(n));
        for (label, (value, detail)) in [
            ("planned", bytes(self.planned_bytes)),
            ("observed", bytes(self.observed_bytes)),
            ("arena", bytes(self.arena_bytes)),
            ("outputs", bytes(self.output_bytes)),
            ("weights", bytes(self.constant_bytes)),
            ("process, at most", rss.map_or(("–".into(), "not known here".into()), bytes)),
        ] {
            figure(label, &value, &detail);
        }
        let nodes = format!("{} nodes", self.events.len());
        figure("time", &time(self.duration()), &nodes);
        page.put(format_args!("</div>\n{verdict}\n"));
        page.put(format_args!(
            "<details><summary>planned bytes as a formula over the model's symbols</summary>\
             <code>{}</code></details>\n",
            escape(&self.formula)
        ));
    }

    fn peak_table(&self, page: &mut Page) {
        let Some(event) = self.events.get(self.peak_event) else { return };
        page.put(format_args!(
            "<h2>Alive at the peak</h2>\n<p>{} of {} tensors, in <code>{}</code> ({}), which has \
             {} alive.</p>\n<table><thead><tr><th>tensor<th>kind<th>type<th class=\"n\">bytes\
             <th>share<th class=\"n\">planned<th class=\"n\">offset</tr></thead><tbody>\n",
            self.peak.len().min(TENSORS),
            self.peak.len(),
            escape(&event.node),
            escape(&event.op),
            human(event.actual_bytes),
        ));
        let all: u64 = self.peak.iter().map(|t| t.bytes).sum();
        for t in self.peak.iter().take(TENSORS) {
            let optional = |n: Option<u64>| n.map_or("–".to_owned(), grouped);
            page.put(format_args!(
                "<tr><td class=\"name\">{}<td><i class=\"{1}\"></i>{1}<td>{2}<td class=\"n\">{3}\
                 <td>{4}<td class=\"n\">{5}<td class=\"n\">{6}</tr>\n",
                escape(&t.name),
                t.kind.name(),
                escape(&shape(t)),
                grouped(t.bytes),
                bar(t.bytes as f64, all as f64),
                optional(t.planned_bytes),
                optional(t.offset),
            ));
        }
        page.put(format_args!("</tbody></table>\n"));
    }

    fn kernel_table(&self, page: &mut Page) {
        page.put(format_args!(
            "<h2>Time by operator</h2>\n<table><thead><tr><th>operator<th>kernel\
             <th class=\"n\">nodes<th class=\"n\">time<th>share<th class=\"n\">written\
             </tr></thead><tbody>\n"
        ));
        let rows = self.by_kernel();
        let all: f64 = rows.iter().map(|r| micros(r.time)).sum();
        for r in &rows {
            page.put(format_args!(
                "<tr><td>{}<td><code>{}</code><td class=\"n\">{}<td class=\"n\">{}<td>{}\
                 <td class=\"n\">{}</tr>\n",
                escape(r.op),
                escape(r.kernel),
                r.nodes,
                time(r.time),
                bar(micros(r.time), all),
                human(r.output_bytes),
            ));
        }
        page.put(format_args!("</tbody></table>\n"));
    }

    fn node_table(&self, page: &mut Page) {
        let mut slowest: Vec<_> = self.leaves().collect();
        slowest.sort_by_key(|e| std::cmp::Reverse(e.duration));
        let all: f64 = slowest.iter().map(|e| micros(e.duration)).sum();
        page.put(format_args!(
            "<h2>The slowest nodes</h2>\n<table><thead><tr><th>node<th>operator<th class=\"n\">time\
             <th>share<th>result<th class=\"n\">alive</tr></thead><tbody>\n"
        ));
        for e in slowest.into_iter().take(NODES) {
            let result = e.outputs.first().map(shape).unwrap_or_default();
            page.put(format_args!(
                "<tr><td class=\"name\">{}<td>{}<td class=\"n\">{}<td>{}<td>{}\
                 <td class=\"n\">{}</tr>\n",
                escape(&e.node),
                escape(&e.op),
                time(e.duration),
                bar(micros(e.duration), all),
                escape(&result),
                human(e.actual_bytes),
            ));
        }
        page.put(format_args!("</tbody></table>\n"));
    }
}

/// A page that grows.
struct Page(String);

impl Page {
    fn put(&mut self, text: std::fmt::Arguments) {
        self.0.write_fmt(text).expect("a string grows");
    }
}

/// Element type and extents, `f32[2, 3]`.
fn shape(t: &ProfileTensor) -> String {
    let extents: Vec<_> = t.shape.iter().map(usize::to_string).collect();
    t.dtype.map_or("–".to_owned(), |d| format!("{}[{}]", d.name(), extents.join(", ")))
}

/// A share as a bar with its percentage.
fn bar(part: f64, all: f64) -> String {
    let percent = if all > 0.0 { part / all * 100.0 } else { 0.0 };
    format!("<span class=\"bar\"><u style=\"width:{percent:.1}%\"></u></span>{percent:.1} %")
}

/// Bytes in the unit that leaves one to four digits.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

fn time(d: Duration) -> String {
    match micros(d) {
        us if us < 1e3 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// `text` inside HTML, attributes included.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((human(1023), human(1536), human(300 << 20)), {
            ("1023 B".into(), "1.5 KiB".into(), "300 MiB".into())
        });
        assert_eq!(grouped(1234567), "1\u{202f}234\u{202f}567");
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let profile = Profile { graph: "<script>\"'&".into(), ..Profile::default() };
        let html = profile.to_html();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("&lt;script&gt;&quot;&#39;&amp;"));
    }
}
