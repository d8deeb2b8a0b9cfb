//! The pack store as a whole.
