use half::bf16;
use proptest::prelude::*;

use super::*;

/// What this machine has.
fn units() -> Vec<Unit> {
    [Unit::Tiles, Unit::Pairs, Unit::Plain].into_iter().filter(|u| u.is_available()).collect()
}

/// Uneven numbers in -1..1.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(7919).wrapping_add(seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// A matrix of `rows x cols` in storage with gaps, read as it is or as the transpose of what is stored.
#[derive(Debug, Clone)]
struct Factor {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    gap: usize,
    transposed: bool,
}

impl Factor {
    fn new(rows: usize, cols: usize, gap: usize, transposed: bool, seed: u32) -> Self {
        let data = numbers(if transposed { cols * (rows + gap) } else { rows * (cols + gap) }, seed);
        Self { data, rows, cols, gap, transposed }
    }

    fn view(&self) -> View<'_, f32> {
        if self.transposed {
            View::strided(&self.data, self.cols, self.rows, self.rows + self.gap).t()
        } else {
            View::strided(&self.data, self.rows, self.cols, self.cols + self.gap)
        }
    }

    fn place(&self, i: usize, j: usize) -> usize {
        if self.transposed { j * (self.rows + self.gap) + i } else { i * (self.cols + self.gap) + j }
    }

    /// The entry after rounding.
    fn at(&self, i: usize, j: usize) -> f64 {
        f64::from(bf16::from_f32(self.data[self.place(i, j)]).to_f32())
    }
}

fn run(unit: Unit, alpha: f32, a: &Factor, b: &Factor, beta: f32, c: &mut [f32], stride: usize) {
    let c = ViewMut::strided(c, a.rows, b.cols, stride);
    multiply(unit, Threads::One, alpha, a.view(), b.view(), beta, c);
}

/// Compares a product with f64 sums of the rounded numbers.
fn check(unit: Unit, a: &Factor, b: &Factor, gap: usize, alpha: f32, beta: f32) -> Result<(), TestCaseError> {
    let (m, n, k, stride) = (a.rows, b.cols, a.cols, b.cols + gap);
    let start = numbers(m * stride, 77);
    let mut c = start.clone();
    run(unit, alpha, a, b, beta, &mut c, stride);
    for i in 0..m {
        for j in 0..n {
            let terms = || (0..k).map(|l| a.at(i, l) * b.at(l, j));
            let old = f64::from(beta) * f64::from(start[i * stride + j]);
            let want = old + f64::from(alpha) * terms().sum::<f64>();
            // Every addition errs by at most 2^-24 of the sum of magnitudes.
            let size = old.abs() + f64::from(alpha.abs()) * terms().map(f64::abs).sum::<f64>();
            let tolerance = (k + 8) as f64 * size / f64::from(1 << 24);
            let got = f64::from(c[i * stride + j]);
            prop_assert!((got - want).abs() <= tolerance, "{unit:?} ({i}, {j}): {got}, not {want}");
        }
        let gap = i * stride + n..(i + 1) * stride;
        prop_assert_eq!(&c[gap.clone()], &start[gap]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn products_equal_sums_of_rounded_numbers(
        (m, n, k) in (0usize..80, 0usize..80, 0usize..150), gaps in (0usize..4, 0usize..4, 0usize..4),
        (ta, tb) in (any::<bool>(), any::<bool>()), alpha in -2f32..2.0,
        beta in prop_oneof![Just(0.0), Just(1.0), -2f32..2.0], seed in 0u32..50,
    ) {
        let (a, b) = (Factor::new(m, k, gaps.0, ta, seed), Factor::new(k, n, gaps.1, tb, seed + 1));
        for unit in units() {
            check(unit, &a, &b, gaps.2, alpha, beta)?;
        }
    }

    #[test]
    fn every_unit_multiplies_small_whole_numbers_exactly(
        (m, n, k) in (1usize..100, 1usize..100, 1usize..200), (ta, tb) in (any::<bool>(), any::<bool>()), seed in 0u32..50,
    ) {
        let whole = |mut f: Factor| {
            f.data.iter_mut().for_each(|v| *v = (*v * 100.0).round());
            f
        };
        let (a, b) = (whole(Factor::new(m, k, 1, ta, seed)), whole(Factor::new(k, n, 1, tb, seed + 1)));
        for unit in units() {
            let mut c = vec![3.0; m * n];
            run(unit, 2.0, &a, &b, -1.0, &mut c, n);
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|l| a.at(i, l) * b.at(l, j)).sum();
                    prop_assert_eq!(f64::from(c[i * n + j]), 2.0 * sum - 3.0);
                }
            }
        }
    }

    /// With B the identity and C `1 x n`, the product is the rounded row.
    #[test]
    fn every_unit_rounds_alike(bits in prop::collection::vec(any::<u32>(), 1..70)) {
        let n = bits.len();
        for &bits in &bits {
            let x = f32::from_bits(bits);
            let near = bf16::from_f32(if x.is_subnormal() { 0.0 * x } else { x });
            prop_assert_eq!(rounded(x).to_bits(), near.to_f32().to_bits());
        }
        for unit in units() {
            // One number at a time: an infinity times a zero of the identity would be NaN.
            for &bits in &bits {
                for transposed in [false, true] {
                    let mut row = Factor::new(n, 1, 0, transposed, 0);
                    row.data.fill(f32::from_bits(bits));
                    let mut one = Factor::new(1, 1, 0, false, 0);
                    one.data[0] = 1.0;
                    let (mut c, mut d) = (vec![0.0; n], vec![0.0; n]);
                    run(unit, 1.0, &row, &one, 0.0, &mut c, 1);
                    let row = Factor { rows: 1, cols: n, transposed: !transposed, ..row };
                    run(unit, 1.0, &one, &row, 0.0, &mut d, n);
                    let want = rounded(f32::from_bits(bits));
                    for got in c.into_iter().chain(d) {
                        prop_assert!(got == want || got.is_nan() && want.is_nan(), "{:?}: {}, not {}", unit, got, want);
                    }
                }
            }
        }
    }
}

