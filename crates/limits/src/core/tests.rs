//! Rates kept and reached, in simulated time.

use super::*;
use proptest::prelude::*;
use types::limits::{Burst, LimitChange};

impl Waits for Demand {
    fn waits(&self) -> bool {
        true
    }
}

impl Waits for () {
    fn waits(&self) -> bool {
        true
    }
}

/// Odd ones are gone.
impl Waits for i32 {
    fn waits(&self) -> bool {
        self % 2 == 0
    }
}

const MS: Duration = Duration::from_millis(1);

fn limit(rate: u64, burst: Option<(u64, u32)>) -> Option<Limit> {
    let burst = burst.map(|(rate, seconds)| Burst { rate, seconds });
    Some(Limit { rate, burst })
}

fn limits(of: &[(LimitKind, Option<Limit>)]) -> Limits {
    let mut limits = Limits::NONE;
    for &(kind, limit) in of {
        limits.set(kind, limit);
    }
    assert!(limits.is_sound());
    limits
}

const fn read(bytes: u64) -> Demand {
    Demand {
        access: Access::Read,
        bytes,
    }
}

const fn write(bytes: u64) -> Demand {
    Demand {
        access: Access::Write,
        bytes,
    }
}

/// Everything that was admitted, and when.
type Log = Vec<(Duration, Demand)>;

/// Keeps `depth` requests of each kind in flight for `time`.
fn run(core: &mut Core<Demand>, wants: &[Demand], depth: usize, time: Duration) -> Log {
    let mut log = Vec::new();
    for _ in 0..depth {
        wants.iter().for_each(|&demand| core.join(demand, demand));
    }
    let mut now = Duration::ZERO;
    while now < time {
        let gone = core.advance(now);
        for demand in gone {
            log.push((now, demand));
            core.join(demand, demand);
        }
        // Who is served comes back at once, so somebody always waits.
        now += core.wait().unwrap_or(MS).max(Duration::from_micros(10));
    }
    log
}

fn sum(log: &Log, from: Duration, to: Duration, kind: LimitKind) -> u64 {
    let within = log.iter().filter(|(at, _)| (from..=to).contains(at));
    within.map(|&(_, demand)| cost(kind, demand)).sum()
}

