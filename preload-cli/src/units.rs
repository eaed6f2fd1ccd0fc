//! Sizes, rates and durations between people and numbers.
//!
//! Pure. Powers of 1024 are written KiB, MiB, GiB; powers of 1000 are read as KB, MB, GB. Every
//! rendering is at most ten columns wide, so that tables stay tidy.

use std::time::Duration;

pub use emberline_agent::quantity::bytes;

/// Reads a size as people write it: `512MiB`, `1.5 GiB`, `2GB`, `4096`.
///
/// # Errors
/// A sentence for clap, naming what is wrong.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit in {text:?}; write for example 512MiB or 2GB")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a size; write for example 512MiB or 2GB"))?;
    let bytes = number * unit_bytes as f64;
    if !bytes.is_finite() || bytes > (1u64 << 60) as f64 {
        return Err(format!("{text:?} is more than any disk holds"));
    }
    Ok(bytes.round() as u64)
}

/// Reads a duration as people write it: `90s`, `5m`, `1h30m`; a bare number is seconds.
///
/// # Errors
/// A sentence for clap, naming what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let duration = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => humantime::parse_duration(text).ok(),
    };
    match duration {
        Some(d) if d.is_zero() => Err("a time-out of zero can never be kept".to_owned()),
        Some(d) => Ok(d),
        None => Err(format!("{text:?} is not a duration; write for example 90s, 5m or 1h30m")),
    }
}

/// `98.2 MiB/s`; empty when nothing moves.
pub fn rate(bytes_per_second: f64) -> String {
    if bytes_per_second.is_finite() && bytes_per_second >= 1.0 {
        format!("{}/s", bytes(bytes_per_second as u64))
    } else {
        String::new()
    }
}

/// `12 ms`, `1.42 s`, `42 s`, `3m 20s`, `2h 05m`, `3d 04h`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.5 => format!("{s:.0} s"),
        _ if whole < 3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ if whole < 86_400 => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// `in 3m 20s`, or `past`.
pub fn until(left: Duration) -> String {
    if left.is_zero() { "past".to_owned() } else { format!("in {}", seconds(left.as_secs_f64())) }
}

/// `0.05 USD`, `0.0004 USD`: two digits at least of what is not nothing.
pub fn money(amount: f64, currency: &str) -> String {
    let digits =
        if amount > 0.0 && amount < 0.1 { (1.0 - amount.log10().floor()).min(8.0) as usize } else { 2 };
    format!("{amount:.digits$} {currency}")
}

/// `37 %`, never `100 %` before the last byte.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part >= whole {
        return "100 %".to_owned();
    }
    format!("{} %", (part as u128 * 100 / whole as u128).min(99))
}

/// `1 file`, `3 files`.
pub fn count(number: u64, singular: &str) -> String {
    if number == 1 { format!("1 {singular}") } else { format!("{number} {singular}s") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2GB", 2_000_000_000),
            ("1k", 1024),
        ];
        for (text, expected) in table {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "-1", "1.2.3", "5 parsecs", "1e400", "99999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "0", "-3", "soon", "1e300", "nan"] {
            assert!(parse_duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_change_their_unit_where_the_digits_would_overflow() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (512 << 20, "512.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, expected) in table {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn durations_keep_the_digits_that_matter() {
        let table = [
            (0.0, "0 ms"),
            (0.012, "12 ms"),
            (0.9999, "1.00 s"),
            (1.416, "1.42 s"),
            (42.3, "42 s"),
            (59.7, "1m 00s"),
            (200.0, "3m 20s"),
            (7_500.0, "2h 05m"),
            (273_600.0, "3d 04h"),
            (f64::NAN, "?"),
        ];
        for (value, expected) in table {
            assert_eq!(seconds(value), expected);
        }
    }

    #[test]
    fn small_sums_of_money_are_not_nothing() {
        for (amount, expected) in
            [(0.0, "0.00"), (12.345, "12.35"), (0.1, "0.10"), (0.09, "0.090"), (0.00043, "0.00043")]
        {
            assert_eq!(money(amount, "USD"), format!("{expected} USD"));
        }
        assert!(!money(f64::MIN_POSITIVE, "USD").is_empty());
    }

    #[test]
    fn nothing_is_complete_before_its_last_byte() {
        assert_eq!(percent(999_999, 1_000_000), "99 %");
        assert_eq!(percent(1_000_000, 1_000_000), "100 %");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99 %");
    }

    proptest! {
        #[test]
        fn every_size_fits_ten_columns(count: u64) {
            prop_assert!(bytes(count).len() <= 10, "{}", bytes(count));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,24}") {
            let _ = (parse_bytes(&text), parse_duration(&text));
        }
    }
}
