//! What bytes cost: prices as the operator configures them, and money for bytes.
//!
//! Only what others send here is priced: what origins sent but for files of this machine, and what came from nodes of
//! other zones. An origin on loopback is priced, too: what listens there is most often a tunnel or a proxy to one that
//! costs. The sum over all nodes is what the cluster paid for.

use serde::{Deserialize, Serialize};

use crate::{
    api::{Cost, Money},
    error::{Error, ErrorKind, Result},
};

const GIB: f64 = (1u64 << 30) as f64;

/// Prices; 0: free, or not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Of a GiB read from an origin.
    pub origin_per_gib: f64,
    /// Of a GiB that comes from a node of another zone.
    pub cross_zone_per_gib: f64,
    /// What the prices are in.
    pub currency: String,
}

impl Default for Prices {
    fn default() -> Self {
        Self { origin_per_gib: 0.0, cross_zone_per_gib: 0.0, currency: "USD".to_owned() }
    }
}

impl Prices {
    pub(crate) fn validate(&self) -> Result<()> {
        for (key, price) in
            [("origin_per_gib", self.origin_per_gib), ("cross_zone_per_gib", self.cross_zone_per_gib)]
        {
            if !(price.is_finite() && price >= 0.0) {
                let text = format!("prices.{key} is {price}: a price is a number that is not below zero");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
        let is_word = (1..=8).contains(&self.currency.len())
            && self.currency.chars().all(|c| c.is_alphanumeric() || "€$£¥".contains(c));
        if !is_word {
            let text =
                format!("prices.currency {:?} is no currency; write for example \"USD\"", self.currency);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(())
    }

    /// What so many bytes cost.
    pub(crate) fn cost(&self, origin_bytes: u64, cross_zone_bytes: u64) -> Cost {
        let has_prices = self.origin_per_gib > 0.0 || self.cross_zone_per_gib > 0.0;
        let money = has_prices.then(|| {
            let origin = origin_bytes as f64 / GIB * self.origin_per_gib;
            let cross_zone = cross_zone_bytes as f64 / GIB * self.cross_zone_per_gib;
            Money { origin, cross_zone, total: origin + cross_zone, currency: self.currency.clone() }
        });
        Cost { origin_bytes, cross_zone_bytes, money }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gib_costs_its_price_and_without_prices_there_is_no_money() {
        let prices = Prices { origin_per_gib: 0.09, cross_zone_per_gib: 0.01, currency: "EUR".to_owned() };
        let money = prices.cost(10 << 30, 1 << 29).money.unwrap();
        assert!((money.origin - 0.9).abs() < 1e-9 && (money.cross_zone - 0.005).abs() < 1e-9, "{money:?}");
        assert!((money.total - 0.905).abs() < 1e-9 && money.currency == "EUR", "{money:?}");
        assert_eq!(Prices::default().cost(5, 6), Cost { origin_bytes: 5, cross_zone_bytes: 6, money: None });
    }

    #[test]
    fn what_is_no_price_is_refused() {
        let wrong = [
            Prices { origin_per_gib: -0.1, ..Prices::default() },
            Prices { cross_zone_per_gib: f64::NAN, ..Prices::default() },
            Prices { currency: String::new(), ..Prices::default() },
            Prices { currency: "US dollars, please".to_owned(), ..Prices::default() },
        ];
        for prices in wrong {
            let error = prices.validate().unwrap_err();
            assert!(error.to_string().starts_with("prices."), "{error}");
        }
        Prices::default().validate().unwrap();
    }
}
