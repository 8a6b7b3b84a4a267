//! The ratio of two things that were measured in pairs.
//!
//! Hodges and Lehmann's estimate, the median of the means of every two pairs, with the interval that comes of Wilcoxon's
//! signed-rank test (Hollander, Wolfe, Chicken: Nonparametric Statistical Methods, section 3.2 and 3.3), on logarithms of ratios. It
//! asks of the pairs only that their ratios lie evenly around the true one. Alternation makes them so, as a machine that grows slower
//! favours whichever goes first; and from twelve pairs on, one pass that was disturbed moves neither much, unlike a mean or Student's
//! interval.

/// A ratio, and where it lies with so much confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub ratio: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// How often an interval may miss the true ratio.
const MISSES: f64 = 0.05;

/// The ratio of the first of each pair to the second, with an interval of at least 95 % confidence. Values have to be above zero;
/// `None` for fewer than six pairs, which have no such interval.
pub fn ratio_of_pairs(pairs: &[(f64, f64)]) -> Option<Interval> {
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
    if logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    let left_out = left_out(logs.len())?;
    let mut means: Vec<f64> = (0..logs.len())
        .flat_map(|i| (0..=i).map(move |j| (i, j)))
        .map(|(i, j)| (logs[i] + logs[j]) / 2.0)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let last = means.len() - 1;
    Some(Interval {
        ratio: ((means[last / 2] + means[last.div_ceil(2)]) / 2.0).exp(),
        low: means[left_out].exp(),
        high: means[last - left_out].exp(),
    })
}

/// How many of the means of two pairs lie outside the interval on each side, of so many pairs.
fn left_out(pairs: usize) -> Option<usize> {
    // The chance of each sum of ranks, where each rank is of one sign or of the other.
    let most = pairs * (pairs + 1) / 2;
    let mut chances = vec![0.0; most + 1];
    chances[0] = 1.0;
    for rank in 1..=pairs {
        for sum in (0..=most).rev() {
            let with = if sum >= rank {
                chances[sum - rank]
            } else {
                0.0
            };
            chances[sum] = (chances[sum] + with) / 2.0;
        }
    }
    // The interval from the mean with k below it to that with k above it misses as often as the sum is at most k.
    let mut below = 0.0;
    let sums = chances.iter().take_while(|&&chance| {
        below += chance;
        below <= MISSES / 2.0
    });
    sums.count().checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_leaves_out_what_tables_say() {
        // Critical values of the signed-rank sum at 0.025 on one side: Hollander, Wolfe, Chicken, table A.4.
        for (pairs, critical) in [
            (5, None),
            (6, Some(0)),
            (7, Some(2)),
            (8, Some(3)),
            (9, Some(5)),
            (10, Some(8)),
            (20, Some(52)),
        ] {
            assert_eq!(left_out(pairs), critical, "{pairs}");
        }
    }

    #[test]
    fn a_ratio_is_above_one_where_the_first_is_larger() {
        let pairs: Vec<(f64, f64)> = [1.08, 1.10, 1.12, 1.09, 1.11, 1.10]
            .iter()
            .map(|ratio| (100.0 * ratio, 100.0))
            .collect();
        let interval = ratio_of_pairs(&pairs).unwrap();
        assert!((interval.ratio - 1.10).abs() < 1e-3, "{interval:?}");
        assert!((interval.low - 1.08).abs() < 1e-9 && (interval.high - 1.12).abs() < 1e-9);
        let swapped: Vec<(f64, f64)> = pairs.iter().map(|&(a, b)| (b, a)).collect();
        let swapped = ratio_of_pairs(&swapped).unwrap();
        assert!((swapped.ratio * interval.ratio - 1.0).abs() < 1e-12);
        assert!((swapped.low * interval.high - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_disturbed_pass_moves_it_little() {
        // Of twelve pairs thirteen means are left out on each side, and twelve are of any one pair.
        let rates = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2];
        let mut pairs: Vec<(f64, f64)> = rates.map(|rate| (rate, 100.0)).into();
        pairs.extend(pairs.clone());
        let calm = ratio_of_pairs(&pairs).unwrap();
        pairs[3] = (20.0, 100.0);
        let disturbed = ratio_of_pairs(&pairs).unwrap();
        assert!(
            (disturbed.ratio - calm.ratio).abs() < 0.005,
            "{disturbed:?}"
        );
        assert!(disturbed.low > 0.95, "{disturbed:?}");
    }

    #[test]
    fn what_is_no_ratio_has_none() {
        assert_eq!(ratio_of_pairs(&[(1.0, 1.0); 5]), None);
        assert_eq!(ratio_of_pairs(&[(1.0, 0.0); 10]), None);
        assert_eq!(ratio_of_pairs(&[]), None);
        let same = ratio_of_pairs(&[(2.0, 2.0); 6]).unwrap();
        assert_eq!((same.low, same.ratio, same.high), (1.0, 1.0, 1.0));
    }
}
