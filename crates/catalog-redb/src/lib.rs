//! The catalog of one host, in redb.
