use sparseland_linalg::Mat;

use super::*;

const ROWS: [f64; 12] = [1.0, 0.0, 0.0, 5.0, 0.0, 2.0, 3.0, 5.0, 4.0, 0.0, -1.0, 5.0];

fn dense() -> Dense<f64> {
    Dense::from_rows(3, 4, &ROWS).unwrap()
}

fn sparse() -> Sparse<f64> {
    let (mut offsets, mut columns, mut values) = (vec![0], vec![], vec![]);
    for row in ROWS.chunks(4) {
        for (j, &v) in row.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            columns.push(j as u32);
            values.push(v);
        }
        offsets.push(values.len());
    }
    Sparse::from_csr(4, &offsets, &columns, &values).unwrap()
}

#[test]
fn a_row_major_matrix_is_transposed_once() {
    let mat = Mat::from_vec(3, 4, ROWS.to_vec()).unwrap();
    assert_eq!(Dense::from(&mat).column(2), [0.0, 3.0, -1.0]);
    assert_eq!(sparse().column(2), (&[1u32, 2][..], &[3.0, -1.0][..]));
}

#[test]
fn dense_and_sparse_answer_alike() {
    let designs: [Box<dyn Design>; 2] = [Box::new(dense()), Box::new(sparse())];
    let v = [0.5, -2.0, 1.5];
    for design in &designs {
        let mut out = [0.0; 3];
        design.dots(&[0, 2, 3], &v, &mut out);
        assert_eq!(out, [6.5, -7.5, 0.0]);
        assert_eq!(design.squared_distance(2, 1.0, None), 1.0 + 4.0 + 4.0);
        assert_eq!(design.squared_distance(2, 1.0, Some(&[2.0, 1.0, 0.0])), 4.0 + 4.0 + 1.0);
        assert_eq!(design.times(&[1.0, 0.0, 2.0, 0.0]), [1.0, 6.0, 2.0]);
        let part = design.select(Some(&[0, 2]), Some(&[3, 0]), Some(&[2.0, 9.0, 0.5]));
        assert_eq!((part.rows(), part.cols()), (2, 2));
        assert_eq!(part.times(&[1.0, 0.0]), [10.0, 2.5]);
        assert_eq!(part.times(&[0.0, 1.0]), [2.0, 2.0]);
        assert_eq!(design.first_non_finite(), None);
    }
}

#[test]
fn the_centred_view_is_the_centred_and_scaled_matrix() {
    let weights = [1.0f64, 4.0, 0.25];
    let unit: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
    let total: f64 = weights.iter().sum();
    for sparse_form in [false, true] {
        let raw: Box<dyn Design> = if sparse_form { Box::new(sparse()) } else { Box::new(dense()) };
        let scaled = raw.select(None, None, Some(&unit));
        let view = Centred::new(scaled.as_ref(), Some(unit.clone()), Scaling { centre: true, scale: true });
        let mut residual = vec![1.0, 2.0, -1.0];
        view.centre(&mut residual);
        for j in 0..4 {
            let column: Vec<f64> = (0..3).map(|i| ROWS[i * 4 + j]).collect();
            let mean = column.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / total;
            let variance =
                column.iter().zip(&weights).map(|(x, w)| w * (x - mean) * (x - mean)).sum::<f64>() / total;
            let expected: Vec<f64> = if j == 3 {
                vec![0.0; 3] // constant
            } else {
                column.iter().zip(&unit).map(|(x, u)| u * (x - mean) / variance.sqrt()).collect()
            };
            let mut found = vec![0.0; 3];
            view.fill(j, &mut found);
            let product: f64 = expected.iter().zip(&residual).map(|(a, b)| a * b).sum();
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() < 1e-13, "column {j}: {expected:?} {found:?}");
            }
            assert!((view.dot(j, &residual) - product).abs() < 1e-13);
            assert!((view.squared_norms()[j] - expected.iter().map(|x| x * x).sum::<f64>()).abs() < 1e-12);
        }
    }
}

#[test]
fn faulty_sparse_input_is_named() {
    let csc = |offsets: &[usize], rows: &[u32]| {
        Sparse::from_csc(3, offsets.to_vec(), rows.to_vec(), vec![1.0; rows.len()]).unwrap_err()
    };
    let row = |entry, column, row| DesignError::Row { entry, column, row, rows: 3 };
    assert_eq!(csc(&[0, 2, 3], &[0, 2, 3]), row(2, 1, 3));
    assert_eq!(csc(&[0, 2, 3], &[1, 1, 0]), row(1, 0, 1));
    let offsets = |position| DesignError::Offsets { position, cols: 2, entries: 3 };
    assert_eq!(csc(&[0, 4, 3], &[0, 1, 2]), offsets(1));
    assert_eq!(csc(&[1, 2, 3], &[0, 1, 2]), offsets(0));
    assert_eq!(csc(&[0, 1, 2], &[0, 1, 2]), offsets(2));
    let length = Dense::from_columns(2, 2, vec![1.0f64; 3]).unwrap_err();
    assert_eq!(length, DesignError::Length { rows: 2, cols: 2, expected: 4, got: 3 });
    let csr = Sparse::from_csr(2, &[0, 1, 2], &[0, 2], &[1.0, 1.0]).unwrap_err();
    assert_eq!(csr, DesignError::Row { entry: 1, column: 2, row: 1, rows: 2 });
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut rows = ROWS;
        rows[6] = bad;
        let (i, j, found) = Dense::from_rows(3, 4, &rows).unwrap().first_non_finite().unwrap();
        assert_eq!((i, j, found.to_bits()), (1, 2, bad.to_bits()));
        let column = Sparse::from_csc(3, vec![0, 0, 2], vec![0, 2], vec![1.0, bad]).unwrap();
        let (i, j, found) = column.first_non_finite().unwrap();
        assert_eq!((i, j, found.to_bits()), (2, 1, bad.to_bits()));
    }
}
