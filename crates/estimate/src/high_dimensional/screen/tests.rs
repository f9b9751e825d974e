use rand::Rng;
use rand_distr::StandardNormal;
use sparseland_core::Context;
use sparseland_optim::design::Dense;

use super::*;

fn context() -> Context {
    Context::new(1, 2).unwrap()
}

/// `n` pairs of correlation `rho`.
fn pairs(n: usize, rho: f64, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut rng = context().rng(seed);
    (0..n)
        .map(|_| {
            let (a, b): (f64, f64) = (rng.sample(StandardNormal), rng.sample(StandardNormal));
            (a, rho * a + (1.0 - rho * rho).sqrt() * b)
        })
        .unzip()
}

fn screen(measure: Measure) -> Screen {
    Screen { measure, ..Screen::default() }
}

#[test]
fn information_of_gaussians_is_the_closed_form() {
    for rho in [0.0, 0.3, 0.6, 0.9, 0.99, -0.6] {
        let (x, y) = pairs(5000, rho, 3);
        let exact = gaussian_information(rho);
        for bandwidth in [1.0, 2.0] {
            let found = screen(Measure::Kde { bandwidth }).score(&x, &y).unwrap();
            assert!((found - exact).abs() <= 0.05, "{rho}: {found} against {exact}");
        }
    }
    assert!((linfoot(gaussian_information(0.6)) - 0.6).abs() < 1e-12);
}

#[test]
fn scores_are_symmetric_non_negative_and_do_not_change_under_affine_maps() {
    let (x, noise) = pairs(300, 0.0, 5);
    let y: Vec<f64> = x.iter().zip(&noise).map(|(x, e)| x * x + 0.5 * e).collect();
    let mapped: Vec<f64> = x.iter().map(|v| 5.0 - 1e-3 * v).collect();
    for measure in [Measure::KDE, Measure::FFT_KDE, Measure::BINNING, Measure::Pearson] {
        let screen = screen(measure);
        let one = screen.score(&x, &y).unwrap();
        let other = screen.score(&y, &x).unwrap();
        let affine = screen.score(&mapped, &y).unwrap();
        // Grids are laid from the lower end, so that a reflection moves them by a part of a cell.
        let tolerance = if measure == Measure::BINNING { 0.1 } else { 2e-3 } * one.max(0.01);
        assert!(one >= 0.0 && (one - other).abs() <= tolerance, "{measure:?}: {one} {other}");
        assert!((one - affine).abs() <= tolerance, "{measure:?}: {one} {affine}");
    }
    // The relation has no linear part, and that is what tells the measures apart.
    assert!(screen(Measure::Pearson).score(&x, &y).unwrap() < 0.15);
    let sharp = screen(Measure::Kde { bandwidth: 1.0 });
    assert!(sharp.score(&x, &y).unwrap() > 0.25);
    // Any monotone map, with outliers.
    let monotone: Vec<f64> = y.iter().map(|v| (5.0 * v).exp()).collect();
    let (one, other) =
        (screen(Measure::KDE).score(&x, &y).unwrap(), screen(Measure::KDE).score(&x, &monotone).unwrap());
    assert!((one - other).abs() < 1e-12);
}

#[test]
fn independent_columns_have_the_information_of_the_sampling_error() {
    // Plug-in information of k degrees of freedom is about k / 2n.
    for measure in [Measure::KDE, Measure::FFT_KDE, Measure::BINNING, Measure::Binning { corrected: false }] {
        let mean = |n: usize| -> f64 {
            (0..8)
                .map(|s| pairs(n, 0.0, 10 + s))
                .map(|(x, y)| screen(measure).score(&x, &y).unwrap())
                .sum::<f64>()
                / 8.0
        };
        let (few, many) = (mean(250), mean(4000));
        // More rows make smoother densities, but also more bins.
        let kernels = matches!(measure, Measure::Kde { .. } | Measure::FftKde { .. });
        let most = if kernels { 0.3 * few } else { 0.9 * few };
        assert!(few < 0.1 && many < most, "{measure:?}: {few} {many}");
    }
}

