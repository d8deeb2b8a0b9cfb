//! What records look like, and what hostile ones do.
