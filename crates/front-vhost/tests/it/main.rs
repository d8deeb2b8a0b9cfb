//! The server against a real driver, libblkio's, and against front ends that do everything wrong.
#![expect(clippy::unwrap_used, reason = "tests")]

mod device;
mod driver;
mod hostile;
mod identity;
mod lasting;
mod raw;
mod throttle;
mod transmission;
