//! Operators of old operator sets and other domains, in terms of the newest.

pub mod contrib;
pub mod contrib_attention;
pub mod contrib_quant;
pub mod legacy;
pub mod ml;
pub mod resize;
pub mod shape;
