//! `--slo`: `TIME`, or `RECIPE=TIME`.

use std::{str::FromStr, time::Duration};

/// Within what time requests are to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    /// Of which recipe; none means all that have no objective of their own.
    pub recipe: Option<String>,
    /// Above 0.
    pub within: Duration,
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (recipe, time) = match text.split_once('=') {
            Some((recipe, time)) => (Some(recipe.trim().to_owned()), time),
            None => (None, text),
        };
        match humantime::parse_duration(time.trim()) {
            Ok(within) if !within.is_zero() => Ok(Self { recipe, within }),
            _ => Err("expected a time above 0 (50ms), or RECIPE=TIME".into()),
        }
    }
}
