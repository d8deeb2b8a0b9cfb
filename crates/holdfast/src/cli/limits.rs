//! Limits of a volume, as they are written and shown.

use super::failure::Failure;
use api_types::{Limit, Limits};
use types::{
    LimitKind,
    size::{format_size, parse_size},
};

/// Sets what `key` names; `false` if that is no limit.
pub(crate) fn set(limits: &mut Limits, key: &str, value: &str) -> Result<bool, Failure> {
    for kind in LimitKind::ALL {
        let Some(part) = key.strip_prefix(kind.name()) else {
            continue;
        };
        let limit = limits.of(kind);
        let mut new = limit.unwrap_or_default();
        match part {
            "" => new.rate = Some(rate(kind, key, value)?),
            "-burst" => new.burst = Some(rate(kind, key, value)?),
            "-burst-seconds" => {
                let wrong =
                    |_| Failure::usage(format!("'{key}={value}': write a number of seconds"));
                new.burst_seconds = Some(value.parse().map_err(wrong)?);
            }
            _ => continue,
        }
        *limit = Some(new);
        return Ok(true);
    }
    Ok(false)
}

fn rate(kind: LimitKind, key: &str, value: &str) -> Result<u64, Failure> {
    if value == "none" {
        return Ok(0);
    }
    if kind.counts_bytes() {
        return parse_size(value).map_err(Failure::usage);
    }
    let message = format!("'{key}={value}': write a number of requests a second, or none");
    value.parse().map_err(|_| Failure::usage(message))
}

/// One line.
pub(crate) fn describe(limits: Limits) -> String {
    let limits: Vec<String> = limits.list().into_iter().map(describe_one).collect();
    if limits.is_empty() {
        return "none".to_owned();
    }
    limits.join(", ")
}

fn describe_one((kind, limit): (LimitKind, Limit)) -> String {
    let show = |rate: u64| match kind.counts_bytes() {
        true => format!("{}/s", format_size(rate)),
        false => rate.to_string(),
    };
    let rate = show(limit.rate.unwrap_or(0));
    let burst = limit.burst.map_or_else(String::new, |burst| {
        format!(
            " ({} for {} s)",
            show(burst),
            limit.burst_seconds.unwrap_or(1)
        )
    });
    format!("{} {rate}{burst}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Limits, Failure> {
        let mut limits = Limits::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap();
            assert!(set(&mut limits, key, value)?, "{word}");
        }
        Ok(limits)
    }

    #[test]
    fn limits_as_people_write_them() {
        let limits = parse(&[
            "iops=5000",
            "iops-burst=20000",
            "iops-burst-seconds=60",
            "write-bps=100M",
        ]);
        let text = "iops 5000 (20000 for 60 s), write-bps 100 MiB/s";
        assert_eq!(describe(limits.unwrap()), text);
        assert_eq!(describe(Limits::default()), "none");
        let lifted = parse(&["read-iops=none", "bps-burst=none"]).unwrap();
        assert_eq!(lifted.read_iops.and_then(|limit| limit.rate), Some(0));
        assert_eq!(lifted.bps.and_then(|limit| limit.burst), Some(0));
        for wrong in ["iops=fast", "iops=", "bps=1X", "bps-burst-seconds=-1"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
        let mut limits = Limits::default();
        assert!(!set(&mut limits, "iops-size", "5").unwrap());
    }
}
