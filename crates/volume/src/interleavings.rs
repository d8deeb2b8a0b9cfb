//! The parts that wait for each other, in orders that a seed chooses: see `sync::model`. Whole stores are tested
//! in `tests/interleavings`.

mod budget;
mod gate;
mod work;
