//! The models of one target.

use anyhow::Result;
use clap::Subcommand;
use sparseland_estimate::estimators::{
    ElasticNet, GroupLasso, HuberRegression, Lasso, McpRegression, PoissonRegression, ScadRegression,
    SparseLogisticRegression,
};
use sparseland_estimate::path::PathEstimator;
use sparseland_estimate::subset::BestSubset;

use super::Common;
use super::groups::Groups;

/// A new model of one target takes a variant, a line in [`Single::parts`] and one in [`Single::estimator`].
#[derive(Subcommand)]
pub(super) enum Single {
    /// Squares and absolute values (scikit-learn: Lasso, LassoCV).
    Lasso {
        #[command(flatten)]
        common: Common,
        /// No coefficient below 0.
        #[arg(long)]
        positive: bool,
    },
    /// Squares, absolute values and their squares (scikit-learn: ElasticNet, ElasticNetCV).
    ElasticNet {
        #[command(flatten)]
        common: Common,
        /// Share of the absolute values in the penalty.
        #[arg(long, default_value_t = 0.5)]
        l1_ratio: f64,
        /// No coefficient below 0.
        #[arg(long)]
        positive: bool,
    },
    /// Squares and the minimax concave penalty.
    Mcp {
        #[command(flatten)]
        common: Common,
        /// How far the penalty reaches, in units of alpha.
        #[arg(long, default_value_t = 3.0)]
        gamma: f64,
    },
    /// Squares and the smoothly clipped absolute deviation.
    Scad {
        #[command(flatten)]
        common: Common,
        /// The paper's a: how far the penalty reaches, in units of alpha.
        #[arg(long, default_value_t = 3.7)]
        shape: f64,
    },
    /// Two classes of any name; coefficients speak for the second in their order (scikit-learn: LogisticRegression).
    Logistic {
        #[command(flatten)]
        common: Common,
        /// Share of the absolute values in the penalty.
        #[arg(long, default_value_t = 1.0)]
        l1_ratio: f64,
        /// No coefficient below 0.
        #[arg(long)]
        positive: bool,
    },
    /// Counts (scikit-learn: PoissonRegressor, there without absolute values).
    Poisson {
        #[command(flatten)]
        common: Common,
        /// Share of the absolute values in the penalty.
        #[arg(long, default_value_t = 1.0)]
        l1_ratio: f64,
        /// No coefficient below 0.
        #[arg(long)]
        positive: bool,
    },
    /// Squares that become straight lines for outliers (scikit-learn: HuberRegressor, there without absolute values).
    Huber {
        #[command(flatten)]
        common: Common,
        /// Size of a residual, in units of the target, from which on it counts linearly.
        #[arg(long, default_value_t = 1.35)]
        delta: f64,
        /// Share of the absolute values in the penalty.
        #[arg(long, default_value_t = 1.0)]
        l1_ratio: f64,
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

impl Single {
    /// Name, kind of target and common options.
    pub(super) fn parts(&self) -> (&'static str, Kind, &Common) {
        match self {
            Self::Lasso { common, .. } => ("lasso", Kind::Numbers, common),
            Self::ElasticNet { common, .. } => ("elastic-net", Kind::Numbers, common),
            Self::Mcp { common, .. } => ("mcp", Kind::Numbers, common),
            Self::Scad { common, .. } => ("scad", Kind::Numbers, common),
            Self::Logistic { common, .. } => ("logistic", Kind::TwoClasses, common),
            Self::Poisson { common, .. } => ("poisson", Kind::Numbers, common),
            Self::Huber { common, .. } => ("huber", Kind::Numbers, common),
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
            Self::Lasso { common: c, positive } => {
                Box::new(with_common!(Lasso::new(ANY), c).positive(*positive))
            }
            Self::ElasticNet { common: c, l1_ratio, positive } => {
                Box::new(with_common!(ElasticNet::new(ANY), c).l1_ratio(*l1_ratio).positive(*positive))
            }
            Self::Mcp { common: c, gamma } => {
                Box::new(with_common!(McpRegression::new(ANY), c).gamma(*gamma))
            }
            Self::Scad { common: c, shape } => {
                Box::new(with_common!(ScadRegression::new(ANY), c).shape(*shape))
            }
            Self::Logistic { common: c, l1_ratio, positive } => {
                let estimator = with_common!(SparseLogisticRegression::new(ANY), c);
                Box::new(estimator.l1_ratio(*l1_ratio).positive(*positive))
            }
            Self::Poisson { common: c, l1_ratio, positive } => {
                Box::new(with_common!(PoissonRegression::new(ANY), c).l1_ratio(*l1_ratio).positive(*positive))
            }
            Self::Huber { common: c, delta, l1_ratio } => {
                Box::new(with_common!(HuberRegression::new(ANY), c).delta(*delta).l1_ratio(*l1_ratio))
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
