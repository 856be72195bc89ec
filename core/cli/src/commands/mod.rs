//! One file a command: its options and what it prints.

pub mod bench;
pub mod convert;
pub mod embed;
pub mod inspect;
pub mod plan;
pub mod profile;
pub mod run;
pub mod vision;
