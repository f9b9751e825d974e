//! Systems of sparse estimation; the lasso family stands in `estimators.rs`.

use sparseland_core::{Method, MethodCard, Need, Parameter, ParameterKind, Pattern, Status, When};

/// A method that is fitted to a table and gives coefficients.
pub(super) const fn fitted(
    slug: &'static str,
    title: &'static str,
    year: u16,
    arxiv: Option<&'static str>,
    not_for: &'static str,
    parameters: &'static [Parameter],
) -> Method {
    Method {
        slug,
        family: "estimate",
        title,
        year,
        arxiv,
        status: Status::Ready,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for,
        },
        parameters,
    }
}

/// The same while its acceptance experiment is not recorded.
const fn working(method: Method) -> Method {
    Method { status: Status::Working, ..method }
}

/// A real number from 0 on.
pub(super) const fn real(
    name: &'static str,
    max: f64,
    default: &'static str,
    source: &'static str,
    help: &'static str,
) -> Parameter {
    Parameter { name, kind: ParameterKind::Real { min: 0.0, max }, default, source, help }
}

/// A whole number.
pub(super) const fn count(
    name: &'static str,
    min: u64,
    default: &'static str,
    source: &'static str,
    help: &'static str,
) -> Parameter {
    Parameter { name, kind: ParameterKind::Integer { min, max: 1 << 32 }, default, source, help }
}

/// One of some words.
pub(super) const fn choice(
    name: &'static str,
    of: &'static [&'static str],
    default: &'static str,
    source: &'static str,
    help: &'static str,
) -> Parameter {
    Parameter { name, kind: ParameterKind::Choice { of }, default, source, help }
}

const COLIDE: Method = fitted(
    "colide",
    "CoLiDE: Concomitant Linear DAG Estimation",
    2024,
    Some("2310.02895"),
    "standardised data, which hide the order of variances that such methods read",
    &[
        real(
            "lambda",
            f64::MAX,
            "0.05",
            "paper",
            "strength of the penalty; auto takes 0.914 sqrt(log d / n)",
        ),
        real("threshold", f64::MAX, "0.3", "paper", "weights up to this size are no edges"),
        choice("optimizer", &["paper", "fast"], "paper", "paper", "Adam, or ten times the rate and a polish"),
    ],
);

pub const METHODS: &[Method] = &[
    Method { card: MethodCard { pattern: Pattern::Graph, ..COLIDE.card }, ..working(COLIDE) },
    working(fitted(
        "kron-sbl",
        "Bayesian Algorithms for Kronecker-structured Sparse Vector Recovery With Application to IRS-MIMO Channel \
         Estimation",
        2024,
        Some("2307.14719"),
        "supports that are no products: classical sparse Bayesian learning assumes less",
        &[],
    )),
    working(fitted(
        "ldp-regression",
        "Improved Analysis of Sparse Linear Regression in Local Differential Privacy Model",
        2024,
        Some("2310.07367"),
        "few users: below the sizes its warning names, zero is the better estimate",
        &[],
    )),
    working(fitted(
        "bcd",
        "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, Active-Set \
         Complexity, and Superlinear Convergence",
        2022,
        Some("1712.08859"),
        "plain lasso paths, for which the working-set solver is faster",
        &[],
    )),
    fitted(
        "high-dimensional",
        "Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data",
        2025,
        Some("2410.10082"),
        "features that matter only together, which have no information one by one",
        &[],
    ),
    fitted(
        "random-supports",
        "Sparse Linear Regression is Easy on Random Supports",
        2025,
        Some("2511.06211"),
        "well-conditioned designs, where the lasso is as good and fifteen times cheaper",
        &[],
    ),
    fitted(
        "stacking",
        "Regularized Meta-Learning for Improved Generalization",
        2026,
        Some("2602.12469"),
        "a handful of good models, whose mean is as good",
        &[
            real("tau-corr", 1.0, "0.95", "paper", "correlation from which models are redundant"),
            real("tau-mse", f64::MAX, "0.01", "paper", "mean squared difference up to which they are"),
            real("tau-var", f64::MAX, "0.01", "paper", "least variance of a model"),
            choice("joint", &["and", "or"], "and", "paper", "redundant if both conditions hold, or one"),
            count("folds", 2, "10", "paper", "outer folds"),
            count("inner-folds", 2, "3", "paper", "inner folds, for the strengths of the meta-learners"),
        ],
    ),
    fitted(
        "a-mtrl",
        "Improved Active Multi-Task Representation Learning via Lasso",
        2023,
        Some("2306.02556"),
        "targets with enough samples of their own, or tasks that are all alike",
        &[],
    ),
];
