//! A brick in a local directory.