/// What a limit allows in a span of time: the rate, the burst, and the end of one request that began within them.
fn allowed(limit: Limit, span: Duration, largest: u64) -> u64 {
    let came = |rate: u64| (rate as f64 * span.as_secs_f64()).ceil() as u64;
    let slack = |rate: u64| (rate / SLACK).max(1);
    let long = capacity(limit).max(slack(limit.rate)) + came(limit.rate);
    let short = limit
        .burst
        .map_or(u64::MAX, |b| slack(b.rate).saturating_add(came(b.rate)));
    long.min(short) + largest.saturating_sub(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked for, no window has more than it may have.
    #[test]
    fn no_window_has_more_than_rate_and_burst(
        rate in 1u64..2000,
        burst in prop::option::of((1u64..5, 1u32..4)),
        kind in 0usize..6,
        sizes in prop::collection::vec((any::<bool>(), 0u64..5000), 1..4),
        depth in 1usize..8,
    ) {
        let kind = LimitKind::ALL[kind];
        let burst = burst.map(|(times, seconds)| (rate * times, seconds));
        let limit = limit(rate, burst).unwrap();
        let wants: Vec<Demand> = sizes
            .iter()
            .map(|&(reads, bytes)| if reads { read(bytes) } else { write(bytes) })
            .collect();
        // What is not limited at all would come back for ever.
        prop_assume!(wants.iter().all(|&demand| cost(kind, demand) > 0));
        let largest = wants.iter().map(|&demand| cost(kind, demand)).max().unwrap();
        let mut core = Core::new(&limits(&[(kind, Some(limit))]), Duration::ZERO);
        let log = run(&mut core, &wants, depth, Duration::from_secs(6));
        let times: Vec<Duration> = log.iter().map(|(at, _)| *at).collect();
        for from in times.iter().step_by(1 + times.len() / 50) {
            for to in times.iter().filter(|to| *to >= from).step_by(1 + times.len() / 50) {
                let most = allowed(limit, *to - *from, largest);
                let had = sum(&log, *from, *to, kind);
                prop_assert!(had <= most, "{had} of {most} from {from:?} to {to:?}");
            }
        }
        // And what may be had is had, to the last request.
        let end = Duration::from_secs(6);
        let least = rate * 6;
        prop_assert!(sum(&log, Duration::ZERO, end, kind) + largest >= least);
    }
}

#[test]
fn a_burst_lasts_as_long_as_it_may_and_comes_back_after_a_rest() {
    let of = limits(&[(LimitKind::Iops, limit(100, Some((1000, 3))))]);
    let mut core = Core::new(&of, Duration::ZERO);
    let log = run(&mut core, &[read(1)], 4, Duration::from_secs(6));
    let second = |n: u64| {
        let from = Duration::from_secs(n);
        sum(
            &log,
            from + MS,
            from + Duration::from_secs(1),
            LimitKind::Iops,
        )
    };
    for n in 0..2 {
        assert!((990..=1110).contains(&second(n)), "{n}: {}", second(n));
    }
    for n in 4..5 {
        assert!((99..=101).contains(&second(n)), "{n}: {}", second(n));
    }
    let mut rested = Core::<()>::new(&of, Duration::ZERO);
    (0..5000).for_each(|_| rested.owe(read(1), Duration::ZERO));
    assert!(!rested.pass(read(1), Duration::from_secs(1)));
    assert!(rested.pass(read(1), Duration::from_secs(60)));
}

#[test]
fn what_is_larger_than_any_burst_passes_and_is_paid_for_afterwards() {
    let of = limits(&[(LimitKind::WriteBps, limit(1000, None))]);
    let mut core = Core::<()>::new(&of, Duration::ZERO);
    assert!(core.pass(write(32 << 20), Duration::ZERO));
    // Reads are not held back by it, and neither is what carries no bytes.
    assert!(core.pass(read(1 << 20), Duration::ZERO) && core.pass(write(0), Duration::ZERO));
    let paid = Duration::from_secs((32 << 20) / 1000);
    assert!(!core.pass(write(1), paid - Duration::from_secs(1)));
    assert!(core.pass(write(1), paid + Duration::from_secs(1)));
}

#[test]
fn who_asked_first_of_its_kind_is_first() {
    let of = limits(&[(LimitKind::ReadIops, limit(10, None))]);
    let mut core = Core::new(&of, Duration::ZERO);
    assert!(core.pass(read(1), Duration::ZERO));
    (0..5).for_each(|number| core.join(read(1), 2 * number));
    // There is a token, but others were first; writes are not limited.
    assert!(!core.pass(read(1), Duration::from_millis(100)));
    assert!(core.pass(write(1), Duration::from_millis(100)));
    let mut now = Duration::from_millis(100);
    let mut order = Vec::new();
    while let Some(wait) = core.wait() {
        now += wait;
        order.extend(core.advance(now));
    }
    assert_eq!(order, [0, 2, 4, 6, 8]);
    assert!(core.is_idle());
}

/// Small reads that keep coming do not take for ever the bytes that a large write waits for.
#[test]
fn nobody_starves_beside_the_other_kind() {
    let of = limits(&[(LimitKind::Bps, limit(10_000, None))]);
    let mut core = Core::new(&of, Duration::ZERO);
    let log = run(
        &mut core,
        &[read(10), write(1000)],
        3,
        Duration::from_secs(5),
    );
    let second_half = Duration::from_millis(2500);
    let writes = log
        .iter()
        .filter(|(at, d)| *at > second_half && d.access == Access::Write);
    assert!(writes.count() > 10);
    // Writes that wait for a limit of their own keep no read from the total.
    let of = limits(&[
        (LimitKind::Iops, limit(1000, None)),
        (LimitKind::WriteIops, limit(1, None)),
    ]);
    let mut core = Core::new(&of, Duration::ZERO);
    let log = run(&mut core, &[write(1), read(1)], 4, Duration::from_secs(5));
    let reads = log.iter().filter(|(_, d)| d.access == Access::Read);
    assert!(reads.count() >= 4900);
}

#[test]
fn a_change_counts_at_once_and_gives_no_burst() {
    let kind = LimitKind::Iops;
    let mut core = Core::new(&limits(&[(kind, limit(1, None))]), Duration::ZERO);
    core.owe(read(1), Duration::ZERO);
    (0..100).for_each(|number| core.join(read(1), 2 * number));
    assert!(core.advance(Duration::ZERO).is_empty());
    core.set(&limits(&[(kind, limit(1000, None))]), Duration::ZERO);
    assert!(
        core.advance(Duration::ZERO).is_empty(),
        "nothing came in yet"
    );
    assert_eq!(core.advance(MS * 10).len(), 10);
    // A slower one: what came in so far is kept, up to what it may keep.
    core.set(&limits(&[(kind, limit(10, None))]), MS * 100);
    assert_eq!(core.advance(MS * 100).len(), 1);
    core.set(&Limits::NONE, MS * 100);
    assert_eq!(core.advance(MS * 100).len(), 89);
    // Setting the same limit again and again pays for nothing.
    core.set(&limits(&[(kind, limit(10, None))]), MS * 100);
    assert!(core.pass(read(1), MS * 100));
    for _ in 0..10 {
        core.set(&limits(&[(kind, limit(10, None))]), MS * 100);
        assert!(!core.pass(read(1), MS * 100));
    }
    let change = LimitChange {
        kind,
        rate: Some(0),
        burst: None,
        burst_seconds: None,
    };
    let mut none = limits(&[(kind, limit(10, None))]);
    none.change(&change).unwrap();
    core.set(&none, MS * 100);
    assert!(core.pass(read(1), MS * 100));
}

/// A long write of a client that had gone kept all others waiting for what it would have taken.
#[test]
fn who_is_gone_takes_nothing_and_is_waited_for_by_nobody() {
    let of = limits(&[(LimitKind::Bps, limit(1000, None))]);
    let mut core = Core::new(&of, Duration::ZERO);
    core.owe(read(100), Duration::ZERO);
    core.join(write(32 << 20), 1);
    core.join(write(100), 2);
    core.join(write(32 << 20), 3);
    assert_eq!(core.wait(), Some(MS * 100));
    assert_eq!(core.advance(MS * 100), [2]);
    assert!(core.wait().is_none() && core.is_idle());
    assert!(core.pass(read(100), MS * 200));
}
