//! What the passes did, and why not more.

use std::fmt;

/// How much [`Diagnostics`] record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Off,
    /// Which rules fired.
    Fired,
    /// Also where a rule nearly matched and what was missing.
    Missed,
}

/// A record of a pass at work.
pub struct Diagnostics {
    level: Level,
    scope: Vec<String>,
    entries: Vec<Entry>,
}

/// One rule at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the pass.
    pub pass: &'static str,
    /// Path of the node, outermost first, as in errors (`loop > add`).
    pub node: String,
    /// Whether the rule fired.
    pub fired: bool,
    /// What it did, or what it missed.
    pub message: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.fired { "" } else { "not " };
        write!(f, "{}: {}: {not}{}", self.pass, self.node, self.message)
    }
}

impl Diagnostics {
    /// An empty record.
    pub fn new(level: Level) -> Self {
        Diagnostics { level, scope: Vec::new(), entries: Vec::new() }
    }

    /// A record of nothing.
    pub fn off() -> Self {
        Diagnostics::new(Level::Off)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Records that a rule fired at `node`; `message` is built only if it is recorded and says
    /// what the node became.
    pub fn fired(&mut self, pass: &'static str, node: &str, message: impl FnOnce() -> String) {
        self.record(Level::Fired, pass, node, message);
    }

    /// Records that a rule nearly matched at `node`; `message` completes "not …".
    pub fn missed(&mut self, pass: &'static str, node: &str, message: impl FnOnce() -> String) {
        self.record(Level::Missed, pass, node, message);
    }

    fn record(
        &mut self,
        level: Level,
        pass: &'static str,
        node: &str,
        message: impl FnOnce() -> String,
    ) {
        if self.level >= level {
            let path = self.scope.iter().map(String::as_str).chain([node]);
            let node = path.collect::<Vec<_>>().join(" > ");
            let fired = level == Level::Fired;
            self.entries.push(Entry { pass, node, fired, message: message() });
        }
    }

    /// Entries that follow are about a graph inside `node`.
    pub(super) fn enter(&mut self, node: &str) {
        self.scope.push(node.to_owned());
    }

    /// Ends the last [`Diagnostics::enter`].
    pub(super) fn leave(&mut self) {
        self.scope.pop();
    }
}
