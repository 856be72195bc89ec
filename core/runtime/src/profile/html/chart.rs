//! The drawings of the page, as inline SVG.

use super::{Page, escape, human};
use crate::plan::PlannedKind;
use crate::profile::{Profile, ProfileEvent, micros};

/// Size of a drawing, and of the plot in it.
const WIDTH: f64 = 1070.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 28.0;

/// A plot's scales: `x` from 0 to `x_max`, `y` from `y_min` to `y_max`.
struct Plot {
    height: f64,
    x_max: f64,
    y_min: f64,
    y_max: f64,
}

impl Plot {
    fn x(&self, at: f64) -> f64 {
        LEFT + at / self.x_max.max(f64::MIN_POSITIVE) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, at: f64) -> f64 {
        let span = (self.y_max - self.y_min).max(1.0);
        let low = self.height - BOTTOM;
        low - (at - self.y_min) / span * (low - TOP)
    }

    fn begin(&self, page: &mut Page, label: &str) {
        let (w, h) = (WIDTH, self.height);
        page.put(format_args!(
            "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{label}\">\n"
        ));
        // Round numbers of bytes: a power of two apart, four to eight of them.
        let step = ((self.y_max - self.y_min).max(8.0) / 4.0).log2().floor().exp2();
        let mut value = (self.y_min / step).ceil() * step;
        while value <= self.y_max {
            let y = self.y(value);
            page.put(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                human(value as u64),
            ));
            value += step;
        }
    }

    /// Round numbers along the bottom: 1, 2 or 5 times a power of ten apart.
    fn x_labels(&self, page: &mut Page, text: impl Fn(f64) -> String) {
        let rough = self.x_max.max(1e-3) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| *s >= rough);
        let step = step.unwrap_or(rough);
        let mut at = 0.0;
        while at <= self.x_max {
            let anchor = if at == 0.0 { "start" } else { "middle" };
            page.put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                self.x(at),
                self.height - 9.0,
                text(at),
            ));
            at += step;
        }
    }

    /// A line that is level during each event.
    fn steps(
        &self,
        page: &mut Page,
        class: &str,
        closed: bool,
        points: impl Iterator<Item = (f64, f64, f64)>,
    ) {
        page.put(format_args!("<path class=\"{class}\" d=\""));
        let (mut first, mut end) = (true, 0.0);
        let floor = self.y(self.y_min);
        for (from, to, value) in points {
            let (x0, x1, y) = (self.x(from), self.x(to), self.y(value));
            if first {
                match closed {
                    true => page.put(format_args!("M{x0:.1} {floor:.1}L{x0:.1} {y:.1}")),
                    false => page.put(format_args!("M{x0:.1} {y:.1}")),
                }
            } else {
                page.put(format_args!("L{x0:.1} {y:.1}"));
            }
            page.put(format_args!("L{x1:.1} {y:.1}"));
            (first, end) = (false, x1);
        }
        if closed && !first {
            page.put(format_args!("L{end:.1} {floor:.1}Z"));
        }
        page.put(format_args!("\"/>\n"));
    }

    /// A line down the plot with a label that stays inside it.
    fn mark(&self, page: &mut Page, at: f64, label: &str) {
        let x = self.x(at);
        let (anchor, dx) = if x > WIDTH / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
        page.put(format_args!(
            "<line class=\"peak\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"peak\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            TOP - 12.0,
            self.height - BOTTOM,
            x + dx,
            TOP - 10.0,
            escape(label),
        ));
    }
}

fn span(e: &ProfileEvent) -> (f64, f64) {
    (micros(e.start), micros(e.start + e.duration))
}

fn micros_text(us: f64) -> String {
    match us {
        us if us <= 0.0 => "0".to_owned(),
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{} ms", us / 1e3),
        us => format!("{} s", us / 1e6),
    }
}

