//! The models of one target.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use sparseland_estimate::estimators::{
    BridgeRegression, ElasticNet, GammaRegression, GroupLasso, HuberRegression, Lasso, LinearSvc,
    LogSumRegression, McpRegression, PoissonRegression, ScadRegression, Slope, SparseLogisticRegression,
    SqrtLasso,
};
use sparseland_estimate::path::PathEstimator;
use sparseland_estimate::reweighted::{Adaptive, Relaxed, Reweighted};
use sparseland_estimate::subset::BestSubset;
use sparseland_optim::penalty::Exponent;

use super::Common;
use super::groups::Groups;

/// A new model of one target takes a variant, a line in [`Single::parts`] and one in [`Single::estimator`].
#[derive(Subcommand)]
pub(super) enum Single {
    /// Squares and absolute values (scikit-learn: Lasso, LassoCV).
    Lasso {
        #[command(flatten)]
        options: Separable,
    },
    /// Squares, absolute values and their squares (scikit-learn: ElasticNet, ElasticNetCV).
    ElasticNet {
        #[command(flatten)]
        options: Separable,
        /// Share of the absolute values in the penalty.
        #[arg(long, default_value_t = 0.5)]
        l1_ratio: f64,
    },
    /// The root of the squares and absolute values: the right strength does not depend on the noise.
    SqrtLasso {
        #[command(flatten)]
        options: Separable,
    },
    /// Squares and the minimax concave penalty.
    Mcp {
        #[command(flatten)]
        options: Separable,
        /// How far the penalty reaches, in units of alpha.
        #[arg(long, default_value_t = 3.0)]
        gamma: f64,
    },
    /// Squares and the smoothly clipped absolute deviation.
    Scad {
        #[command(flatten)]
        options: Separable,
        /// The paper's a: how far the penalty reaches, in units of alpha.
        #[arg(long, default_value_t = 3.7)]
        shape: f64,
    },
    /// Squares and a power below 1 of the coefficients.
    Bridge {
        #[command(flatten)]
        options: Separable,
        /// The power.
        #[arg(long, value_enum, default_value = "1/2")]
        exponent: Power,
    },
    /// Squares and the logarithm of the coefficients.
    LogSum {
        #[command(flatten)]
        options: Separable,
        /// The size from which on a coefficient is hardly shrunk.
        #[arg(long, default_value_t = 1.0)]
        epsilon: f64,
    },
    /// Squares and sorted absolute values, the largest penalised most.
    Slope {
        #[command(flatten)]
        common: Common,
        /// Share of false discoveries that the penalty aims at.
        #[arg(long, default_value_t = 0.1)]
        q: f64,
        /// Factors that fall linearly from 1 to this one instead, which makes coefficients of correlated features equal.
        #[arg(long, value_name = "LAST", conflicts_with = "q")]
        oscar: Option<f64>,
    },
    /// Two classes of any name; coefficients speak for the second in their order (scikit-learn: LogisticRegression).
    Logistic {
        #[command(flatten)]
        options: Separable,
        #[command(flatten)]
        mixture: Mixture,
    },
    /// Two classes by a linear support vector machine with squared hinge (scikit-learn: LinearSVC).
    Svc {
        #[command(flatten)]
        options: Separable,
        #[command(flatten)]
        mixture: Mixture,
    },
    /// Counts (scikit-learn: PoissonRegressor, there without absolute values).
    Poisson {
        #[command(flatten)]
        options: Separable,
        #[command(flatten)]
        mixture: Mixture,
    },
    /// Positive amounts (scikit-learn: GammaRegressor, there without absolute values).
    Gamma {
        #[command(flatten)]
        options: Separable,
        #[command(flatten)]
        mixture: Mixture,
    },
    /// Squares that become straight lines for outliers (scikit-learn: HuberRegressor, there without absolute values).
    Huber {
        #[command(flatten)]
        options: Separable,
        #[command(flatten)]
        mixture: Mixture,
        /// Size of a residual, in units of the target, from which on it counts linearly.
        #[arg(long, default_value_t = 1.35)]
        delta: f64,
    },
    /// Whole groups of features in or out.
    GroupLasso {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        groups: Groups,
    },
    /// Whole groups of features in or out, and single features within the others.
    SparseGroupLasso {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        groups: Groups,
        /// Share of the absolute values in the penalty, the rest is the groups'.
        #[arg(long, default_value_t = 0.5)]
        tau: f64,
    },
    /// Squares with at most so many coefficients; what is alpha for others is the size here.
    BestSubset {
        #[command(flatten)]
        common: Common,
        /// The largest size tried; 0: rows / log(columns).
        #[arg(long, default_value_t = 0, value_name = "K")]
        max_size: usize,
    },
}

/// Options of models whose penalty is a sum over the coefficients.
#[derive(Args)]
pub(super) struct Separable {
    #[command(flatten)]
    common: Common,
    /// No coefficient below 0.
    #[arg(long)]
    positive: bool,
    /// Fit again without penalty on the features of every fit, and keep this part of the penalised one.
    #[arg(long, num_args = 0..=1, default_missing_value = "0", require_equals = true, value_name = "PART")]
    relaxed: Option<f64>,
    /// Divide the penalty of every feature by this power of its size in a first fit.
    #[arg(
        long,
        num_args = 0..=1,
        default_missing_value = "1",
        require_equals = true,
        value_name = "POWER",
        conflicts_with = "relaxed"
    )]
    adaptive: Option<f64>,
}

