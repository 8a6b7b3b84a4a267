//! What machines cost, from the user's file. None are built in: they would be wrong before long.

use std::{fs, path::Path};

use glob::Pattern;
use serde::Deserialize;

use crate::error::{Error, Result};

/// A file of prices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    #[serde(default)]
    machine: Vec<Price>,
}

/// What a machine costs, everything in it included.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// What it is called where it is offered.
    pub(super) name: String,
    /// The names of machines in reports that this is the price of, with `*` and `?`.
    #[serde(deserialize_with = "pattern")]
    matches: Pattern,
    /// The price of an hour.
    pub(super) per_hour: f64,
    /// In which currency.
    pub(super) currency: String,
    /// Where the price is from.
    #[serde(default)]
    pub(super) source: Option<String>,
    /// The day it was read there.
    #[serde(default)]
    pub(super) date: Option<toml::value::Datetime>,
}

impl Prices {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is not what is described in `docs/benchmarks.md`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        Self::parse(&text).map_err(|reason| {
            Error::file(path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
        })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for price in &prices.machine {
            if !(price.per_hour.is_finite() && price.per_hour > 0.0) {
                return Err(format!(
                    "{}: expected a price above 0 as per_hour, got {}",
                    price.name, price.per_hour
                ));
            }
        }
        Ok(prices)
    }

    /// The price of a machine, by the first entry that matches its name.
    pub(super) fn of(&self, machine: &str) -> Option<&Price> {
        self.machine
            .iter()
            .find(|price| price.matches.matches(machine))
    }
}

impl Price {
    /// What a million items cost at so many a second.
    pub(super) fn of_a_million(&self, items_per_s: f64) -> f64 {
        self.per_hour / 3600.0 / items_per_s * 1e6
    }
}

fn pattern<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Pattern, D::Error> {
    let text = String::deserialize(from)?;
    Pattern::new(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[machine]]
        name = "n1-standard-4 with a T4"
        matches = "intel-*-4core-t4"
        per_hour = 0.72
        currency = "USD"
        source = "https://example.com/prices"
        date = 2026-11-01

        [[machine]]
        name = "any other"
        matches = "*"
        per_hour = 0.036
        currency = "EUR"
    "#;

    #[test]
    fn the_first_entry_that_matches_is_a_machines_price() {
        let prices = Prices::parse(FILE).unwrap();
        let price = prices.of("intel-xeon-4core-t4").unwrap();
        assert_eq!(
            (price.name.as_str(), price.currency.as_str()),
            ("n1-standard-4 with a T4", "USD")
        );
        // 200 a second are 720,000 an hour, which costs 0.72.
        assert!((price.of_a_million(200.0) - 1.0).abs() < 1e-12);
        assert_eq!(prices.of("amd-epyc-2core").unwrap().name, "any other");
        assert_eq!(Prices::default().of("amd-epyc-2core"), None);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for (good, bad, expected) in [
            ("0.036", "-1.0", "any other: expected a price above 0"),
            ("0.036", "nan", "any other: expected a price above 0"),
            ("0.036", "\"cheap\"", "invalid type"),
            ("\"*\"", "\"[\"", "attern"),
            ("currency = \"EUR\"", "", "missing field `currency`"),
            (
                "per_hour = 0.72",
                "per_day = 17.28",
                "unknown field `per_day`",
            ),
            ("[[machine]]", "[[machines]]", "unknown field `machines`"),
        ] {
            let error = Prices::parse(&FILE.replace(good, bad)).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