/// What is alive, as planned and in fact, and what is held.
pub(super) fn memory_over_time(profile: &Profile, page: &mut Page) {
    let events = &profile.events;
    let most = events.iter().map(|e| e.live_bytes.max(e.planned_bytes)).max().unwrap_or(0);
    let y_max = most as f64 * 1.05;
    let plot = Plot { height: 330.0, x_max: micros(profile.duration()), y_min: 0.0, y_max };
    plot.begin(page, "memory over time");
    let line = |of: fn(&ProfileEvent) -> u64| {
        profile.leaves().map(move |e| {
            let (from, to) = span(e);
            (from, to, of(e) as f64)
        })
    };
    plot.steps(page, "planned", true, line(|e| e.planned_bytes));
    plot.steps(page, "held", false, line(|e| e.live_bytes));
    plot.steps(page, "actual", false, line(|e| e.actual_bytes));
    if let Some(e) = events.get(profile.peak_event) {
        let (from, to) = span(e);
        let label = format!("peak: {} alive in {}", human(e.actual_bytes), e.node);
        plot.mark(page, (from + to) / 2.0, &label);
    }
    plot.x_labels(page, micros_text);
    page.put(format_args!(
        "</svg>\n<div class=\"legend\"><span><i class=\"planned\"></i>alive, planned</span>\
         <span><i class=\"output\"></i>alive, actual</span>\
         <span><i class=\"held\"></i>held: the arena and what is beside it</span></div>\n"
    ));
}

/// The process beside it, on a scale of its own.
pub(super) fn resident_set(profile: &Profile, page: &mut Page) {
    let points = || {
        profile.leaves().filter_map(|e| {
            let (from, to) = span(e);
            Some((from, to, e.rss_bytes? as f64))
        })
    };
    let (Some(low), Some(high)) =
        (points().map(|p| p.2).reduce(f64::min), points().map(|p| p.2).reduce(f64::max))
    else {
        return;
    };
    let room = ((high - low) * 0.1).max(1024.0 * 1024.0);
    let plot = Plot {
        height: 150.0,
        x_max: micros(profile.duration()),
        y_min: (low - room).max(0.0),
        y_max: high + room,
    };
    plot.begin(page, "resident set of the process");
    plot.steps(page, "rss", false, points());
    plot.x_labels(page, micros_text);
    page.put(format_args!(
        "</svg>\n<div class=\"legend\"><span><i class=\"heap\"></i>resident set of the whole \
         process, weights and outputs of other runs included</span></div>\n"
    ));
}

/// Who has which bytes of the arena during which steps.
pub(super) fn arena_map(profile: &Profile, page: &mut Page) {
    let placed: Vec<_> = profile.spans.iter().filter_map(|s| Some((s, s.value.offset?))).collect();
    if placed.is_empty() {
        page.put(format_args!("<p>Nothing of this run lives in the arena.</p>\n"));
        return;
    }
    let steps = placed.iter().map(|(s, _)| s.last_step + 1).max().unwrap_or(1);
    let y_max = profile.arena_bytes as f64;
    let plot = Plot { height: 330.0, x_max: steps as f64, y_min: 0.0, y_max };
    plot.begin(page, "map of the arena");
    for (s, offset) in placed {
        let (x0, x1) = (plot.x(s.first_step as f64), plot.x((s.last_step + 1) as f64));
        let (y0, y1) = (plot.y((offset + s.value.bytes) as f64), plot.y(offset as f64));
        let class = match s.value.kind {
            PlannedKind::Scratch => "scratch",
            _ => "value",
        };
        page.put(format_args!(
            "<rect class=\"block {class}\" x=\"{x0:.1}\" y=\"{y0:.1}\" width=\"{:.1}\" \
             height=\"{:.1}\"><title>{} {}, {} at {offset}, steps {} to {}</title></rect>\n",
            x1 - x0,
            y1 - y0,
            class,
            escape(&s.value.name),
            human(s.value.bytes),
            s.first_step,
            s.last_step,
        ));
    }
    plot.x_labels(page, |at| format!("step {at:.0}"));
    page.put(format_args!(
        "</svg>\n<div class=\"legend\"><span><i class=\"value\"></i>values</span>\
         <span><i class=\"scratch\"></i>scratch of a kernel</span>\
         <span>across: steps of the plan; up: offset in the arena</span></div>\n"
    ));
}
