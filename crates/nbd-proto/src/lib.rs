//! The NBD wire protocol: parsing and building, no I/O.
