//! The text form of a graph: one line per node, made to be read, compared and kept in tests.
//!
//! ```text
//! graph "encoder" where batch in 1..64, seq in 1.. {
//!   input %ids: i64[batch, seq]
//!   const %table: f32[30522, 384] = @table
//!   const %axes: i64[1] = [2]
//!   %h: f32[batch, seq, 384] = Gather(%table, %ids) {axis = 0} "/embeddings/word"
//!   _, %b: f32[batch, seq, 192] = Split(%h, _) {axis = 2, num_outputs = 2} "halves"
//!   output "last" = %b
//! }
//! ```
//!
//! What is printed parses back to an equal graph, floats to the same bits, and prints to the
//! same text. Constants of more than [`INLINE_ELEMENTS`] elements are named, not written:
//! [`large_constants`] collects them and [`parse`] takes them by name.
//!
//! Inputs come first, then constants, nodes, outputs; `_` is an absent input or an unwanted
//! output. A node that has no outputs starts with `()`. Types may be left out after an output,
//! which then has the inferred one. Attributes are typed by their spelling: `true`, `3`,
//! `3.0`, `"three"`, `f32`, lists of one kind, `floats()` for an empty list of floats,
//! `tensor(f32[1], [3.0])`, and a whole `graph`. NaNs other than the usual one spell their
//! bits, `nan(0x7fc00001)`; elements of 8- and 4-bit floats are their bits, `0x3f`. An extent
//! that overflowed when it was inferred is `!`. `//` starts a comment.

mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use parse::{parse, parse_attrs};
pub use print::{large_constants, print};

/// Most elements of a constant that are written into the text.
pub const INLINE_ELEMENTS: usize = 64;

/// Whether a character can stand in a name without quotes.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '#' | '-')
}
