//! The lasso family: what `fit` knows by name. Titles end with scikit-learn's classes.

use sparseland_core::{Method, Parameter};

use super::estimate::{choice, count, fitted, real};

const YES_NO: &[&str] = &["true", "false"];
const SKLEARN: &str = "scikit-learn";

const POSITIVE: Parameter = choice("positive", YES_NO, "false", SKLEARN, "no coefficient below 0 (positive)");
const L1_RATIO: Parameter =
    real("l1-ratio", 1.0, "1", "ours", "share of the absolute values in the penalty (l1_ratio)");
const STANDARDIZE: Parameter = choice(
    "standardize",
    YES_NO,
    "false",
    SKLEARN,
    "penalise columns of unit deviation (a StandardScaler before the model); coefficients are those of X",
);
const CV: Parameter = count("cv", 0, "5", SKLEARN, "folds of cross-validation (cv)");
const SELECT: Parameter = choice(
    "select",
    &["min", "1se", "aic", "bic", "ebic"],
    "min",
    SKLEARN,
    "which fit of the path is kept; 1se is glmnet's rule, aic and bic are LassoLarsIC's",
);
const ALPHAS: Parameter = count("alphas", 1, "100", SKLEARN, "strengths on the path (n_alphas)");
const INTERCEPT: Parameter =
    choice("no-intercept", YES_NO, "false", SKLEARN, "fit no intercept (fit_intercept=False)");
const TOL: Parameter = real("tol", 1.0, "1e-6", "ours", "relative accuracy of the solver (tol)");
const MAX_ITER: Parameter = count("max-iter", 1, "100000", "ours", "most sweeps of the solver (max_iter)");
const BY_SIZE: Parameter =
    choice("weights-by-size", YES_NO, "false", "ours", "weigh groups by the root of their size");

/// A model's own parameters, then those of all.
macro_rules! parameters {
    ($($own:expr),* $(,)?) => {
        &[$($own,)* CV, SELECT, ALPHAS, INTERCEPT, TOL, MAX_ITER]
    };
}

/// Standardised by default, as in ncvreg.
const CONCAVE: Parameter = Parameter { default: "true", source: "ncvreg", ..STANDARDIZE };

pub const METHODS: &[Method] = &[
    fitted(
        "lasso",
        "Regression Shrinkage and Selection via the Lasso (scikit-learn: Lasso, LassoCV)",
        1996,
        None,
        "estimates of large coefficients, which it shrinks (mcp, best-subset); groups of correlated features, of which \
         it picks one at will (elastic-net)",
        parameters![POSITIVE, STANDARDIZE],
    ),
    fitted(
        "elastic-net",
        "Regularization and Variable Selection via the Elastic Net (scikit-learn: ElasticNet, ElasticNetCV)",
        2005,
        None,
        "few, weakly correlated true features, where its squares only add bias",
        parameters![Parameter { default: "0.5", source: SKLEARN, ..L1_RATIO }, POSITIVE, STANDARDIZE],
    ),
    fitted(
        "mcp",
        "Nearly Unbiased Variable Selection Under Minimax Concave Penalty",
        2010,
        Some("1002.4734"),
        "prediction alone when many small effects matter: the lasso is easier to tune and its optimum is unique",
        parameters![real("gamma", f64::MAX, "3", "ncvreg", "how far the penalty reaches, above 1"), CONCAVE],
    ),
    fitted(
        "scad",
        "Variable Selection via Nonconcave Penalized Likelihood and its Oracle Properties",
        2001,
        None,
        "what mcp does: it reaches no shrinkage earlier and is usually sparser",
        parameters![real("shape", f64::MAX, "3.7", "paper", "the paper's a, above 2"), CONCAVE],
    ),
    fitted(
        "logistic",
        "Regularization Paths for Generalized Linear Models via Coordinate Descent: two classes (scikit-learn: \
         LogisticRegression, LogisticRegressionCV; C = 1 / (n alpha))",
        2010,
        None,
        "separable classes with a tiny alpha, where coefficients grow without much use",
        parameters![L1_RATIO, POSITIVE, STANDARDIZE],
    ),
    fitted(
        "poisson",
        "Regularization Paths for Generalized Linear Models via Coordinate Descent: counts (scikit-learn: \
         PoissonRegressor, there with squares alone)",
        2010,
        None,
        "counts whose variance is far above their mean, if errors of coefficients matter: the means are right",
        parameters![L1_RATIO, POSITIVE, STANDARDIZE],
    ),
    fitted(
        "huber",
        "Robust Estimation of a Location Parameter (scikit-learn: HuberRegressor, there with squares alone)",
        1964,
        None,
        "targets of unknown scale: delta is in their unit; outliers in features, against which it does not help",
        parameters![
            real(
                "delta",
                f64::MAX,
                "1.35",
                SKLEARN,
                "residual from which on the loss is linear (epsilon, unscaled)"
            ),
            L1_RATIO,
            STANDARDIZE,
        ],
    ),
    fitted(
        "group-lasso",
        "Model Selection and Estimation in Regression with Grouped Variables",
        2006,
        None,
        "overlapping groups, which it refuses; groups of one feature, where lasso is much faster",
        parameters![BY_SIZE, STANDARDIZE],
    ),
    fitted(
        "sparse-group-lasso",
        "A Sparse-Group Lasso",
        2013,
        None,
        "groups that are wholly in or out, where tau only costs accuracy; overlapping groups, which it refuses",
        parameters![
            real("tau", 1.0, "0.5", "ours", "share of the absolute values in the penalty"),
            BY_SIZE,
            STANDARDIZE
        ],
    ),
    fitted(
        "multitask-lasso",
        "Joint covariate selection and joint subspace selection for multiple classification problems (scikit-learn: \
         MultiTaskLasso, MultiTaskLassoCV)",
        2010,
        None,
        "targets that do not share features: fit lasso for each",
        parameters![STANDARDIZE],
    ),
    fitted(
        "best-subset",
        "A polynomial algorithm for best-subset selection problem",
        2020,
        None,
        "many small effects or little signal, where unshrunk coefficients overfit; sizes in the hundreds, which get slow",
        &[
            count("max-size", 0, "0", "paper", "the largest size tried; 0: rows / log(columns)"),
            CV,
            SELECT,
            INTERCEPT,
        ],
    ),
    fitted(
        "sqrt-lasso",
        "Square-root lasso: pivotal recovery of sparse signals via conic programming",
        2011,
        None,
        "prediction alone, where cross-validation of lasso chooses better; targets that are nearly explained",
        parameters![POSITIVE, STANDARDIZE],
    ),
    fitted(
        "slope",
        "SLOPE: adaptive variable selection via convex optimization",
        2015,
        None,
        "what lasso does as well: it is ten to a hundred times faster",
        parameters![
            real("q", 1.0, "0.1", "paper", "share of false discoveries the penalty aims at"),
            STANDARDIZE
        ],
    ),
    fitted(
        "multinomial",
        "Regularization Paths for Generalized Linear Models via Coordinate Descent: several classes (scikit-learn: \
         LogisticRegression)",
        2010,
        None,
        "two classes, for which logistic has half the coefficients; hundreds of classes",
        parameters![STANDARDIZE],
    ),
    fitted(
        "cox",
        "Regularization Paths for Cox's Proportional Hazards Model via Coordinate Descent",
        2011,
        None,
        "hazards that cross; left truncation or features that change over time",
        &[L1_RATIO, STANDARDIZE, CV, ALPHAS, TOL, MAX_ITER],
    ),
];
