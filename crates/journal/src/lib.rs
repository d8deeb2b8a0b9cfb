//! The write-ahead log of a host.
