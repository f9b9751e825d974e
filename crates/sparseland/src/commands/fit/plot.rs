//! Figures of a path: coefficients, and the losses of cross-validation below them.

use sparseland_estimate::cv::Validated;
use sparseland_eval::plot::{Plot, stacked};

/// The most coefficients that are drawn: the largest.
const MOST: usize = 12;

/// An SVG of the coefficients (`dense[k]` at `alphas[k]`) and, where there are any, the losses.
pub(super) fn figure(
    alphas: &[f64],
    dense: &[Vec<f64>],
    names: &[String],
    losses: Option<&Validated>,
) -> String {
    let size = |j: usize| dense.iter().map(|c| c[j].abs()).fold(0.0, f64::max);
    let mut order: Vec<usize> = (0..names.len()).filter(|&j| size(j) > 0.0).collect();
    order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
    order.truncate(MOST);
    let shown = |k: &usize| alphas[*k] > 0.0;
    let path = Plot::new("Path of coefficients", "strength of the penalty", "coefficient").log_x();
    let path = order.into_iter().fold(path, |plot, j| {
        let points = (0..alphas.len()).filter(shown).map(|k| (alphas[k], dense[k][j]));
        plot.series(names[j].clone(), points.collect::<Vec<_>>())
    });
    let Some(losses) = losses else { return path.to_svg() };
    let line = |shift: f64| {
        let points = (0..alphas.len()).filter(shown);
        points.map(|k| (alphas[k], losses.mean[k] + shift * losses.standard_error[k])).collect::<Vec<_>>()
    };
    // Marks of the chosen strengths, over the height of the curve.
    let low = losses.mean.iter().copied().fold(f64::INFINITY, f64::min);
    let high = losses.mean.iter().copied().fold(0.0, f64::max);
    let mark = |k: usize| [(alphas[k], low), (alphas[k], high)];
    let (best, sparsest) = (losses.best, losses.one_standard_error);
    let curve = Plot::new("Cross-validation", "strength of the penalty", "loss on held-out rows")
        .log_x()
        .log_y()
        .series("mean", line(0.0))
        .series("one standard error above", line(1.0))
        .series("one standard error below", line(-1.0))
        .series(format!("least loss: alpha = {:.6}", alphas[best]), mark(best))
        .series(format!("one standard error rule: alpha = {:.6}", alphas[sparsest]), mark(sparsest));
    stacked(&[path, curve])
}
