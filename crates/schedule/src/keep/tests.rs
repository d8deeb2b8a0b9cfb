use super::*;
use jiff::Timestamp;
use proptest::prelude::*;

fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn at(id: u64, text: &str) -> Taken {
    let at: Timestamp = text.parse().unwrap();
    Taken {
        id: SnapshotId(id),
        at_ms: u64::try_from(at.as_millisecond()).unwrap(),
    }
}

fn keep(text: &str) -> Keep {
    text.parse().unwrap()
}

/// The numbers of those that are kept of those that were taken at these times, from 1 on.
fn kept(rules: &str, times: &[&str]) -> Vec<u64> {
    let taken: Vec<Taken> = (1..).zip(times).map(|(id, time)| at(id, time)).collect();
    let expired = keep(rules).expired(&taken, &berlin());
    let kept = taken.iter().filter(|taken| !expired.contains(&taken.id));
    kept.map(|taken| taken.id.0).collect()
}

#[test]
fn the_newest_of_each_period_is_kept() {
    let days = [
        "2025-01-01T09:00Z",
        "2025-01-01T12:00Z",
        "2025-01-02T09:00Z",
        "2025-01-04T09:00Z",
        "2025-01-04T09:30Z",
    ];
    assert_eq!(kept("last:2", &days), [4, 5]);
    assert_eq!(kept("hourly:2", &days), [3, 5]);
    // Days without any do not count.
    assert_eq!(kept("daily:2", &days), [3, 5]);
    assert_eq!(kept("daily:9", &days), [2, 3, 5]);
    assert_eq!(kept("last:1,daily:3", &days), [2, 3, 5]);
    // Weeks begin on Monday, days at the local midnight.
    assert_eq!(
        kept(
            "weekly:9",
            &[
                "2025-01-05T22:59Z",
                "2025-01-05T23:00Z",
                "2025-01-06T12:00Z"
            ]
        ),
        [1, 3]
    );
    assert_eq!(
        kept(
            "weekly:9",
            &[
                "2024-12-29T12:00Z",
                "2024-12-30T12:00Z",
                "2025-01-05T12:00Z"
            ]
        ),
        [1, 3]
    );
    let months = [
        "2024-02-29T12:00Z",
        "2024-02-29T23:00Z",
        "2024-03-31T21:59Z",
        "2024-03-31T22:00Z",
        "2024-12-31T22:59Z",
        "2024-12-31T23:00Z",
    ];
    assert_eq!(kept("monthly:9", &months), [1, 3, 4, 5, 6]);
    assert_eq!(kept("monthly:2", &months), [5, 6]);
    assert_eq!(kept("yearly:9", &months), [5, 6]);
}

#[test]
fn an_hour_that_comes_twice_is_two_and_a_day_of_25_hours_is_one() {
    let times = [
        "2025-10-25T22:00Z",
        "2025-10-26T00:30Z",
        "2025-10-26T01:30Z",
        "2025-10-26T22:59Z",
        "2025-10-26T23:00Z",
    ];
    assert_eq!(kept("hourly:9", &times), [1, 2, 3, 4, 5]);
    assert_eq!(kept("daily:9", &times), [4, 5]);
    // The hour that is not there.
    let times = [
        "2025-03-30T00:30Z",
        "2025-03-30T01:00Z",
        "2025-03-30T01:30Z",
    ];
    assert_eq!(kept("hourly:9", &times), [1, 3]);
}

#[test]
fn a_clock_that_went_back_costs_nothing_early_and_the_newest_stays() {
    // It was ten years ahead for the second one.
    let times = [
        "2025-01-01T10:00Z",
        "2035-01-01T11:00Z",
        "2025-01-01T12:00Z",
    ];
    assert_eq!(kept("last:1", &times), [3]);
    assert_eq!(kept("daily:3", &times), [1, 2, 3]);
    // The same hours once more: none of the first time goes for one of the second.
    let times = [
        "2025-01-01T10:00Z",
        "2025-01-01T11:00Z",
        "2025-01-01T10:00Z",
        "2025-01-01T11:00Z",
    ];
    assert_eq!(kept("hourly:4", &times), [1, 2, 3, 4]);
}

