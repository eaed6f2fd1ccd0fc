//! Bytes as people read them. Pure.

/// `0 B`, `1023 B`, `1.5 KiB`, `512.0 MiB`; at most ten columns.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0, so the next unit starts a little earlier.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1023 bytes`, `1.5 KiB (1536 bytes)`: for messages, where the exact number may matter.
pub fn exactly(count: u64) -> String {
    match count {
        1 => "1 byte".to_owned(),
        0..1024 => format!("{count} bytes"),
        _ => format!("{} ({count} bytes)", bytes(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_the_unit_and_the_number() {
        assert_eq!(exactly(0), "0 bytes");
        assert_eq!(exactly(1), "1 byte");
        assert_eq!(exactly(1023), "1023 bytes");
        assert_eq!(exactly(1536), "1.5 KiB (1536 bytes)");
    }
}
