//! Stores on disks that are full or sick.

mod full;
mod sick;
mod support;
