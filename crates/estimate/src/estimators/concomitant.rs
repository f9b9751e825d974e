//! The square-root lasso: coefficients and the level of the noise together.
//!
//! ```text
//! minimise over w, σ >= σ_0     ||y - X w - b||² / (2 n σ)  +  σ / 2  +  alpha sum_j ω_j |w_j|
//! ```
//!
//! For a given `σ` this is the lasso of strength `alpha σ`; for given coefficients `σ` is the root mean
//! squared residual. As long as the support and its signs stay, that lasso's squared residual is
//! `a + c σ²`, where `a` is what least squares on the support leaves: the `σ` that agrees with itself
//! follows in closed form, and few lassos are needed. Falling strengths start from the last.
//!
//! Duality gap as in Ndiaye, Fercoq, Gramfort, Leclère and Salmon, "Efficient smoothed concomitant lasso
//! estimation for high dimensional regression" (arXiv 1606.02702): `u = r / (n s)` with the least `s` for
//! which `|x_jᵀ u| <= alpha ω_j` and `||u|| <= 1 / √n`; the dual value is `yᵀ u + σ_0 (1 - n ||u||²) / 2`.

use sparseland_optim::cd::{Options, Quadratic, Report, StopReason};
use sparseland_optim::penalty::Penalty;

/// `σ_0` as a part of `||y|| / √n`: keeps the problem bounded away from exact fits.
pub(super) const FLOOR: f64 = 1e-2;
/// Lassos per fit, a guard: three to six are usual.
const MOST: usize = 100;

/// Where a fit stands.
struct State {
    sigma: f64,
    gap: Option<f64>,
    kkt: f64,
    objective: f64,
}

fn measure(problem: &Quadratic<'_>, penalty: &dyn Penalty, floor: f64) -> State {
    let rms = (2.0 * problem.loss()).sqrt();
    let sigma = rms.max(floor);
    let (mut kkt, mut value, mut product) = (0.0f64, 0.0, 0.0);
    let (mut scale, mut has_gap) = (rms, true);
    let moves = problem.design().squared_norms();
    for (j, (gradient, &w)) in problem.gradients().into_iter().zip(problem.coefficients()).enumerate() {
        let threshold = penalty.threshold(j);
        if moves[j] == 0.0 || threshold.is_infinite() {
            continue;
        }
        kkt = kkt.max(penalty.distance(j, w, gradient / sigma));
        value += penalty.value(j, w);
        product += w * gradient;
        has_gap &= threshold > 0.0;
        let push = if penalty.is_positive() { -gradient } else { gradient.abs() };
        scale = scale.max(push / threshold);
    }
    let objective = rms * rms / (2.0 * sigma) + 0.5 * sigma + value;
    let gap = (has_gap && scale > 0.0).then(|| {
        let part = rms / scale;
        (objective - (rms * rms - product) / scale - 0.5 * floor * (1.0 - part * part)).max(0.0)
    });
    State { sigma, gap, kkt, objective }
}

/// Minimises from the coefficients of `problem` on; `lasso(t)` is the penalty of strength `t`, and `null`
/// the root mean square of y.
pub(super) fn solve(
    problem: &mut Quadratic<'_>,
    lasso: impl Fn(f64) -> Box<dyn Penalty>,
    alpha: f64,
    null: f64,
    options: &Options,
) -> Report {
    let floor = FLOOR * null;
    let penalty = lasso(alpha);
    let steepest = problem.correlations().iter().fold(0.0f64, |m, c| m.max(c.abs())) / null;
    let mut sigma = (2.0 * problem.loss()).sqrt().max(floor);
    let (mut sweeps, mut last_move) = (0, f64::INFINITY);
    let mut rounds = 0;
    loop {
        rounds += 1;
        // The lasso's gap is σ times ours, and relative to null² / 2.
        let tol = (0.2 * options.tol * sigma / null).max(1e-15);
        let inner = Options { tol, strong_ratio: None, ..options.clone() };
        let report = problem.solve(lasso(alpha * sigma).as_ref(), &inner);
        sweeps += report.sweeps;
        let state = measure(problem, penalty.as_ref(), floor);
        let moved = (state.sigma - sigma).abs();
        let done = match state.gap {
            Some(gap) => (gap <= options.tol * null).then_some(StopReason::Gap),
            None => (state.kkt <= options.tol * steepest).then_some(StopReason::Stationary),
        };
        let stop = done
            .or((moved <= 4.0 * f64::EPSILON * sigma).then_some(StopReason::Precision))
            .or((rounds >= MOST || sweeps >= options.max_sweeps).then_some(StopReason::Limit));
        if let Some(stop) = stop {
            return Report {
                sweeps,
                gap: state.gap,
                kkt: state.kkt,
                objective: state.objective,
                converged: stop != StopReason::Limit,
                stop,
                ..report
            };
        }
        // The σ that agrees with itself on this support; the plain alternation where that leads astray.
        let pairs = problem.coefficients().iter().enumerate();
        let support: Vec<u32> = pairs.filter(|(_, w)| **w != 0.0).map(|(j, _)| j as u32).collect();
        let least = 2.0 * problem.least_squares(&support).1;
        let slope = ((2.0 * problem.loss() - least) / (sigma * sigma)).max(0.0);
        let agreed = if slope < 1.0 { (least / (1.0 - slope)).sqrt().max(floor) } else { floor };
        let falls_fast = moved <= 0.9 * last_move;
        last_move = moved;
        sigma = if falls_fast { agreed } else { state.sigma };
    }
}
