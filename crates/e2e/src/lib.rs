//! Tests of the whole program with real clients.
