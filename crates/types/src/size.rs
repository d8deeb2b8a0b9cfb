//! Sizes as people write them: `512`, `4K`, `1.5G`, `2TiB`. Suffixes are powers of 1024, as in
//! qemu-img and rbd.

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Bytes from a text: a number, a fraction allowed, and a suffix `B K M G T P`, optionally followed
/// by `iB` or `B`.
///
/// # Errors
/// One line that says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let quoted = || crate::shorten(text);
    let wrong = || {
        format!(
            "'{}' is not a size: write a number with an optional K, M, G, T or P (powers of 1024)",
            quoted()
        )
    };
    let text_ = text.trim();
    let digits = text_
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text_.len());
    let (number, suffix) = text_.split_at(digits);
    let suffix = suffix.trim().to_ascii_lowercase();
    let letter = suffix
        .strip_suffix("ib")
        .or_else(|| suffix.strip_suffix('b'))
        .unwrap_or(&suffix);
    let shift = match letter {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        let scaled = u128::from(whole) << shift;
        return u64::try_from(scaled).map_err(|_| format!("'{}' is too large", quoted()));
    }
    let fraction: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = fraction * (1u64 << shift) as f64;
    if bytes < u64::MAX as f64 {
        Ok(bytes.round() as u64)
    } else {
        Err(format!("'{}' is too large", quoted()))
    }
}

/// Bytes for a person: three or four digits and a unit, `1.50 GiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS[unit];
    if unit == 0 {
        format!("{bytes} {name}")
    } else if value >= 100.0 {
        format!("{value:.0} {name}")
    } else if value >= 10.0 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.2} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4kB", 4096),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            (" 10 M ", 10 << 20),
            ("64T", 64 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "4X", "-1", "1e3", "1.2.3G", "99999999P", "4 K K"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_for_a_person() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(1 << 30), "1.00 GiB");
        assert_eq!(format_size(150 << 20), "150 MiB");
        assert_eq!(format_size(u64::MAX), "16384 PiB");
    }
}
