//! A copy of a catalog beside it: what a lost or damaged catalog is rebuilt from.
//!
//! ```text
//!  Copied ── commit: first the catalog's own, then the same step to the end of the newest file, synced
//!    │                                                         │ as long as what it was begun with
//!    └─ directory:  …0007.copy │ everything at commit 812 │ 813 │ 814 │ … │ 990 │
//!                   …0008.copy │ everything at commit 990 │ 991 │ 992 │            (the last two are kept)
//! ```
//!
//! A file begins with all contents of the catalog; each later commit is appended to it. So the copy knows every
//! commit that returned, costs one small write and sync a commit, and takes about twice the contents on disk. A file
//! whose beginning is damaged is made up for by the one before it, whose steps lead up to it.
//!
//! # Guarantees
//! 1. When a commit returns, the copy has it, or the log says that it could not be written.
//! 2. The copy is never newer than the catalog: commits are appended after they were made. So a catalog that has fewer
//!    commits than its copy is old (put back from a backup, or the header lost its last write) and
//!    [`Copied::open`] refuses it.
//! 3. A copy that cannot be written refuses no commit: it is begun anew with the next one.
//! 4. Bytes that make no sense end a file's steps, or make the file none; never a panic.

mod copied;
mod layout;
mod read;
mod writer;

pub use copied::{Copied, OpenError};
pub use read::{Found, read};
