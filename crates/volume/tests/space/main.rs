//! Stores on disks that are full or sick, and how they end.

mod ending;
mod full;
mod quota;
mod sick;
mod support;
