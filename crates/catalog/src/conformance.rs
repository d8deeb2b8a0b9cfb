//! What every [`Catalog`](crate::Catalog) must do.