#[test]
fn rules_are_written_as_they_are_read() {
    for good in ["last:1", "hourly:24,daily:7,weekly:4", "yearly:9999,last:3"] {
        assert_eq!(keep(good).to_string(), good);
    }
    for wrong in [
        "",
        "daily",
        "daily:",
        "daily:0",
        "daily:-1",
        "daily:+7",
        "daily:10000",
        "daily:7,",
        ",daily:7",
        "daily:7 ",
        "daily:7, weekly:4",
        "Daily:7",
        "minutely:5",
        "daily:7,daily:8",
        "daily=7",
        "daily:7:8",
        "daily:99999999999999999999",
        "ü:1",
        "daily:\n",
    ] {
        let error = wrong.parse::<Keep>().unwrap_err();
        assert!(
            !error.contains('\n') && error.contains("'hourly:24,daily:7'"),
            "{wrong}: {error}"
        );
    }
}

/// Rules, and snapshots in order, the times mostly growing.
fn histories() -> impl Strategy<Value = (Vec<(usize, u32)>, Vec<Taken>)> {
    let rules = proptest::sample::subsequence((0..PERIODS.len()).collect::<Vec<_>>(), 1..=3);
    let counts = proptest::collection::vec(1u32..6, 3);
    let rules = (rules, counts).prop_map(|(rules, counts)| rules.into_iter().zip(counts).collect());
    let step = prop_oneof![8 => 0i64..4 * 3600, 4 => 0i64..40 * 86400, 1 => -40 * 86400i64..0];
    let steps = proptest::collection::vec(step, 0..60);
    let taken = steps.prop_map(|steps| {
        let mut at_s = 1_750_000_000i64;
        let taken = (1..).zip(steps).map(|(id, step)| {
            at_s += step;
            Taken {
                id: SnapshotId(id * 3),
                at_ms: u64::try_from(at_s).unwrap() * 1000,
            }
        });
        taken.collect()
    });
    (rules, taken)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_goes_that_a_rule_needs_and_all_else_does((rules, taken) in histories()) {
        let zone = berlin();
        let keep = Keep(rules.iter().map(|&(rule, count)| (PERIODS[rule].1, count)).collect());
        let expired = keep.expired(&taken, &zone);
        let stay: Vec<Taken> = taken.iter().filter(|t| !expired.contains(&t.id)).copied().collect();
        // The newest stays, and what stays stays.
        prop_assert_eq!(stay.last(), taken.last());
        prop_assert_eq!(keep.expired(&stay, &zone), vec![]);
        // Only what was there, oldest first, whatever the order of asking.
        prop_assert!(expired.is_sorted() && expired.iter().all(|id| taken.iter().any(|t| t.id == *id)));
        let backwards: Vec<Taken> = taken.iter().rev().copied().collect();
        prop_assert_eq!(&keep.expired(&backwards, &zone), &expired);
        // Said the other way round: who is the last of its period, of which fewer than so many follow, stays.
        let needed = |index: usize| rules.iter().any(|&(rule, count)| {
            let number = |t: &Taken| PERIODS[rule].1.number(t.id, &moment(t.at_ms).to_zoned(zone.clone()));
            let ends = |i: usize| i + 1 == taken.len() || number(&taken[i]) != number(&taken[i + 1]);
            ends(index) && (index + 1..taken.len()).filter(|&i| ends(i)).count() < count as usize
        });
        for (index, one) in taken.iter().enumerate() {
            prop_assert_eq!(needed(index), !expired.contains(&one.id), "{:?}", one);
        }
        // One more by any rule never removes more than before of what is older than it.
        let more = Keep(keep.0.iter().map(|&(period, count)| (period, count + 1)).collect());
        prop_assert!(more.expired(&taken, &zone).iter().all(|id| expired.contains(id)));
    }
}