#[test]
fn slabs_and_parts_join_without_a_seam() {
    // Beyond a slab of k, of rows and of columns in turn.
    for (m, n, k) in
        [(5, 37, 2 * SLAB_K + 45), (SLAB + 33, 3, 40), (3, SLAB + 65, 33), (40, 70, PART * STEP_K + 1)]
    {
        for (ta, tb) in [(false, false), (true, true)] {
            for unit in units() {
                let (a, b) = (Factor::new(m, k, 2, ta, 1), Factor::new(k, n, 1, tb, 2));
                check(unit, &a, &b, 3, 1.5, 0.5).unwrap();
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_or_column_and_no_other() {
    let (m, n, k) = (45, 50, 70);
    for unit in units() {
        for (ta, tb) in [(false, false), (true, true)] {
            let (mut a, mut b) = (Factor::new(m, k, 1, ta, 1), Factor::new(k, n, 1, tb, 2));
            let (nan, infinite, column) = (a.place(33, 69), a.place(7, 0), b.place(5, 48));
            (a.data[nan], a.data[infinite]) = (f32::NAN, f32::INFINITY);
            // Only the low bits say that it is NaN: truncation would make it infinite.
            b.data[column] = f32::from_bits(0xFF80_0001);
            let mut c = vec![0.0; m * n];
            run(unit, 1.0, &a, &b, 0.0, &mut c, n);
            for i in 0..m {
                for j in 0..n {
                    let got = c[i * n + j];
                    match (i, j) {
                        (33, _) | (_, 48) => assert!(got.is_nan(), "{unit:?} ({i}, {j}): {got}"),
                        (7, _) => assert_eq!(got, f32::INFINITY * b.at(0, j) as f32, "{unit:?} ({i}, {j})"),
                        _ => assert!(got.is_finite(), "{unit:?} ({i}, {j}): {got}"),
                    }
                }
            }
        }
    }
}

#[test]
fn beta_zero_forgets_what_stood_there() {
    let (a, b) = (Factor::new(35, 20, 0, false, 1), Factor::new(20, 40, 0, false, 2));
    for unit in units() {
        let mut c = vec![f32::NAN; 35 * 40];
        run(unit, 1.0, &a, &b, 0.0, &mut c, 40);
        assert!(c.iter().all(|c| c.is_finite()), "{unit:?}");
        // Nothing to sum.
        let (a, b) = (Factor::new(2, 0, 0, false, 1), Factor::new(0, 3, 0, false, 2));
        let mut c = vec![f32::NAN; 6];
        run(unit, 1.0, &a, &b, 0.0, &mut c, 3);
        assert_eq!(c, [0.0; 6], "{unit:?}");
        let mut c = vec![2.0; 7];
        run(unit, 1.0, &a, &b, 0.5, &mut c, 4);
        assert_eq!(c, [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0], "{unit:?}");
    }
}

#[test]
fn empty_products_touch_nothing() {
    for unit in units() {
        for (m, n, k) in [(0, 5, 3), (5, 0, 3), (0, 0, 0), (0, 4, 0)] {
            let (a, b) = (Factor::new(m, k, 0, false, 1), Factor::new(k, n, 0, true, 2));
            run(unit, 1.0, &a, &b, 0.0, &mut [], n);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (333, 290, 600);
    for unit in units() {
        for transposed in [false, true] {
            let (a, b) = (Factor::new(m, k, 0, transposed, 1), Factor::new(k, n, 0, transposed, 2));
            let product = |threads, pool: usize| {
                let mut c = numbers(m * n, 3);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(pool).build().unwrap();
                pool.install(|| {
                    multiply(unit, threads, 0.7, a.view(), b.view(), 0.3, ViewMut::new(&mut c, m, n));
                });
                c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let one = product(Threads::One, 1);
            for threads in 1..=3 {
                assert!(one == product(Threads::Pool, threads), "{unit:?} on {threads} threads");
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_best_unit_is_the_tile_unit_where_there_is_one() {
    let there = Unit::Tiles.is_available();
    assert_eq!(crate::bf16_products(), there);
    assert_eq!(crate::features().contains(&"amx-bf16"), there);
    // Another thread may use the tiles as well, and sees the same answer.
    assert_eq!(std::thread::spawn(crate::bf16_products).join().unwrap(), there);
}
