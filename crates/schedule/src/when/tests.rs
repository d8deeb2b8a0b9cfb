use super::*;
use jiff::Timestamp;

fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn ms(text: &str) -> u64 {
    let at: Timestamp = text.parse().unwrap();
    u64::try_from(at.as_millisecond()).unwrap()
}

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap()
}

#[test]
fn runs_follow_the_wall_clock() {
    // What, after when, and the runs that follow.
    let table: [(&str, &str, &[&str]); 14] = [
        (
            "@hourly",
            "2025-01-01T10:59:59.999+01:00",
            &["2025-01-01T11:00+01:00", "2025-01-01T12:00+01:00"],
        ),
        // A moment is after itself by nothing.
        (
            "@hourly",
            "2025-01-01T11:00+01:00",
            &["2025-01-01T12:00+01:00"],
        ),
        (
            "@daily",
            "2025-01-31T12:00+01:00",
            &["2025-02-01T00:00+01:00", "2025-02-02T00:00+01:00"],
        ),
        (
            "@weekly",
            "2025-01-01T00:00+01:00",
            &["2025-01-05T00:00+01:00", "2025-01-12T00:00+01:00"],
        ),
        (
            "@monthly",
            "2025-01-31T23:59+01:00",
            &["2025-02-01T00:00+01:00", "2025-03-01T00:00+01:00"],
        ),
        (
            "@yearly",
            "2024-12-31T23:59:59+01:00",
            &["2025-01-01T00:00+01:00", "2026-01-01T00:00+01:00"],
        ),
        // The ends of months, leap days, and the hundred years without one.
        (
            "0 3 31 * *",
            "2025-03-31T03:00+02:00",
            &["2025-05-31T03:00+02:00", "2025-07-31T03:00+02:00"],
        ),
        (
            "0 3 29 2 *",
            "2024-02-29T03:00+01:00",
            &["2028-02-29T03:00+01:00"],
        ),
        (
            "0 3 29 2 *",
            "2096-03-01T00:00+01:00",
            &["2104-02-29T03:00+01:00"],
        ),
        (
            "0 3 L * *",
            "2025-11-30T03:00+01:00",
            &["2025-12-31T03:00+01:00", "2026-01-31T03:00+01:00"],
        ),
        // Summer begins: what would be in the hour that is not there runs when it is over, once.
        (
            "30 2 * * *",
            "2025-03-29T12:00+01:00",
            &["2025-03-30T03:00+02:00", "2025-03-31T02:30+02:00"],
        ),
        (
            "*/30 * * * *",
            "2025-03-30T01:00+01:00",
            &[
                "2025-03-30T01:30+01:00",
                "2025-03-30T03:00+02:00",
                "2025-03-30T03:30+02:00",
            ],
        ),
        // Summer ends: once at a time of the day; every hour, though there are two of the same name.
        (
            "30 2 * * *",
            "2025-10-25T12:00+02:00",
            &["2025-10-26T02:30+02:00", "2025-10-27T02:30+01:00"],
        ),
        (
            "@hourly",
            "2025-10-26T01:00+02:00",
            &[
                "2025-10-26T02:00+02:00",
                "2025-10-26T02:00+01:00",
                "2025-10-26T03:00+01:00",
            ],
        ),
    ];
    for (text, after, runs) in table {
        let mut at = ms(after);
        for run in runs {
            at = schedule(text).next(at, &berlin()).unwrap();
            assert_eq!(at, ms(run), "{text} after {after}");
        }
    }
}

#[test]
fn the_same_schedule_is_another_moment_in_another_zone() {
    let next = |zone: &TimeZone| schedule("@daily").next(ms("2025-07-01T12:00Z"), zone);
    assert_eq!(next(&TimeZone::UTC), Some(ms("2025-07-02T00:00Z")));
    assert_eq!(next(&berlin()), Some(ms("2025-07-01T22:00Z")));
}

/// Looks at a schedule at some moments, and does what it says; the moments of the runs.
fn runs(text: &str, done: &str, looks: &[&str]) -> Vec<String> {
    let (schedule, mut done, mut runs) = (schedule(text), ms(done), Vec::new());
    for look in looks {
        match schedule.turn(done, ms(look), &TimeZone::UTC) {
            Turn::Run(up_to) => {
                assert!(up_to <= ms(look) && up_to > done);
                done = up_to;
                runs.push((*look).to_owned());
            }
            Turn::Back(now) => done = now,
            Turn::Wait(next) => assert!(next > ms(look)),
            Turn::Never => panic!("{text}"),
        }
    }
    runs
}

