//! What every [`Brick`](crate::Brick) must do.
