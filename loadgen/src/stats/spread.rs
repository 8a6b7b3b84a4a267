//! How far values of one series lie apart, and how well that tells their mean.

/// Blocks of values that scatter is taken from.
const BLOCKS: usize = 20;
/// Student's 97.5 % quantile of one degree of freedom fewer.
const QUANTILE: f64 = 2.093;

/// The mean of values that came one after the other, and how they scatter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of one value.
    pub deviation: f64,
    /// Half of the mean's interval of 95 % confidence, by means of twenty blocks: values that came one after the other are not
    /// independent, and blocks of them nearly are. None of fewer than two values a block.
    pub half_interval: Option<f64>,
}

impl Spread {
    /// Of these values; `None` where there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let (mean, deviation) = mean_and_deviation(values)?;
        let length = values.len() / BLOCKS;
        // What does not fill the last block is the beginning, of which a warm-up may be a part.
        let blocks = values.rchunks_exact(length.max(1)).take(BLOCKS);
        let means: Vec<f64> = blocks
            .map(|block| block.iter().sum::<f64>() / block.len() as f64)
            .collect();
        let of_blocks = mean_and_deviation(&means).filter(|_| length >= 2);
        Some(Self {
            mean,
            deviation,
            half_interval: of_blocks
                .map(|(_, deviation)| QUANTILE * deviation / (BLOCKS as f64).sqrt()),
        })
    }
}

fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (!values.is_empty()).then(|| (mean, (squares / (count - 1.0).max(1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_no_spread_and_none_nothing() {
        let one = Spread::of(&[3.0]).unwrap();
        assert_eq!(
            (one.mean, one.deviation, one.half_interval),
            (3.0, 0.0, None)
        );
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0; 39]).unwrap().half_interval, None);
        assert_eq!(Spread::of(&[1.0; 40]).unwrap().half_interval, Some(0.0));
    }

    #[test]
    fn values_that_cling_together_tell_the_mean_less() {
        // The same values in turns, and ten at a time.
        let turns: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let runs: Vec<f64> = (0..400).map(|i| f64::from(i / 20 % 2)).collect();
        let (turns, runs) = (Spread::of(&turns).unwrap(), Spread::of(&runs).unwrap());
        assert_eq!((turns.mean, turns.deviation), (runs.mean, runs.deviation));
        assert!((turns.deviation - 0.5).abs() < 1e-3);
        assert_eq!(turns.half_interval, Some(0.0));
        let expected = QUANTILE * (5.0_f64 / 19.0 / 20.0).sqrt();
        assert!((runs.half_interval.unwrap() - expected).abs() < 1e-9);
    }
}