#[test]
fn what_was_missed_is_made_up_for_once() {
    let looks = [
        "2025-01-05T10:00Z",
        "2025-01-05T10:00:01Z",
        "2025-01-05T10:59:59Z",
        "2025-01-05T11:00Z",
    ];
    assert_eq!(
        runs("@hourly", "2025-01-01T00:00Z", &looks),
        [looks[0], looks[3]]
    );
    // It keeps its step.
    let looks = [
        "2025-01-01T01:07Z",
        "2025-01-01T01:14:59Z",
        "2025-01-01T01:15Z",
    ];
    assert_eq!(
        runs("@every 15m", "2025-01-01T00:00Z", &looks),
        [looks[0], looks[2]]
    );
}

#[test]
fn a_clock_that_goes_back_a_little_makes_none_twice() {
    let looks = [
        "2025-01-01T12:00Z",
        "2025-01-01T11:00Z",
        "2025-01-01T11:30Z",
        "2025-01-01T12:00Z",
        "2025-01-01T12:59Z",
        "2025-01-01T13:00Z",
    ];
    assert_eq!(
        runs("@hourly", "2025-01-01T11:00Z", &looks),
        [looks[0], looks[5]]
    );
}

#[test]
fn a_clock_that_was_wrong_holds_up_nothing_when_it_is_right() {
    // Ten years ahead for a while.
    let looks = [
        "2035-01-01T12:00Z",
        "2025-01-01T12:30Z",
        "2025-01-01T12:59Z",
        "2025-01-01T13:00Z",
        "2025-01-01T13:01Z",
    ];
    assert_eq!(
        runs("@hourly", "2025-01-01T12:00Z", &looks),
        [looks[0], looks[3]]
    );
    // Periods are no times of the wall clock: they begin again at once.
    let looks = [
        "2025-01-01T12:00Z",
        "2025-01-01T11:50Z",
        "2025-01-01T12:04Z",
        "2025-01-01T12:05Z",
    ];
    assert_eq!(
        runs("@every 15m", "2025-01-01T11:45Z", &looks),
        [looks[0], looks[3]]
    );
}

#[test]
fn what_is_no_schedule_is_refused_in_one_line() {
    let long = "0,".repeat(100) + "0 0 * * *";
    for wrong in [
        "",
        " ",
        "daily",
        "@dayly",
        "@Daily",
        "@every",
        "@every 15",
        "@every 0s",
        "@every m",
        "@every +5m",
        "@every 1.5h",
        "@every 3661d",
        "@every 99999999999999999999d",
        "@every 5m 6m",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 32 * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "a b c d e",
        "0 0 * * \n",
        "0 0\t* * *",
        "½ * * * *",
        "@daily @daily @daily @daily @daily",
        "* * * * @daily",
        &long,
    ] {
        let error = wrong.parse::<Schedule>().unwrap_err();
        assert!(
            !error.contains('\n') && error.contains("@hourly"),
            "{wrong}: {error}"
        );
        assert!(error.len() < 400, "{error}");
    }
    for good in [
        "0 0 * * *",
        "*/15 8-18 * * MON-FRI",
        "0 0 1,15 * *",
        "0 0 * * 7",
        "@every 1s",
        "@every 3660d",
        "@yearly",
    ] {
        assert_eq!(schedule(good).to_string(), good);
    }
}

#[test]
fn periods_have_a_unit() {
    let seconds = |text| parse_period(text).map(|period| period.as_secs());
    assert_eq!(seconds("90s"), Some(90));
    assert_eq!(seconds("15m"), Some(900));
    assert_eq!(seconds("2h"), Some(7200));
    assert_eq!(seconds("7d"), Some(604_800));
    for wrong in [
        "",
        "0s",
        "7",
        "d",
        "-1d",
        "+1d",
        "1ü",
        "1 h",
        "18446744073709551615d",
    ] {
        assert_eq!(parse_period(wrong), None, "{wrong}");
    }
}

#[test]
fn no_moment_is_too_far() {
    for at in [0, u64::MAX / 2, u64::MAX] {
        assert!(
            schedule("@hourly")
                .next(at, &berlin())
                .is_none_or(|next| next > 0)
        );
        for now in [0, u64::MAX] {
            let _ = schedule("@hourly").turn(at, now, &berlin());
            let _ = schedule("@every 3660d").turn(at, now, &berlin());
        }
    }
}
