//! Mutual information of tables: equal-width bins chosen by penalised likelihood, or the levels of discrete variables.

/// Most bins of an axis that are tried.
const MOST_BINS: usize = 99;
/// Cells of the index that finds bin boundaries.
const INDEX: usize = 2048;

/// A variable as labels below `levels`.
#[derive(Debug, Default, Clone)]
pub(super) struct Labels {
    pub(super) of_row: Vec<u32>,
    pub(super) levels: usize,
}

/// `n log n` for whole numbers up to a limit.
#[derive(Debug, Clone)]
pub(super) struct Logs(Vec<f64>);

impl Logs {
    pub(super) fn new(n: usize) -> Self {
        Self((0..=n).map(|k| if k == 0 { 0.0 } else { k as f64 * (k as f64).ln() }).collect())
    }
}

/// Buffers, kept between columns.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    unit: Vec<f64>,
    sorted: Vec<f64>,
    starts: Vec<u32>,
    table: Vec<u32>,
    rows: Vec<u32>,
    columns: Vec<u32>,
}

/// Equal-width bins of values that are not all equal, as many as maximise
/// `sum_j N_j log N_j + n log D - (D - 1 + (log D)^2.5)` over `2 <= D <= 99` (Birgé and Rozenholc, ESAIM P&S 2006).
///
/// Cost: one counting sort and `sum_D D` look-ups, some ten microseconds for 1000 values.
pub(super) fn bins(values: &[f64], logs: &Logs, buffers: &mut Buffers, out: &mut Labels) {
    let n = values.len();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Halves: the range of the largest floats would overflow.
    let scale = 1.0 / (0.5 * high - 0.5 * low);
    let Buffers { unit, sorted, starts, .. } = buffers;
    unit.clear();
    unit.extend(values.iter().map(|v| (0.5 * v - 0.5 * low) * scale));
    // Values grouped by cell of the index; within a cell in any order.
    starts.clear();
    starts.resize(INDEX + 2, 0);
    let cell = |u: f64| ((u * INDEX as f64) as usize).min(INDEX - 1);
    unit.iter().for_each(|&u| starts[cell(u) + 2] += 1);
    for c in 2..starts.len() {
        starts[c] += starts[c - 1];
    }
    sorted.clear();
    sorted.resize(n, 0.0);
    for &u in unit.iter() {
        let start = &mut starts[cell(u) + 1];
        sorted[*start as usize] = u;
        *start += 1;
    }
    // Now cell c holds sorted[starts[c] .. starts[c + 1]].
    let mut best = (f64::NEG_INFINITY, 2);
    for d in 2..=MOST_BINS {
        let mut likelihood = n as f64 * (d as f64).ln();
        let mut before = 0;
        for k in 1..=d {
            let below = if k == d {
                n
            } else {
                let edge = k as f64 / d as f64;
                let c = cell(edge);
                let (from, to) = (starts[c] as usize, starts[c + 1] as usize);
                from + sorted[from..to].iter().filter(|u| **u < edge).count()
            };
            likelihood += logs.0[below - before];
            before = below;
        }
        let log = (d as f64).ln();
        let score = likelihood - ((d - 1) as f64 + log * log * log.sqrt());
        if score > best.0 {
            best = (score, d);
        }
    }
    out.levels = best.1;
    out.of_row.clear();
    let d = best.1;
    out.of_row.extend(unit.iter().map(|u| ((u * d as f64) as u32).min(d as u32 - 1)));
}

/// Mutual information of two labelled variables in nats, plug-in or less what chance is expected to give.
pub(super) fn table_information(
    a: &Labels,
    b: &Labels,
    logs: &Logs,
    corrected: bool,
    buffers: &mut Buffers,
) -> f64 {
    let Buffers { table, rows, columns, .. } = buffers;
    for (buffer, len) in
        [(&mut *table, a.levels * b.levels), (&mut *rows, a.levels), (&mut *columns, b.levels)]
    {
        buffer.clear();
        buffer.resize(len, 0);
    }
    for (&i, &j) in a.of_row.iter().zip(&b.of_row) {
        table[i as usize * b.levels + j as usize] += 1;
        rows[i as usize] += 1;
        columns[j as usize] += 1;
    }
    let n = a.of_row.len();
    let sum = |counts: &[u32]| counts.iter().map(|c| logs.0[*c as usize]).sum::<f64>();
    let occupied = |counts: &[u32]| counts.iter().filter(|c| **c > 0).count() as f64;
    let chance =
        if corrected { 0.5 * (occupied(table) - occupied(rows) - occupied(columns) + 1.0) } else { 0.0 };
    // Below 0 where one variable decides the other, which is no chance.
    ((sum(table) - sum(rows) - sum(columns) + logs.0[n] - chance.max(0.0)) / n as f64).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_information_of_its_definition() {
        let a = Labels { of_row: vec![0, 0, 1, 1, 1, 2], levels: 3 };
        let b = Labels { of_row: vec![0, 1, 1, 1, 0, 0], levels: 2 };
        let mut expected = 0.0;
        for i in 0..3 {
            for j in 0..2 {
                let share = |f: &dyn Fn(usize) -> bool| (0..6).filter(|r| f(*r)).count() as f64 / 6.0;
                let joint = share(&|r| a.of_row[r] == i && b.of_row[r] == j);
                if joint > 0.0 {
                    expected +=
                        joint * (joint / (share(&|r| a.of_row[r] == i) * share(&|r| b.of_row[r] == j))).ln();
                }
            }
        }
        let found = table_information(&a, &b, &Logs::new(6), false, &mut Buffers::default());
        assert!((found - expected).abs() < 1e-14);
    }

    #[test]
    fn the_number_of_bins_is_the_best_of_all() {
        // Skewed values with two clusters, checked against a plain count for every number of bins.
        let values: Vec<f64> = (0..500)
            .map(|i| {
                let t = (i as f64 * 0.618_033_988_75).fract();
                if i % 3 == 0 { 5.0 + 0.2 * t } else { t * t * t }
            })
            .collect();
        let (low, high) = (
            0.0f64.max(values.iter().copied().fold(1e9, f64::min)),
            values.iter().copied().fold(0.0, f64::max),
        );
        let score = |d: usize| {
            let mut counts = vec![0u32; d];
            values
                .iter()
                .for_each(|v| counts[(((v - low) / (high - low) * d as f64) as usize).min(d - 1)] += 1);
            let sum: f64 =
                counts.iter().filter(|c| **c > 0).map(|c| f64::from(*c) * f64::from(*c).ln()).sum();
            let log = (d as f64).ln();
            sum + 500.0 * log - (d as f64 - 1.0 + log.powf(2.5))
        };
        let best = (2..=99).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
        let mut labels = Labels::default();
        bins(&values, &Logs::new(500), &mut Buffers::default(), &mut labels);
        assert_eq!(labels.levels, best);
        assert!(best > 10, "two clusters take many bins, got {best}");
    }
}
