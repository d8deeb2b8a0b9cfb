//! Threads that end before the call that started them, and so may borrow from it.

use std::{
    io,
    thread::{self, ScopedJoinHandle},
};

/// Where threads that borrow are started; see [`scope`].
#[derive(Clone, Copy)]
pub struct Scope<'scope, 'env>(&'scope thread::Scope<'scope, 'env>);

impl<'scope> Scope<'scope, '_> {
    /// Starts a named thread.
    ///
    /// # Errors
    /// The system has no more threads to give.
    pub fn spawn<T: Send + 'scope>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(1 << 20)
            .spawn_scoped(self.0, body)
    }
}

/// Calls `f`, and returns when it and every thread that it started have ended.
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(Scope<'scope, 'env>) -> T) -> T {
    thread::scope(|scope| f(Scope(scope)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_borrow_and_end_with_the_scope() {
        let words = ["a", "b"];
        let mut sum = 0;
        let named = scope(|scope| {
            scope.spawn("adds", || sum = words.len()).unwrap();
            let name = || thread::current().name().map(str::to_owned);
            scope.spawn("named", name).unwrap().join().unwrap()
        });
        assert_eq!((sum, named.as_deref()), (2, Some("named")));
    }
}
