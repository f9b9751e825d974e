//! Stage 1: models that say what a better one says are left out.

use serde::{Deserialize, Serialize};
use sparseland_linalg::{Mat, eigh_values};

use super::moments::Moments;
use super::{Joint, Stack, StackError};

/// A model that was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its column.
    pub model: usize,
    /// The better model that says the same; `None` for a model without variance.
    pub partner: Option<usize>,
    /// Their correlation.
    pub correlation: f64,
    /// Their mean squared difference.
    pub mse: f64,
    /// How much larger its error is.
    pub excess_rmse: f64,
}

/// What stage 1 did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redundancy {
    /// Models kept, in their order.
    pub kept: Vec<usize>,
    /// Models left out.
    pub dropped: Vec<Dropped>,
    /// Root mean squared error of every model.
    pub rmse: Vec<f64>,
    /// Condition number of the correlation matrix of all models that vary; infinite if they are dependent.
    #[serde(deserialize_with = "null_is_infinite")]
    pub condition_before: f64,
    /// The same of the kept ones; 1 for one model.
    #[serde(deserialize_with = "null_is_infinite")]
    pub condition_after: f64,
}

/// JSON writes an infinity as null.
fn null_is_infinite<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
}

/// Condition number of the correlations of some columns.
fn condition(moments: &Moments, columns: &[usize]) -> Result<f64, StackError> {
    let varying: Vec<usize> = columns.iter().copied().filter(|&k| moments.covariance(k, k) > 0.0).collect();
    if varying.len() < 2 {
        return Ok(1.0);
    }
    let m = varying.len();
    let matrix = Mat::from_fn(m, m, |a, b| correlation(moments, varying[a], varying[b]));
    let values = eigh_values(&matrix)?;
    // Below this an eigenvalue is rounding.
    let floor = m as f64 * f64::EPSILON * values[0];
    Ok(if values[m - 1] > floor { values[0] / values[m - 1] } else { f64::INFINITY })
}

/// Correlation of two columns, 0 where one is constant.
fn correlation(moments: &Moments, a: usize, b: usize) -> f64 {
    let scale = moments.covariance(a, a) * moments.covariance(b, b);
    if scale > 0.0 { moments.covariance(a, b) / scale.sqrt() } else { 0.0 }
}

/// Picks models from the moments of `(P, y)`.
pub(super) fn project(stack: &Stack, moments: &Moments) -> Result<Redundancy, StackError> {
    let k = moments.sum.len() - 1;
    let rmse: Vec<f64> = (0..k).map(|j| moments.distance(j, k).sqrt()).collect();
    let all: Vec<usize> = (0..k).collect();
    let scale = if stack.relative { moments.covariance(k, k) } else { 1.0 };
    let mut order = all.clone();
    order.sort_by(|&a, &b| rmse[a].total_cmp(&rmse[b]).then(a.cmp(&b)));
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for &j in &order {
        let same = kept.iter().copied().find(|&i: &usize| {
            let near = (
                correlation(moments, i, j) >= stack.tau_corr,
                moments.distance(i, j) <= stack.tau_mse * scale,
            );
            stack.project
                && match stack.joint {
                    Joint::And => near.0 && near.1,
                    Joint::Or => near.0 || near.1,
                }
        });
        match same {
            None => kept.push(j),
            Some(i) => dropped.push(Dropped {
                model: j,
                partner: Some(i),
                correlation: correlation(moments, i, j),
                mse: moments.distance(i, j),
                excess_rmse: rmse[j] - rmse[i],
            }),
        }
    }
    let best = order[0];
    if stack.project {
        kept.retain(|&j| {
            let varies = moments.covariance(j, j) >= stack.tau_var * scale && moments.covariance(j, j) > 0.0;
            if !varies {
                dropped.push(Dropped {
                    model: j,
                    partner: None,
                    correlation: 0.0,
                    mse: 0.0,
                    excess_rmse: rmse[j] - rmse[best],
                });
            }
            varies
        });
        if kept.is_empty() {
            dropped.retain(|d| d.model != best);
            kept.push(best);
        }
    }
    kept.sort_unstable();
    let condition_before = condition(moments, &all)?;
    let condition_after = condition(moments, &kept)?;
    Ok(Redundancy { kept, dropped, rmse, condition_before, condition_after })
}
