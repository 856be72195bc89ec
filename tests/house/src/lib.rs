//! Tests of the house itself: which crate may use which, and how long a file may be.
