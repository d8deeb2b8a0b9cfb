//! A limited device is a block device as the seam has it.

use block::MemoryDevice;
use limits::{Limited, Limiter, Timer};
use std::sync::Arc;
use types::{Limit, LimitKind, Limits};

#[test]
fn conforms() {
    let timer = Timer::manual(env::Env::real().clock);
    let mut limits = Limits::NONE;
    limits.set(
        LimitKind::Iops,
        Some(Limit {
            rate: 1,
            burst: None,
        }),
    );
    block::conformance::writable(&|size| {
        let limiter = Limiter::new(&timer, &limits);
        let memory = Arc::new(MemoryDevice::new(size as usize));
        Box::new(Limited::new(memory, limiter))
    });
}
