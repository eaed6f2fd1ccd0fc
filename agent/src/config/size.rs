//! Sizes as people write them. Pure.

/// Bytes of `"200GiB"`, `"1.5 TB"`, `"4096"`. Units with `i` are powers of 1024, without powers of
/// 1000; case does not matter. `None` for what is no size or does not fit in a `u64`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number = number.replace('_', "");
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u64.pow(2),
        "g" | "gb" => 1000_u64.pow(3),
        "t" | "tb" => 1000_u64.pow(4),
        "p" | "pb" => 1000_u64.pow(5),
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        "pi" | "pib" => 1 << 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let bytes = number.parse::<f64>().ok()? * scale as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_mean_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("1_000", Some(1000)),
            ("200GiB", Some(200 << 30)),
            ("200 gib", Some(200 << 30)),
            ("1.5 KiB", Some(1536)),
            ("2TB", Some(2_000_000_000_000)),
            ("10Gi", Some(10 << 30)),
            ("16PiB", Some(16 << 50)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999PiB", None),
            ("-1", None),
            ("", None),
            ("GiB", None),
            ("1.2.3GiB", None),
            ("12 parsecs", None),
            ("nan", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }
}