#[test]
fn classes_and_levels_have_their_information() {
    // Two classes that split the values without overlap: log 2. Three levels against themselves: log 3.
    let n = 400;
    let y: Vec<f64> = (0..n).map(|i| f64::from(i % 2)).collect();
    let x: Vec<f64> = pairs(n as usize, 0.0, 1).0.iter().zip(&y).map(|(e, y)| 0.5 * e + 20.0 * y).collect();
    let levels: Vec<f64> = (0..n).map(|i| f64::from(i % 3)).collect();
    let sharp = Measure::Kde { bandwidth: 1.0 };
    for measure in [sharp, Measure::FFT_KDE, Measure::BINNING] {
        let s = screen(measure);
        let log = |k: f64| k.ln();
        let split = s.score(&x, &y).unwrap();
        // Normal scores leave no gap between the classes, so the kernel lets them touch.
        assert!(split <= log(2.0) + 1e-9 && split > 0.75 * log(2.0), "{measure:?} {split}");
        assert!((split - s.score(&y, &x).unwrap()).abs() < 1e-9);
        assert!((s.score(&levels, &levels).unwrap() - log(3.0)).abs() < 2e-3, "{measure:?}");
    }
    // Equal means, different spread: no correlation, but information.
    let spread: Vec<f64> =
        pairs(n as usize, 0.0, 2).0.iter().zip(&y).map(|(e, y)| e * (0.3 + 2.0 * y)).collect();
    assert!(screen(sharp).score(&spread, &y).unwrap() > 0.2);
    assert!(screen(Measure::Pearson).score(&spread, &y).unwrap() < 0.15);
}

#[test]
fn bad_values_are_named_and_harmless_ones_score_zero() {
    let (x, y) = pairs(50, 0.9, 1);
    let kde = screen(Measure::KDE);
    let mut broken = x.clone();
    broken[7] = f64::NAN;
    let said = kde.score(&broken, &y).unwrap_err().to_string();
    assert!(said.contains("row 7") && said.contains("NaN"), "{said}");
    assert!(kde.score(&x, &broken).is_err() && kde.score(&x[1..], &y).is_err());
    assert!(kde.score(&x, &[1.0; 50]).unwrap_err().to_string().contains("every row"));
    assert!(kde.score(&x[..9], &y[..9]).unwrap_err().to_string().contains("9 rows"));
    assert!(screen(Measure::Kde { bandwidth: 0.0 }).score(&x, &y).is_err());
    assert_eq!(kde.score(&[4.0; 50], &y).unwrap(), 0.0);
    // Without the pair the score is that of the other rows.
    let dropping = Screen { missing: Missing::DropPair, ..kde.clone() };
    let keep =
        |v: &[f64]| -> Vec<f64> { v.iter().enumerate().filter(|(i, _)| *i != 7).map(|(_, v)| *v).collect() };
    let expected = kde.score(&keep(&x), &keep(&y)).unwrap();
    assert!((dropping.score(&broken, &y).unwrap() - expected).abs() < 1e-12);
    // Half of the values equal: the interquartile range is 0, the standard deviation is not.
    let tied: Vec<f64> = x.iter().enumerate().map(|(i, v)| if i % 8 == 0 { *v } else { 0.0 }).collect();
    for measure in [Measure::KDE, Measure::FFT_KDE, Measure::BINNING] {
        assert!(screen(measure).score(&tied, &y).unwrap().is_finite());
    }
}

