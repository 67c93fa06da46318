//! Ours against another, from the rounds of both: the median of the per-round ratios, and how sure it is.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Resamplings for the interval. More move its ends by less than a thousandth.
const RESAMPLINGS: usize = 4_000;

/// A ratio with its 95 % bootstrap interval. Above 1 ours is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) ratio: f64,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

/// The ratio of what is better when larger (rates, hit rates), paired by round.
pub(crate) fn larger_is_better(ours: &[f64], theirs: &[f64]) -> Ratio {
    of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

/// The ratio of what is better when smaller (times), paired by round.
pub(crate) fn smaller_is_better(ours: &[f64], theirs: &[f64]) -> Ratio {
    larger_is_better(theirs, ours)
}

fn of(mut ratios: Vec<f64>) -> Ratio {
    // The same rounds always give the same interval.
    let mut random = StdRng::seed_from_u64(95);
    let mut medians: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let mut drawn: Vec<f64> =
                (0..ratios.len()).map(|_| ratios[random.random_range(0..ratios.len())]).collect();
            median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((RESAMPLINGS - 1) as f64 * share).round() as usize];
    Ratio { ratio: median(&mut ratios), lo: at(0.025), hi: at(0.975) }
}

/// The middle value; the mean of the two middle ones of an even number.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::{larger_is_better, median, smaller_is_better};

    #[test]
    fn the_interval_holds_the_median_and_narrows_to_equal_rounds() {
        let ours = [10.0, 12.0, 11.0, 30.0, 9.0, 10.5, 11.5, 10.0, 12.5, 11.0, 10.0];
        let theirs = [5.0; 11];
        let ratio = larger_is_better(&ours, &theirs);
        assert!(ratio.lo <= ratio.ratio && ratio.ratio <= ratio.hi);
        assert_eq!(ratio.ratio, 2.2);
        assert!(ratio.hi < 3.0, "one wild round does not move the interval: {ratio:?}");
        let same = larger_is_better(&theirs, &theirs);
        assert_eq!((same.lo, same.ratio, same.hi), (1.0, 1.0, 1.0));
    }

    #[test]
    fn half_the_time_is_twice_as_good() {
        assert_eq!(smaller_is_better(&[1.0, 1.0, 1.0], &[2.0, 2.0, 2.0]).ratio, 2.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0, 4.0]), 2.5);
    }
}