/// The penalty of models that have the lasso's by default.
#[derive(Args)]
pub(super) struct Mixture {
    /// Share of the absolute values in the penalty, the rest is squares.
    #[arg(long, default_value_t = 1.0)]
    pub(super) l1_ratio: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Power {
    #[value(name = "1/2")]
    Half,
    #[value(name = "2/3")]
    TwoThirds,
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Numbers,
    TwoClasses,
}

/// Sets what all estimators have.
macro_rules! with_common {
    ($estimator:expr, $common:expr) => {{
        let estimator =
            $estimator.fit_intercept(!$common.no_intercept).tol($common.tol).max_iter($common.max_iter);
        match $common.standardize {
            Some(standardize) => estimator.standardize(standardize),
            None => estimator,
        }
    }};
}
pub(super) use with_common;

/// Sets what estimators with separable penalties have.
macro_rules! separable {
    ($estimator:expr, $options:expr) => {
        $options.reweighted(with_common!($estimator, $options.common).positive($options.positive))
    };
}

impl Separable {
    fn reweighted<E: Reweighted + 'static>(&self, estimator: E) -> Box<dyn PathEstimator> {
        match (self.relaxed, self.adaptive) {
            (Some(part), _) => Box::new(Relaxed::new(estimator).blend(part)),
            (None, Some(power)) => Box::new(Adaptive::new(estimator).gamma(power)),
            (None, None) => Box::new(estimator),
        }
    }
}

impl Single {
    /// Name, kind of target and common options.
    pub(super) fn parts(&self) -> (&'static str, Kind, &Common) {
        match self {
            Self::Lasso { options, .. } => ("lasso", Kind::Numbers, &options.common),
            Self::ElasticNet { options, .. } => ("elastic-net", Kind::Numbers, &options.common),
            Self::SqrtLasso { options, .. } => ("sqrt-lasso", Kind::Numbers, &options.common),
            Self::Mcp { options, .. } => ("mcp", Kind::Numbers, &options.common),
            Self::Scad { options, .. } => ("scad", Kind::Numbers, &options.common),
            Self::Bridge { options, .. } => ("bridge", Kind::Numbers, &options.common),
            Self::LogSum { options, .. } => ("log-sum", Kind::Numbers, &options.common),
            Self::Slope { common, .. } => ("slope", Kind::Numbers, common),
            Self::Logistic { options, .. } => ("logistic", Kind::TwoClasses, &options.common),
            Self::Svc { options, .. } => ("svc", Kind::TwoClasses, &options.common),
            Self::Poisson { options, .. } => ("poisson", Kind::Numbers, &options.common),
            Self::Gamma { options, .. } => ("gamma", Kind::Numbers, &options.common),
            Self::Huber { options, .. } => ("huber", Kind::Numbers, &options.common),
            Self::GroupLasso { common, .. } => ("group-lasso", Kind::Numbers, common),
            Self::SparseGroupLasso { common, .. } => ("sparse-group-lasso", Kind::Numbers, common),
            Self::BestSubset { common, .. } => ("best-subset", Kind::Numbers, common),
        }
    }

    /// The estimator, for features of these names.
    pub(super) fn estimator(&self, names: &[String]) -> Result<Box<dyn PathEstimator>> {
        // The path sets the strength.
        const ANY: f64 = 1.0;
        Ok(match self {
            Self::Lasso { options } => separable!(Lasso::new(ANY), options),
            Self::ElasticNet { options, l1_ratio } => {
                separable!(ElasticNet::new(ANY).l1_ratio(*l1_ratio), options)
            }
            Self::SqrtLasso { options } => separable!(SqrtLasso::new(ANY), options),
            Self::Mcp { options, gamma } => separable!(McpRegression::new(ANY).gamma(*gamma), options),
            Self::Scad { options, shape } => separable!(ScadRegression::new(ANY).shape(*shape), options),
            Self::Bridge { options, exponent } => {
                let exponent = match exponent {
                    Power::Half => Exponent::Half,
                    Power::TwoThirds => Exponent::TwoThirds,
                };
                separable!(BridgeRegression::new(ANY).exponent(exponent), options)
            }
            Self::LogSum { options, epsilon } => {
                separable!(LogSumRegression::new(ANY).epsilon(*epsilon), options)
            }
            Self::Slope { common: c, q, oscar } => {
                let estimator = with_common!(Slope::new(ANY).quantiles(*q), c);
                Box::new(oscar.iter().fold(estimator, |e, last| e.oscar(*last)))
            }
            Self::Logistic { options, mixture: m } => {
                separable!(SparseLogisticRegression::new(ANY).l1_ratio(m.l1_ratio), options)
            }
            Self::Svc { options, mixture: m } => {
                separable!(LinearSvc::new(ANY).l1_ratio(m.l1_ratio), options)
            }
            Self::Poisson { options, mixture: m } => {
                separable!(PoissonRegression::new(ANY).l1_ratio(m.l1_ratio), options)
            }
            Self::Gamma { options, mixture: m } => {
                separable!(GammaRegression::new(ANY).l1_ratio(m.l1_ratio), options)
            }
            Self::Huber { options, mixture: m, delta } => {
                separable!(HuberRegression::new(ANY).delta(*delta).l1_ratio(m.l1_ratio), options)
            }
            Self::GroupLasso { common: c, groups } => {
                Box::new(groups.applied(names, |g| with_common!(GroupLasso::new(ANY, g), c))?)
            }
            Self::SparseGroupLasso { common: c, groups, tau } => {
                Box::new(groups.applied(names, |g| with_common!(GroupLasso::new(ANY, g), c).tau(*tau))?)
            }
            Self::BestSubset { common: c, max_size } => {
                let estimator = BestSubset::new().fit_intercept(!c.no_intercept);
                Box::new(if *max_size > 0 { estimator.max_size(*max_size) } else { estimator })
            }
        })
    }
}
