//! Estimators with the names and defaults of scikit-learn, celer and skglm.
//!
//! | estimator | objective: mean loss plus |
//! |---|---|
//! | [`Lasso`] | `alpha sum_j ω_j abs(w_j)` |
//! | [`SqrtLasso`] | the same beside the *root* of the loss: no need to know the noise |
//! | [`ElasticNet`] | `alpha (l1_ratio norm_1(w) + (1 - l1_ratio) norm_2(w)² / 2)` |
//! | [`McpRegression`], [`ScadRegression`], [`BridgeRegression`], [`LogSumRegression`] | concave penalties: little bias on large coefficients |
//! | [`Slope`] | `alpha sum_i λ_i abs(w)_(i)` over the sorted sizes |
//! | [`SparseLogisticRegression`] | log loss for targets 0 and 1, elastic-net penalty |
//! | [`LinearSvc`] | squared hinge for targets 0 and 1, elastic-net penalty |
//! | [`PoissonRegression`], [`GammaRegression`] | counts or positive amounts, log link; elastic-net penalty |
//! | [`HuberRegression`] | noise with outliers; elastic-net penalty |
//! | [`MultinomialRegression`] | log loss of several classes, L1 norm or norms over features |
//! | [`CoxRegression`] | partial likelihood of censored times, elastic-net penalty |
//! | [`GroupLasso`] | `alpha (tau norm_1(w) + (1 - tau) sum_g ω_g norm_2(w_g))` |
//! | [`MultiTaskLasso`] | `alpha sum_j norm_2(W_j)` for several targets |
//! | [`BestSubset`](crate::subset::BestSubset) | at most k non-zero coefficients |
//!
//! On top of them: [`cross_validate`](crate::cv::cross_validate), information criteria
//! ([`Path::select`](crate::path::Path::select)), refits and adaptive weights
//! ([`reweighted`](crate::reweighted)) and [`stability`](crate::stability) selection.
//!
//! The squared loss is `(1 / 2n) ||y - X w - b||²`, the logistic loss the *mean* log loss; with sample
//! weights, means are weighted means. X is any [`Design`](sparseland_optim::design::Design): dense or
//! sparse, f32 or f64; a sparse one is never densified, not even with an intercept or standardisation.
//!
//! ```
//! use sparseland_estimate::estimators::Lasso;
//! use sparseland_optim::design::Dense;
//!
//! // Three observations of two features, row by row; y = 1 + 2 x_0.
//! let x = Dense::from_rows(3, 2, &[0.0, 1.0, 1.0, -1.0, 2.0, 1.0])?;
//! let fitted = Lasso::new(0.01).fit(&x, &[1.0, 3.0, 5.0])?;
//! assert_eq!(fitted.coef.indices, [0]);
//! assert!((fitted.coef.values[0] - (2.0 - 0.01 * 1.5)).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod battery;
mod concomitant;
mod error;
mod fitted;
mod group;
mod input;
mod linear;
mod models;
mod multinomial;
mod multitask;
mod normal;
mod slope;
mod survival;
#[cfg(test)]
mod tests;

pub use error::EstimateError;
pub(crate) use error::ensure;
pub use fitted::{Fitted, Loss, SparseCoef};
pub use group::GroupLasso;
pub(crate) use input::{
    Rows, check_design, check_sample_weight, check_target, check_weights, restore, scale_rows,
};
pub use models::{
    BridgeRegression, ElasticNet, GammaRegression, HuberRegression, Lasso, LinearSvc, LogSumRegression,
    McpRegression, PoissonRegression, ScadRegression, SparseLogisticRegression, SqrtLasso,
};
pub use multinomial::{FittedClasses, MultinomialRegression};
pub use multitask::{FittedTasks, MultiTaskLasso};
pub use slope::Slope;
pub use survival::{CoxRegression, FittedCox};

/// A strength of the penalty.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Alpha {
    /// The number in the objective.
    Value(f64),
    /// A part of the least strength that gives zeros, which does not depend on the scale of the data.
    Fraction(f64),
}

impl Alpha {
    pub(crate) fn check(self) -> Result<(), EstimateError> {
        let (Alpha::Value(value) | Alpha::Fraction(value)) = self;
        ensure(value.is_finite() && value >= 0.0, "alpha", value, "finite and >= 0")
    }

    pub(crate) fn resolve(self, alpha_max: f64) -> Result<f64, EstimateError> {
        match self {
            Alpha::Value(value) => Ok(value),
            Alpha::Fraction(_) if !alpha_max.is_finite() => Err(EstimateError::NoGrid),
            Alpha::Fraction(part) => Ok(part * alpha_max),
        }
    }
}
