//! How much each source task says about the target: `nu` with `W nu = w`.

use sparseland_linalg::{Mat, lstsq};
use sparseland_optim::design::Dense;

use super::AmtrlError;
use crate::estimators::Lasso;

/// The smallest 2-norm: the pseudo-inverse's solution. `heads: k x M`.
///
/// # Errors
/// If the decomposition fails.
pub fn least_norm(heads: &Mat<f64>, target: &[f64]) -> Result<Vec<f64>, AmtrlError> {
    check(heads, target)?;
    Ok(lstsq(heads, &Mat { rows: target.len(), cols: 1, data: target.to_vec() })?.data)
}

/// The smallest 1-norm with `W nu = w` (as near as `w` can be reached): the end of the lasso's path, its support
/// refitted. Generically at most `k` entries are not zero.
///
/// # Errors
/// If the solver fails.
pub fn basis_pursuit(heads: &Mat<f64>, target: &[f64]) -> Result<Vec<f64>, AmtrlError> {
    check(heads, target)?;
    let nu = vertex(heads, lasso(heads, target, 1e-7)?)?;
    refit(heads, target, nu)
}

/// Moves along directions that change nothing in `W nu` until at most `k` entries are left, the 1-norm never rising:
/// the lasso stops a hair before the vertex where several are nearly as good.
fn vertex(heads: &Mat<f64>, mut nu: Vec<f64>) -> Result<Vec<f64>, AmtrlError> {
    loop {
        let support: Vec<usize> = (0..nu.len()).filter(|&m| nu[m] != 0.0).collect();
        if support.len() <= heads.rows {
            return Ok(nu);
        }
        // The last column by the others: a direction in the null space.
        let (&last, others) = support.split_last().expect("longer than k");
        let narrow = Mat::from_fn(heads.rows, others.len(), |t, i| heads.at(t, others[i]));
        let column = Mat::from_fn(heads.rows, 1, |t, _| heads.at(t, last));
        let mut direction = lstsq(&narrow, &column)?.data;
        direction.iter_mut().for_each(|v| *v = -*v);
        direction.push(1.0);
        let slope: f64 = support.iter().zip(&direction).map(|(&m, d)| nu[m].signum() * d).sum();
        if slope > 0.0 {
            direction.iter_mut().for_each(|v| *v = -*v);
        }
        let shrinking = support.iter().zip(&direction).filter(|&(&m, d)| nu[m] * d < 0.0);
        let first = shrinking.map(|(&m, d)| (-nu[m] / d, m)).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((step, leaves)) = first else { return Ok(nu) };
        support.iter().zip(&direction).for_each(|(&m, d)| nu[m] += step * d);
        nu[leaves] = 0.0;
    }
}

/// The lasso's relevance at the largest strength whose residual is at most `tau ||w||`, its support refitted.
///
/// # Errors
/// If the solver fails.
pub fn lasso_relevance(heads: &Mat<f64>, target: &[f64], tau: f64) -> Result<Vec<f64>, AmtrlError> {
    check(heads, target)?;
    let mut fraction = 0.7;
    loop {
        let nu = lasso(heads, target, fraction)?;
        if fraction < 1e-6 || super::relative_residual(heads, &nu, target) <= tau {
            return refit(heads, target, nu);
        }
        fraction *= 0.8;
    }
}

fn check(heads: &Mat<f64>, target: &[f64]) -> Result<(), AmtrlError> {
    match heads.rows == target.len() {
        true => Ok(()),
        false => {
            Err(AmtrlError::Shape { what: "the target's head", expected: heads.rows, got: target.len() })
        }
    }
}

/// At a fraction of the strength from which all entries are zero.
fn lasso(heads: &Mat<f64>, target: &[f64], fraction: f64) -> Result<Vec<f64>, AmtrlError> {
    if target.iter().all(|v| *v == 0.0) || heads.data.iter().all(|v| *v == 0.0) {
        return Ok(vec![0.0; heads.cols]);
    }
    let x = Dense::from_rows(heads.rows, heads.cols, &heads.data)?;
    let fitted = Lasso::at_fraction(fraction).fit_intercept(false).tol(1e-9).fit(&x, target)?;
    Ok(fitted.coef.to_dense())
}

/// Least squares on the support, where it is no wider than the heads.
fn refit(heads: &Mat<f64>, target: &[f64], nu: Vec<f64>) -> Result<Vec<f64>, AmtrlError> {
    let support: Vec<usize> = (0..nu.len()).filter(|&m| nu[m] != 0.0).collect();
    if support.is_empty() || support.len() > heads.rows {
        return Ok(nu);
    }
    let narrow = Mat::from_fn(heads.rows, support.len(), |t, i| heads.at(t, support[i]));
    let found = lstsq(&narrow, &Mat { rows: target.len(), cols: 1, data: target.to_vec() })?;
    let mut out = vec![0.0; nu.len()];
    support.iter().zip(&found.data).for_each(|(&m, &v)| out[m] = v);
    Ok(out)
}
