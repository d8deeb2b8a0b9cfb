//! The contents of a block, wherever they are kept.

use crate::Block;
use std::{fmt, ops::Deref, sync::Arc};

/// Who keeps the contents of one block, which do not change.
pub trait BlockData: Send + Sync {
    /// The contents.
    fn bytes(&self) -> &Block;
}

/// A block that several hold. An `Arc<Block>` becomes one where it is expected.
pub type SharedBlock = Arc<dyn BlockData>;

impl BlockData for Block {
    fn bytes(&self) -> &Block {
        self
    }
}

impl Deref for dyn BlockData {
    type Target = Block;
    fn deref(&self) -> &Block {
        self.bytes()
    }
}

impl PartialEq for dyn BlockData {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for dyn BlockData {}

impl fmt::Debug for dyn BlockData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:02x?}…)", &self.bytes()[..8])
    }
}
