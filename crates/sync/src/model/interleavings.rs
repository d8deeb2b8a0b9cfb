//! The checker itself: it must see what it is there to see.

use super::explore;
use crate::{Condvar, Mutex, atomic::AtomicU64, thread};
use std::{sync::Arc, time::Duration};

type Flag = Arc<(Mutex<bool>, Condvar)>;

/// A thread that waits for the flag, and one that sets it as `set` does.
fn wait_for_flag(wait: fn(&Flag), set: fn(&Flag)) {
    explore(200, move || {
        let flag = Flag::default();
        let waiter = thread::spawn({
            let flag = Arc::clone(&flag);
            move || wait(&flag)
        });
        set(&flag);
        waiter.join().unwrap();
    });
}

fn wait(flag: &Flag) {
    let mut set = flag.0.lock();
    while !*set {
        flag.1.wait(&mut set);
    }
}

fn wait_in_pieces(flag: &Flag) {
    let mut set = flag.0.lock();
    while !*set {
        flag.1.wait_for(&mut set, Duration::from_millis(100));
    }
}

fn set(flag: &Flag) {
    *flag.0.lock() = true;
    flag.1.notify_one();
}

fn set_in_silence(flag: &Flag) {
    *flag.0.lock() = true;
}

#[test]
fn a_notification_is_not_lost_between_the_lock_and_the_wait() {
    wait_for_flag(wait, set);
    wait_for_flag(wait_in_pieces, set);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_notification_that_is_missing_is_seen() {
    wait_for_flag(wait, set_in_silence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_time_out_does_not_hide_a_notification_that_is_missing() {
    wait_for_flag(wait_in_pieces, set_in_silence);
}

#[test]
#[should_panic(expected = "an increment is lost")]
fn threads_meet_between_two_atomics() {
    use crate::atomic::Ordering::SeqCst;
    explore(200, || {
        let count = Arc::new(AtomicU64::new(0));
        let increment = |count: &AtomicU64| count.store(count.load(SeqCst) + 1, SeqCst);
        let other = thread::spawn({
            let count = Arc::clone(&count);
            move || increment(&count)
        });
        increment(&count);
        other.join().unwrap();
        assert_eq!(count.load(SeqCst), 2, "an increment is lost");
    });
}
