//! How a thread shares the processors with others.

/// Of threads that give way: a tenth of what others get who want the processor too.
const NICE: i32 = 10;

/// From now on the calling thread has the processors only as far as others leave them: for work that nobody waits for.
pub fn give_way() {
    // Nobody needs a privilege for less.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn a_priority_is_the_threads_own() {
        let before = getpriority_process(None).unwrap();
        let gives_way = crate::spawn("gives way", || {
            give_way();
            getpriority_process(None).unwrap()
        })
        .unwrap();
        assert_eq!(gives_way.join().unwrap(), NICE.max(before));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
