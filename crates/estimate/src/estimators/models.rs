//! The estimators of one target: their objectives, defaults and limits.

use super::linear::{Form, L1, Linear, elastic, estimator, signed};
use super::normal::upper_quantile;
use super::{Alpha, EstimateError, Fitted, Loss, ensure};
use crate::path::{Path, PathEstimator, PathOptions};
use crate::reweighted::Reweighted;
use sparseland_optim::design::{Design, Scaling};
use sparseland_optim::penalty::Exponent;

estimator! {
    /// The lasso: `(1 / 2n) ||y - X w - b||² + alpha sum_j ω_j |w_j|` (Tibshirani, JRSS B 1996).
    ///
    /// Cost: a few passes over X, and `O(k² n + k³)` for `k` features in the working set; a path of 100
    /// costs about as much as its hardest fits. With a duality gap.
    ///
    /// **When not to use it.** Large coefficients are shrunk by about `alpha`: for estimates rather than
    /// predictions take [`McpRegression`] or [`BestSubset`](crate::subset::BestSubset). Among strongly
    /// correlated features it picks one at will: [`ElasticNet`] keeps them together.
    Lasso, L1, Loss::Squared
}
signed!(Lasso);

estimator! {
    /// The elastic net: the lasso with `alpha (l1_ratio ||w||_1 + (1 - l1_ratio) ||w||² / 2)` (Zou and
    /// Hastie, JRSS B 2005); scikit-learn's parametrisation. `l1_ratio` is 0.5 by default.
    ///
    /// Cost as [`Lasso`]. With a duality gap, except at `l1_ratio = 0`.
    ///
    /// **When not to use it.** With few, weakly correlated true features the ridge part only adds bias.
    ElasticNet, Form::ElasticNet { l1_ratio: 0.5 }, Loss::Squared
}
elastic!(ElasticNet);
signed!(ElasticNet);

estimator! {
    /// The square-root lasso in its concomitant form: coefficients and noise level `σ` together,
    ///
    /// ```text
    /// ||y - X w - b||² / (2 n σ)  +  σ / 2  +  alpha sum_j ω_j |w_j|,       σ >= 0.01 ||y - ybar|| / √n
    /// ```
    ///
    /// which for `σ` above its floor is `||y - X w - b|| / √n + alpha ||w||_1` (Belloni, Chernozhukov and
    /// Wang, "Square-root lasso: pivotal recovery of sparse signals via conic programming", Biometrika
    /// 2011; Sun and Zhang, "Scaled sparse linear regression", Biometrika 2012; the floor is that of
    /// Ndiaye et al., arXiv 1606.02702). The right `alpha` does not depend on the noise:
    /// [`SqrtLasso::theoretical_alpha`] needs no data. `σ` is [`Fitted::noise_level`]; the objective
    /// reported is the one above. With a duality gap.
    ///
    /// Cost: three to six lassos, each from the solution of the last.
    ///
    /// **When not to use it.** For prediction alone, where cross-validation of [`Lasso`] chooses better;
    /// when features explain nearly all of y, the floor decides.
    SqrtLasso, Form::Sqrt, Loss::Squared
}
signed!(SqrtLasso);

impl SqrtLasso {
    /// `1.1 z / √n`, where a normal variable exceeds `z` with probability `(1 - confidence) / 2p`: with
    /// that confidence no feature that is pure noise could enter alone. For columns of mean square 1, as
    /// [`SqrtLasso::standardize`] makes them. Belloni et al. 2011, equation 9 with their `c = 1.1`; their
    /// confidence is 0.95.
    ///
    /// # Errors
    /// [`EstimateError::Parameter`] unless the confidence is between 0 and 1 and there are rows and columns.
    pub fn theoretical_alpha(rows: usize, cols: usize, confidence: f64) -> Result<f64, EstimateError> {
        ensure(confidence > 0.0 && confidence < 1.0, "confidence", confidence, "between 0 and 1")?;
        ensure(rows > 0, "number of rows", 0.0, "at least 1")?;
        ensure(cols > 0, "number of columns", 0.0, "at least 1")?;
        Ok(1.1 * upper_quantile((1.0 - confidence) / (2.0 * cols as f64)) / (rows as f64).sqrt())
    }
}

estimator! {
    /// Least squares with the minimax concave penalty (Zhang, Annals of Statistics 2010), `gamma = 3`.
    ///
    /// Coefficients beyond `gamma alpha` are not shrunk. The problem is not convex: the solution is a
    /// stationary point, reached by a descent from the strength at which all is zero. Columns are
    /// standardised by default, as in ncvreg, since `gamma` is relative to their curvature.
    ///
    /// Cost as [`Lasso`]. No duality gap: `kkt` measures the distance to stationarity.
    ///
    /// **When not to use it.** For prediction alone when many small effects matter: the lasso is easier
    /// to tune and its optimum is unique.
    McpRegression, Form::Mcp { gamma: 3.0 }, Loss::Squared
}
signed!(McpRegression);

estimator! {
    /// Least squares with the smoothly clipped absolute deviation (Fan and Li, JASA 2001), `shape = 3.7`.
    ///
    /// Between the lasso (small coefficients) and no penalty (beyond `shape alpha`). As for
    /// [`McpRegression`], the solution is a stationary point and columns are standardised by default.
    ///
    /// **When not to use it.** As [`McpRegression`], which reaches no shrinkage earlier and is usually
    /// sparser.
    ScadRegression, Form::Scad { shape: 3.7 }, Loss::Squared
}
signed!(ScadRegression);

