//! The client against the server of this workspace, and against servers that mean no good.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod hostile;
mod real;
