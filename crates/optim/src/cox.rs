//! The partial likelihood of Cox's proportional hazards model.

/// Times with right censoring, sorted and grouped.
///
/// ```text
/// loss(m) = sum_i v_i δ_i ( log sum_{l: t_l >= t_i} v_l exp(m_l)  -  m_i ) / sum_i v_i
/// ```
///
/// for predictors `m`, events `δ` (1: the event happened at `t`, 0: the row left observation then) and
/// weights `v` of the rows. Cox, "Regression models and life tables", JRSS B 1972, with the ties of Breslow
/// (Biometrics 1974): rows of equal time share their risk set, so that weight 2 is the same as a row
/// twice. A constant added to `m` changes nothing: there is no intercept.
///
/// All sums are kept as logarithms, so that predictors of any size neither overflow nor vanish. Cost of an
/// evaluation: `O(n)`, after one sort.
#[derive(Clone, Debug)]
pub struct Cox {
    /// Rows by falling time.
    order: Vec<u32>,
    /// Where every group of equal times ends in `order`.
    ends: Vec<usize>,
    event: Vec<bool>,
    weights: Vec<f64>,
}

/// `log(exp(a) + exp(b))`.
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

impl Cox {
    /// The likelihood of `time` and `event` (`n` each), with a weight `>= 0` per row or ones.
    ///
    /// # Panics
    /// When lengths differ.
    pub fn new(time: &[f64], event: &[bool], weights: Option<&[f64]>) -> Self {
        let n = time.len();
        assert_eq!(event.len(), n, "one event flag per time");
        assert!(weights.is_none_or(|w| w.len() == n), "one weight per time");
        let weights = weights.map_or_else(|| vec![1.0; n], <[f64]>::to_vec);
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| time[*b as usize].total_cmp(&time[*a as usize]));
        let last = |k: usize| k + 1 == n || time[order[k] as usize] != time[order[k + 1] as usize];
        let ends = (0..n).filter(|&k| last(k)).map(|k| k + 1).collect();
        Self { order, ends, event: event.to_vec(), weights }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.order.len()
    }

    /// The weight of every row.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Rows of equal time, latest first.
    fn groups(&self) -> impl DoubleEndedIterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let pairs: Vec<(usize, usize)> = starts.zip(self.ends.iter().copied()).collect();
        pairs.into_iter().map(|(start, end)| &self.order[start..end])
    }

    /// Weight of the events of a group.
    fn events(&self, group: &[u32]) -> f64 {
        let happened = group.iter().map(|&i| i as usize).filter(|&i| self.event[i]);
        happened.map(|i| self.weights[i]).sum()
    }

    /// `log sum_{l at risk} v_l exp(m_l)` of every group.
    fn log_risks(&self, m: &[f64]) -> Vec<f64> {
        let mut risk = f64::NEG_INFINITY;
        let mut add = |group: &[u32]| {
            for &i in group {
                risk = log_add(risk, m[i as usize] + self.weights[i as usize].ln());
            }
            risk
        };
        self.groups().map(&mut add).collect()
    }

    /// The loss, times the sum of the weights.
    pub fn value(&self, m: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (group, risk) in self.groups().zip(self.log_risks(m)) {
            for &i in group {
                let i = i as usize;
                if self.event[i] && self.weights[i] > 0.0 {
                    sum += self.weights[i] * (risk - m[i]);
                }
            }
        }
        sum
    }

    /// First derivatives, and an upper bound of the second: `(g_i, h_i)` times the sum of the weights,
    /// where the matrix of second derivatives is at most `diag(h)`.
    ///
    /// `h_i = v_i exp(m_i) sum_{events k: t_k <= t_i} v_k / R_k` is what the diagonal is without its
    /// square term; all else in that matrix is negative semidefinite.
    pub fn derivatives(&self, m: &[f64]) -> Vec<(f64, f64)> {
        let mut out = vec![(0.0, 0.0); m.len()];
        let mut hazard = f64::NEG_INFINITY;
        let risks = self.log_risks(m);
        for (group, risk) in self.groups().rev().zip(risks.into_iter().rev()) {
            let events = self.events(group);
            if events > 0.0 {
                hazard = log_add(hazard, events.ln() - risk);
            }
            for &i in group {
                let i = i as usize;
                if self.weights[i] > 0.0 {
                    let expected = self.weights[i] * (m[i] + hazard).exp();
                    let happened = if self.event[i] { self.weights[i] } else { 0.0 };
                    out[i] = (expected - happened, expected);
                }
            }
        }
        out
    }
}