estimator! {
    /// Least squares with `alpha sum_j ω_j |w_j|^q`, `q` 1/2 (by default) or 2/3: bridge regression (Frank
    /// and Friedman, Technometrics 1993) with the closed forms of Xu et al. (2012) and Cao et al. (2013).
    ///
    /// Sparser than the lasso at the same fit, and large coefficients are hardly shrunk. Coefficients jump
    /// when they enter. The slope at 0 is infinite: the solution is a fixed point of coordinate descent,
    /// reached by a descent from the strength at which all is zero; `kkt` is how far a step of it moves.
    /// Columns are standardised by default.
    ///
    /// **When not to use it.** With strongly correlated features, among which the jumps pick the first
    /// comer: [`McpRegression`] is continuous.
    BridgeRegression, Form::Bridge { exponent: Exponent::Half }, Loss::Squared
}
signed!(BridgeRegression);

impl BridgeRegression {
    /// The power of the penalty.
    pub fn exponent(mut self, exponent: Exponent) -> Self {
        self.0.form = Form::Bridge { exponent };
        self
    }
}

estimator! {
    /// Least squares with `alpha sum_j ω_j log(1 + |w_j| / epsilon)`, `epsilon` 1 by default: what
    /// iteratively reweighted L1 norms descend on (Candès, Wakin and Boyd, JFAA 2008).
    ///
    /// `epsilon` is in units of the coefficients: those far below it see an L1 norm of strength
    /// `alpha / epsilon`, those far above hardly any shrinkage. The solution is a stationary point.
    ///
    /// **When not to use it.** Without an idea of the size of the coefficients: [`McpRegression`] takes
    /// its scale from `alpha`.
    LogSumRegression, Form::LogSum { epsilon: 1.0 }, Loss::Squared
}
signed!(LogSumRegression);

impl LogSumRegression {
    /// The size from which on a coefficient is hardly shrunk: above 0.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.0.form = Form::LogSum { epsilon };
        self
    }
}

estimator! {
    /// Logistic regression of targets 0 and 1: mean log loss plus the elastic-net penalty, `l1_ratio` 1
    /// by default. scikit-learn's `C` is `1 / (n alpha)`.
    ///
    /// Cost: proximal Newton; `O(n k²)` for every step with `k` features at work, a pass over X for every
    /// round. `kkt` measures the distance to stationarity.
    ///
    /// **When not to use it.** With separable classes and a tiny `alpha` coefficients grow without much
    /// use: keep `alpha` away from 0.
    SparseLogisticRegression, L1, Loss::Logistic
}
elastic!(SparseLogisticRegression);
signed!(SparseLogisticRegression);

estimator! {
    /// Poisson regression of counts with the log link: mean of `exp(m) - y m` plus the elastic-net
    /// penalty, `l1_ratio` 1 by default.
    ///
    /// Cost as [`SparseLogisticRegression`].
    ///
    /// **When not to use it.** For counts whose variance is far above their mean the error bars of a
    /// Poisson model mislead; the means are still right.
    PoissonRegression, L1, Loss::Poisson
}
elastic!(PoissonRegression);
signed!(PoissonRegression);

estimator! {
    /// Huber regression: squares up to `delta` (1.35 by default, in units of y), absolute values beyond,
    /// plus the elastic-net penalty, `l1_ratio` 1 by default.
    ///
    /// Cost as [`SparseLogisticRegression`]; Newton steps ignore rows beyond `delta`, so that more of them
    /// are needed when there are many.
    ///
    /// **When not to use it.** `delta` is not scaled to the noise: standardise y first, or the loss is
    /// all squares or all absolute values. Outliers in X need other methods.
    HuberRegression, L1, Loss::Huber { delta: 1.35 }
}
elastic!(HuberRegression);
signed!(HuberRegression);

estimator! {
    /// Gamma regression of positive amounts (sizes of claims, durations) with the log link: mean of
    /// `y exp(-m) + m` plus the elastic-net penalty, `l1_ratio` 1 by default; scikit-learn's
    /// `GammaRegressor` has the ridge penalty only.
    ///
    /// Cost as [`SparseLogisticRegression`].
    ///
    /// **When not to use it.** With zeros among the amounts, which it refuses: model whether there is one
    /// apart. The loss weighs relative errors: where absolute ones matter, use [`Lasso`].
    GammaRegression, L1, Loss::Gamma
}
elastic!(GammaRegression);
signed!(GammaRegression);

estimator! {
    /// Linear support vector machine for targets 0 and 1: mean of `max(1 - s m, 0)²` with `s = ±1`, plus
    /// the elastic-net penalty, `l1_ratio` 1 by default (Fan et al., "LIBLINEAR: a library for large
    /// linear classification", JMLR 2008; scikit-learn's `LinearSVC(penalty="l1", dual=False)`). `C` is
    /// `1 / (n alpha)`; the intercept, which LIBLINEAR penalises, is free here.
    ///
    /// Cost as [`SparseLogisticRegression`]; rows beyond their margin have no curvature, so that steps are
    /// cautious when nearly all are.
    ///
    /// **When not to use it.** For probabilities: take [`SparseLogisticRegression`].
    LinearSvc, L1, Loss::SquaredHinge
}
elastic!(LinearSvc);
signed!(LinearSvc);

impl McpRegression {
    /// How far the penalty reaches, in units of `alpha`: above 1.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.0.form = Form::Mcp { gamma };
        self
    }
}

impl ScadRegression {
    /// The `a` of the paper: above 2.
    pub fn shape(mut self, shape: f64) -> Self {
        self.0.form = Form::Scad { shape };
        self
    }
}

impl HuberRegression {
    /// Size of a residual from which on it counts linearly.
    pub fn delta(mut self, delta: f64) -> Self {
        self.0.loss = Loss::Huber { delta };
        self
    }
}
