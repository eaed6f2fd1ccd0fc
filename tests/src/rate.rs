//! Rates of links as people type them.

/// Reads a rate as tc(8) writes it, in bits a second.
///
/// # Errors
/// A sentence for what is none.
pub fn parse(text: &str) -> std::result::Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let scale = match unit.trim() {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(format!("{text:?} is not a rate; write for example 400mbit or 1gbit")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a rate; write for example 400mbit or 1gbit"))?;
    let rate = number * scale;
    // Below, one packet takes seconds; above, no veth pair follows.
    if !(10_000.0..=1e12).contains(&rate) {
        return Err(format!("{text:?} is out of range; between 10kbit and 1000gbit"));
    }
    Ok(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        assert_eq!(parse("400mbit"), Ok(400_000_000));
        assert_eq!(parse("1.5Gbit"), Ok(1_500_000_000));
        for wrong in ["", "400", "mbit", "1e9mbit", "400mib", "-1mbit", "1bit"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