/// Harrell's index of concordance: among the pairs of rows of which it is known who had the event first,
/// the share in which that row has the greater `risk`; equal risks count half.
///
/// A pair is known when the earlier time is an event; at equal times, when one is an event and the other
/// is not. `None` without such a pair. 0.5 is chance, 1 is perfect order. Harrell et al., JAMA 1982.
/// Cost: `O(n log n)`.
///
/// # Panics
/// When lengths differ.
pub fn concordance(time: &[f64], event: &[bool], risk: &[f64]) -> Option<f64> {
    assert_eq!(time.len(), risk.len(), "one risk per time");
    let cox = Cox::new(time, event, None);
    let mut sorted = risk.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    let rank = |i: u32| sorted.partition_point(|r| *r < risk[i as usize]);
    // Counts of the later rows by rank, as a tree of partial sums.
    let mut tree = vec![0usize; sorted.len() + 1];
    let below = |tree: &[usize], mut k: usize| {
        let mut sum = 0;
        while k > 0 {
            sum += tree[k];
            k &= k - 1;
        }
        sum
    };
    let (mut later, mut pairs, mut right) = (0usize, 0.0, 0.0);
    for group in cox.groups() {
        let (events, censored): (Vec<u32>, Vec<u32>) =
            group.iter().copied().partition(|&i| event[i as usize]);
        for (members, asked) in [(censored, &events), (events.clone(), &Vec::new())] {
            for i in members {
                let mut k = rank(i) + 1;
                while k < tree.len() {
                    tree[k] += 1;
                    k += k & k.wrapping_neg();
                }
                later += 1;
            }
            for &i in asked {
                let less = below(&tree, rank(i));
                let equal = below(&tree, rank(i) + 1) - less;
                pairs += later as f64;
                right += less as f64 + 0.5 * equal as f64;
            }
        }
    }
    (pairs > 0.0).then(|| right / pairs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, row by row.
    fn plain(time: &[f64], event: &[bool], v: &[f64], m: &[f64]) -> f64 {
        let n = time.len();
        let risk = |i: usize| -> f64 {
            (0..n).filter(|&l| time[l] >= time[i]).map(|l| v[l] * m[l].exp()).sum::<f64>().ln()
        };
        (0..n).filter(|&i| event[i] && v[i] > 0.0).map(|i| v[i] * (risk(i) - m[i])).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_likelihood_is_its_definition(
            rows in proptest::collection::vec((1u8..6, any::<bool>(), 0u8..3, -2.0..2.0f64), 1..12),
            shift in -900.0..900.0f64, direction in proptest::collection::vec(-1.0..1.0f64, 12),
        ) {
            let time: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let event: Vec<bool> = rows.iter().map(|r| r.1).collect();
            let v: Vec<f64> = rows.iter().map(|r| f64::from(r.2)).collect();
            let m: Vec<f64> = rows.iter().map(|r| r.3).collect();
            let cox = Cox::new(&time, &event, Some(&v));
            let here = cox.value(&m);
            prop_assert!((here - plain(&time, &event, &v, &m)).abs() < 1e-9);
            // A common shift changes nothing, however large.
            let shifted: Vec<f64> = m.iter().map(|m| m + shift).collect();
            prop_assert!((cox.value(&shifted) - here).abs() < 1e-9);
            let derivatives = cox.derivatives(&m);
            prop_assert!(derivatives.iter().map(|d| d.0).sum::<f64>().abs() < 1e-9);
            let h = 1e-5;
            for i in 0..m.len() {
                let (mut up, mut down) = (m.clone(), m.clone());
                up[i] += h;
                down[i] -= h;
                let slope = (cox.value(&up) - cox.value(&down)) / (2.0 * h);
                prop_assert!((slope - derivatives[i].0).abs() < 1e-7);
            }
            // The quadratic with the curvatures lies above in every direction.
            let step = |t: f64| m.iter().zip(&direction).map(|(m, d)| m + t * d).collect::<Vec<f64>>();
            let second = (cox.value(&step(1e-4)) - 2.0 * here + cox.value(&step(-1e-4))) / 1e-8;
            let bound: f64 = derivatives.iter().zip(&direction).map(|(h, d)| h.1 * d * d).sum();
            prop_assert!(second <= bound + 1e-4, "{second} above {bound}");
        }

        #[test]
        fn the_index_counts_pairs(
            rows in proptest::collection::vec((1u8..6, any::<bool>(), 0u8..5), 1..14),
        ) {
            let time: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let event: Vec<bool> = rows.iter().map(|r| r.1).collect();
            let risk: Vec<f64> = rows.iter().map(|r| f64::from(r.2)).collect();
            let (mut pairs, mut right) = (0.0, 0.0);
            for i in 0..rows.len() {
                for j in 0..rows.len() {
                    let known = event[i] && (time[i] < time[j] || time[i] == time[j] && !event[j]);
                    if known {
                        pairs += 1.0;
                        right += if risk[i] > risk[j] { 1.0 } else if risk[i] == risk[j] { 0.5 } else { 0.0 };
                    }
                }
            }
            prop_assert_eq!(concordance(&time, &event, &risk), (pairs > 0.0).then(|| right / pairs));
        }
    }

    #[test]
    fn predictors_of_any_size_stay_finite() {
        let cox = Cox::new(&[1.0, 2.0, 3.0], &[true; 3], None);
        // Late rows of vanishing risk beside an early one.
        let m = [2000.0, -2000.0, -2001.0];
        assert!((cox.value(&m) - (1.0f64 + (-1.0f64).exp()).ln()).abs() < 1e-9);
        assert!(cox.derivatives(&m).iter().all(|d| d.0.is_finite() && d.1.is_finite()));
    }
}
