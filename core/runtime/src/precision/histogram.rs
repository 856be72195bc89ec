//! The distribution of a value's elements, in bounded memory.

use deepseek_graph::passes::precision::Range;

/// Intervals; even.
const BINS: usize = 2048;
/// Parts that the search for the best range tries to cut off each side, in hundredths.
const CUTS: std::ops::Range<u32> = 0..80;

/// How a range is chosen from what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMethod {
    /// The least and the greatest element.
    MinMax,
    /// What holds this part of the elements, e.g. 0.9999, cut evenly from both sides.
    Percentile(f64),
    /// What loses least to rounding and cutting together, as a mean square.
    Mse,
}

/// Counts over equal intervals that cover `-width..width`, where the width is a power of two that grows
/// with what comes: neighbouring intervals are merged. Zeros are counted apart, since any quantisation
/// has them exactly.
#[derive(Clone)]
pub(super) struct Histogram {
    width: f64,
    bins: Vec<u64>,
    min: f32,
    max: f32,
    count: u64,
}

impl Histogram {
    pub fn new() -> Self {
        let (min, max) = (f32::INFINITY, f32::NEG_INFINITY);
        Histogram { width: 0.0, bins: vec![0; BINS], min, max, count: 0 }
    }

    /// Counts elements; those that are not finite are left out, and their number is returned.
    pub fn add(&mut self, x: &[f32]) -> u64 {
        let (mut most, mut odd) = (0f32, 0);
        for &v in x {
            if v.is_finite() {
                self.min = self.min.min(v);
                self.max = self.max.max(v);
                most = most.max(v.abs());
            } else {
                odd += 1;
            }
        }
        self.count += x.len() as u64 - odd;
        if most == 0.0 {
            return odd;
        }
        let need = f64::from(most);
        if self.width == 0.0 {
            self.width = need.log2().floor().exp2() * 2.0;
        }
        while need >= self.width {
            let half = BINS / 2;
            let mut merged = vec![0; BINS];
            self.bins.iter().enumerate().for_each(|(i, n)| merged[half / 2 + i / 2] += n);
            self.bins = merged;
            self.width *= 2.0;
        }
        let (scale, half) = (BINS as f64 / 2.0 / self.width, BINS as f64 / 2.0);
        for &v in x.iter().filter(|v| v.is_finite() && **v != 0.0) {
            let at = (f64::from(v) * scale + half).floor() as usize;
            self.bins[at.min(BINS - 1)] += 1;
        }
        odd
    }

    /// The range that `method` chooses; 0 if nothing was counted.
    pub fn range(&self, method: RangeMethod) -> Range {
        if self.count == 0 {
            return Range { min: 0.0, max: 0.0 };
        }
        let all = Range { min: self.min, max: self.max };
        match method {
            RangeMethod::MinMax => all,
            RangeMethod::Percentile(part) => self.percentile(part, all),
            RangeMethod::Mse => self.best(all),
        }
    }

    /// The middle of interval `i`.
    fn middle(&self, i: usize) -> f64 {
        ((i as f64 + 0.5) * 2.0 / BINS as f64 - 1.0) * self.width
    }

    fn percentile(&self, part: f64, all: Range) -> Range {
        let seen: u64 = self.bins.iter().sum();
        let cut = (((1.0 - part).max(0.0) * self.count as f64 / 2.0) as u64).min(seen / 2);
        let step = 2.0 * self.width / BINS as f64;
        let edge = |from_end: bool| {
            let mut left = cut;
            let at = |k: usize| if from_end { BINS - 1 - k } else { k };
            let k = (0..BINS).find(|&k| {
                let n = self.bins[at(k)];
                let stop = n > left;
                left -= n.min(left);
                stop
            });
            self.middle(at(k.unwrap_or(0)))
        };
        let low = (edge(false) - step / 2.0) as f32;
        let high = (edge(true) + step / 2.0) as f32;
        Range { min: low.max(all.min), max: high.min(all.max) }
    }

    fn best(&self, all: Range) -> Range {
        let candidate = |cut: u32| {
            let keep = 1.0 - cut as f32 / 100.0;
            // A side that is near zero is kept: cutting it would save nothing.
            Range { min: all.min.min(0.0) * keep, max: all.max.max(0.0) * keep }
        };
        let error = |range: Range| {
            let (min, max) = (f64::from(range.min), f64::from(range.max));
            let step = (max - min) / 255.0;
            let inside = step * step / 12.0;
            let bins = self.bins.iter().enumerate().filter(|(_, n)| **n > 0);
            bins.map(|(i, n)| {
                let x = self.middle(i);
                let over = (x - max).max(min - x).max(0.0);
                *n as f64 * if over > 0.0 { over * over } else { inside }
            })
            .sum::<f64>()
        };
        let ranges = CUTS.map(candidate).map(|r| (r, error(r)));
        let best = ranges.reduce(|a, b| if b.1 < a.1 { b } else { a });
        best.map_or(all, |(r, _)| r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(x: &[f32]) -> Histogram {
        let mut h = Histogram::new();
        x.chunks(7).for_each(|x| assert_eq!(h.add(x), 0));
        h
    }

    #[test]
    fn ranges_cover_what_was_seen_whatever_the_order() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 - 200.0) / 100.0).collect();
        let range = of(&x).range(RangeMethod::MinMax);
        assert_eq!((range.min, range.max), (-2.0, 7.99));
        let back: Vec<f32> = x.iter().rev().copied().collect();
        for method in [RangeMethod::Mse, RangeMethod::Percentile(0.99)] {
            assert_eq!(of(&x).range(method), of(&back).range(method), "{method:?}");
        }
        let range = of(&x).range(RangeMethod::Percentile(0.9));
        assert!((range.min + 1.5).abs() < 0.05 && (range.max - 7.5).abs() < 0.05, "{range:?}");
    }

    #[test]
    fn an_outlier_is_cut_off_where_that_costs_less_than_coarse_steps() {
        let mut x: Vec<f32> = (0..100_000).map(|i| (i % 1000) as f32 / 1000.0).collect();
        let all = of(&x).range(RangeMethod::Mse);
        assert!(all.max > 0.97, "{all:?}");
        x.push(2.5);
        let cut = of(&x).range(RangeMethod::Mse);
        assert!(cut.max > 0.9 && cut.max < 2.4, "{cut:?}");
    }

    #[test]
    fn nothing_and_numbers_that_are_none() {
        let mut h = Histogram::new();
        assert_eq!(h.add(&[f32::NAN, f32::INFINITY, 0.0]), 2);
        for method in [RangeMethod::Mse, RangeMethod::MinMax, RangeMethod::Percentile(0.5)] {
            assert_eq!(h.range(method), Range { min: 0.0, max: 0.0 });
            assert_eq!(Histogram::new().range(method), Range { min: 0.0, max: 0.0 });
        }
    }
}
