//! The pack store as the block map sees it.

use pack::{PackStore, PackWriter};
use std::sync::Arc;
use types::Pointer;

/// Nodes through the cache, waiting for storage if need be.
pub(crate) struct Nodes<'a>(pub(crate) &'a PackStore);

impl blockmap::NodeSource for Nodes<'_> {
    type Error = pack::Error;
    fn node(&self, pointer: Pointer) -> Result<Arc<format::Node>, pack::Error> {
        self.0.node(pointer)
    }
    fn is_lost(&self, error: &pack::Error) -> bool {
        error.kind() == pack::ErrorKind::Damaged
    }
}

/// Nodes that need no waiting.
pub(crate) struct NodesNow<'a>(pub(crate) &'a PackStore);

/// Why [`NodesNow`] has no node.
#[derive(Debug)]
pub(crate) enum NotNow {
    WouldWait,
    Failed(pack::Error),
}

impl blockmap::NodeSource for NodesNow<'_> {
    type Error = NotNow;
    fn node(&self, pointer: Pointer) -> Result<Arc<format::Node>, NotNow> {
        match self.0.try_node(pointer) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(NotNow::WouldWait),
            Err(e) => Err(NotNow::Failed(e)),
        }
    }
    fn is_lost(&self, error: &NotNow) -> bool {
        matches!(error, NotNow::Failed(error) if error.kind() == pack::ErrorKind::Damaged)
    }
}

/// Where destaging puts changed nodes.
pub(crate) struct Sink<'a>(pub(crate) &'a mut PackWriter);

impl blockmap::NodeSink for Sink<'_> {
    type Error = pack::Error;
    fn write_node(&mut self, node: &format::Node) -> Result<Pointer, pack::Error> {
        self.0.write_node(node)
    }
}