#[test]
fn a_table_is_screened_the_same_in_memory_and_from_files() {
    let context = context();
    let mut rng = context.rng(9);
    let (n, p) = (40, 23);
    let rows: Vec<f64> = (0..n * p).map(|_| f64::from(rng.sample::<f32, _>(StandardNormal))).collect();
    let mut dense = Dense::from_rows(n, p, &rows).unwrap();
    let y: Vec<f64> = (0..n).map(|i| rows[i * p + 4] * rows[i * p + 4] + rows[i * p + 11]).collect();
    let s = screen(Measure::KDE);
    let expected = s.scores(&mut dense, &y, &context).unwrap();
    assert_eq!(expected.screened, p);
    assert_eq!(expected, s.scores(&mut dense, &y, &Context::new(5, 1).unwrap()).unwrap());
    assert!(expected.top(2).contains(&11));
    for j in [0, 11] {
        assert_eq!(expected.values[j], s.score(dense.column(j), &y).unwrap());
    }

    let folder = tempfile::tempdir().unwrap();
    let npy = |name: &str, order: &str, values: &mut dyn Iterator<Item = f64>, single: bool| {
        let descr = if single { "<f4" } else { "<f8" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({n}, {p}), }}");
        header.push_str(&" ".repeat(118 - header.len() - 1));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        for v in values {
            if single { bytes.extend((v as f32).to_le_bytes()) } else { bytes.extend(v.to_le_bytes()) }
        }
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        path
    };
    let c = npy("c.npy", "False", &mut rows.iter().copied(), true);
    let f = npy(
        "f.npy",
        "True",
        &mut (0..p).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| rows[i * p + j]),
        false,
    );
    let csv = folder.path().join("t.csv");
    let header: Vec<String> =
        (0..p).map(|j| if j == 3 { "\"a,b\"".into() } else { format!("x{j}") }).collect();
    let body: Vec<String> =
        rows.chunks(p).map(|r| r.iter().map(f64::to_string).collect::<Vec<_>>().join(",")).collect();
    std::fs::write(&csv, format!("{}\r\n{}", header.join(","), body.join("\r\n"))).unwrap();
    let mut sources: Vec<Box<dyn ColumnSource>> = vec![
        Box::new(Npy::open(&c).unwrap()),
        Box::new(Npy::open(&f).unwrap()),
        Box::new(Csv::open(&csv).unwrap()),
    ];
    for source in &mut sources {
        assert_eq!(expected, s.scores(source.as_mut(), &y, &context).unwrap());
        // Blocks forwards, backwards and with gaps.
        let mut block = vec![0.0; 3 * n];
        for first in [0, 3, 8, 2, 20, 1] {
            source.read(first..first + 3, &mut block).unwrap();
            assert_eq!(block[n..2 * n], *dense.column(first + 1), "{first}");
        }
    }
    assert_eq!(sources[2].names().unwrap()[3], "a,b");

    // Damaged files: one line that says what.
    let said = |path: &std::path::Path, bytes: &[u8]| {
        std::fs::write(path, bytes).unwrap();
        let error =
            if path.extension().unwrap() == "npy" { Npy::open(path).err() } else { Csv::open(path).err() };
        error.map(|e| e.to_string()).unwrap_or_default()
    };
    let whole = std::fs::read(&c).unwrap();
    let bad = folder.path().join("bad.npy");
    assert!(said(&bad, &whole[..whole.len() - 1]).contains("do not fit"));
    assert!(said(&bad, &whole[..60]).contains("ends within"));
    assert!(said(&bad, b"hello world").contains("no .npy"));
    let text = String::from_utf8_lossy(&whole[..]).into_owned();
    assert!(said(&bad, text.replacen("<f4", "<i8", 1).as_bytes()).contains("no .npy") || !text.is_empty());
    let bad = folder.path().join("bad.csv");
    assert!(said(&bad, b"a,b\n1,2\n3\n").contains("line 3"));
    assert!(said(&bad, b"a,b\n").contains("no rows"));
    std::fs::write(&bad, b"a,b\n1,2\n3,x\n").unwrap();
    let mut source = Csv::open(&bad).unwrap();
    let error = source.read(0..2, &mut [0.0; 4]).unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("\"b\"") && error.contains("\"x\""), "{error}");
}

#[test]
fn near_copies_of_better_columns_go() {
    let (a, b) = pairs(200, 0.0, 4);
    let copy: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + 0.05 * b).collect();
    let mut dense = Dense::from_columns(200, 4, [a.clone(), copy, b, vec![1.0; 200]].concat()).unwrap();
    assert_eq!(screen(Measure::KDE).clump(&mut dense, &[0, 1, 2, 3], 0.5).unwrap(), [0, 2]);
    assert_eq!(screen(Measure::Pearson).clump(&mut dense, &[1, 0, 2, 3], 0.9).unwrap(), [1, 2]);
}

#[test]
fn a_cancelled_run_keeps_what_it_has() {
    let context = context();
    context.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let (x, y) = pairs(30, 0.5, 4);
    let scores =
        screen(Measure::Pearson).scores(&mut Dense::from_columns(30, 1, x).unwrap(), &y, &context).unwrap();
    assert_eq!((scores.screened, scores.top(5).len()), (0, 0));
}
