//! keen-edge.
