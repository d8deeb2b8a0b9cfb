//! Stores on disks that are full or sick.

mod full;
mod quota;
mod sick;
mod support;
