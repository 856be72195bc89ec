//! The error type of the whole library.
//!
//! An error is built where the fact is known (a shape rule knows which extents
//! disagree) and enriched where the context is (the executor adds the node). It
//! carries a stable [`Code`], one lower-case line that names both sides of the
//! mismatch and the remedy, and the path of the node it arose in, if any.

use std::fmt;

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Stable status codes, in bands of one hundred. Values are part of the C ABI:
/// they are never reused, and new ones are only added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// An argument is malformed: NULL, misaligned, out of range, not UTF-8.
    InvalidArgument = 100,
    /// A shape does not match what the model or operator requires.
    ShapeMismatch = 101,
    /// An element type does not match what the model or operator requires.
    DTypeMismatch = 102,
    /// No input, output, node or tensor has the given name.
    NotFound = 103,
    /// The object cannot do this in its present state (closed, busy, already run).
    InvalidState = 104,
    /// The caller's buffer is too small; the message says how much is needed.
    BufferTooSmall = 105,
    /// A file or its contents could not be read or written.
    Io = 200,
    /// A file is not what it claims to be: truncated, corrupt or contradictory.
    InvalidFile = 201,
    /// A graph is well-formed as a file but breaks a rule of the representation.
    InvalidGraph = 202,
    /// The operator, attribute, type or format is valid but not implemented.
    Unsupported = 300,
    /// An options struct carries fields that this version does not know.
    UnsupportedOption = 301,
    /// Memory could not be allocated.
    OutOfMemory = 400,
    /// The run would exceed the byte budget that the caller set.
    BudgetExceeded = 401,
    /// A device could not be used.
    Device = 500,
    /// The call was cancelled.
    Cancelled = 600,
    /// The call's deadline passed.
    Timeout = 601,
    /// An invariant of the library is broken; please report it.
    Internal = 900,
    /// The library panicked inside a call; the process lives on.
    Panic = 901,
    /// An earlier panic left this object unusable; it can only be freed.
    Poisoned = 902,
}

impl Code {
    /// Every code, in ascending order.
    pub const ALL: [Code; 19] = [
        Code::InvalidArgument,
        Code::ShapeMismatch,
        Code::DTypeMismatch,
        Code::NotFound,
        Code::InvalidState,
        Code::BufferTooSmall,
        Code::Io,
        Code::InvalidFile,
        Code::InvalidGraph,
        Code::Unsupported,
        Code::UnsupportedOption,
        Code::OutOfMemory,
        Code::BudgetExceeded,
        Code::Device,
        Code::Cancelled,
        Code::Timeout,
        Code::Internal,
        Code::Panic,
        Code::Poisoned,
    ];

    /// The code's stable upper-case name, e.g. `SHAPE_MISMATCH`.
    pub fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::ShapeMismatch => "SHAPE_MISMATCH",
            Code::DTypeMismatch => "DTYPE_MISMATCH",
            Code::NotFound => "NOT_FOUND",
            Code::InvalidState => "INVALID_STATE",
            Code::BufferTooSmall => "BUFFER_TOO_SMALL",
            Code::Io => "IO",
            Code::InvalidFile => "INVALID_FILE",
            Code::InvalidGraph => "INVALID_GRAPH",
            Code::Unsupported => "UNSUPPORTED",
            Code::UnsupportedOption => "UNSUPPORTED_OPTION",
            Code::OutOfMemory => "OUT_OF_MEMORY",
            Code::BudgetExceeded => "BUDGET_EXCEEDED",
            Code::Device => "DEVICE",
            Code::Cancelled => "CANCELLED",
            Code::Timeout => "TIMEOUT",
            Code::Internal => "INTERNAL",
            Code::Panic => "PANIC",
            Code::Poisoned => "POISONED",
        }
    }

    /// The number that crosses the C ABI.
    pub fn as_i32(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    message: String,
    node: Option<String>,
}

impl Error {
    /// An error with `code` and a one-line message. Line breaks, which a name in
    /// a hostile file may carry, are replaced so that the message stays one line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains(['\n', '\r', '\0']) {
            message = message.replace(['\n', '\r', '\0'], " ");
        }
        Error(Box::new(Inner { code, message, node: None }))
    }

    /// The error that a caught panic becomes: [`Code::Panic`] with the panic's message.
    pub fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        Error::new(Code::Panic, format!("the library panicked: {text}; please report this"))
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message without code and node.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Path of the node the error arose in, outermost first (`/encoder/loop/add`).
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// Adds the node the error arose in. A node that is already set becomes the
    /// inner part of the path, so nested subgraphs read from the outside in.
    pub fn at_node(mut self, node: &str) -> Self {
        let node = node.replace(['\n', '\r', '\0'], " ");
        self.0.node = Some(match self.0.node.take() {
            Some(inner) => format!("{node} > {inner}"),
            None => node,
        });
        self
    }

    /// Puts `context` and a colon before the message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        let text = format!("{context}: {}", self.0.message);
        self.0.message = text.replace(['\n', '\r', '\0'], " ");
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.node {
            Some(node) => write!(f, "{}: node '{}': {}", self.0.code, node, self.0.message),
            None => write!(f, "{}: {}", self.0.code, self.0.message),
        }
    }
}

impl std::error::Error for Error {}

/// Builds an [`Error`] from a [`Code`] variant and a format string:
/// `err!(ShapeMismatch, "expected {a}, got {b}")`.
#[macro_export]
macro_rules! err {
    ($code:ident, $($arg:tt)*) => {
        $crate::Error::new($crate::Code::$code, format!($($arg)*))
    };
}

/// Returns early with [`err!`]: `bail!(Unsupported, "…")`.
#[macro_export]
macro_rules! bail {
    ($code:ident, $($arg:tt)*) => {
        return Err($crate::err!($code, $($arg)*))
    };
}

/// Returns early with [`err!`] unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $code:ident, $($arg:tt)*) => {
        if !$cond {
            return Err($crate::err!($code, $($arg)*));
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_one_line_and_carries_the_node_path() {
        let e = err!(ShapeMismatch, "a\nb").at_node("add").at_node("/loop");
        assert_eq!(e.to_string(), "SHAPE_MISMATCH: node '/loop > add': a b");
    }

    #[test]
    fn codes_are_distinct_and_ascending() {
        assert!(Code::ALL.windows(2).all(|w| w[0].as_i32() < w[1].as_i32()));
    }
}
