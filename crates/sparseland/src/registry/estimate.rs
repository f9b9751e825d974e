//! Sparse estimation.

use sparseland_core::{Method, MethodCard, Need, Pattern, Status, When};

pub const METHODS: &[Method] = &[
    Method {
        slug: "colide",
        family: "estimate",
        title: "CoLiDE: Concomitant Linear DAG Estimation",
        year: 2024,
        arxiv: Some("2310.02895"),
        status: Status::Working,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Graph,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "standardised data, which hide the order of variances that such methods read",
        },
        parameters: &[],
    },
    Method {
        slug: "kron-sbl",
        family: "estimate",
        title: "Bayesian Algorithms for Kronecker-structured Sparse Vector Recovery With Application to IRS-MIMO Channel Estimation",
        year: 2024,
        arxiv: Some("2307.14719"),
        status: Status::Working,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "supports that are no products: classical sparse Bayesian learning assumes less",
        },
        parameters: &[],
    },
    Method {
        slug: "ldp-regression",
        family: "estimate",
        title: "Improved Analysis of Sparse Linear Regression in Local Differential Privacy Model",
        year: 2024,
        arxiv: Some("2310.07367"),
        status: Status::Working,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "few users: below the sizes its warning names, zero is the better estimate",
        },
        parameters: &[],
    },
    Method {
        slug: "bcd",
        family: "estimate",
        title: "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, \
                Active-Set Complexity, and Superlinear Convergence",
        year: 2022,
        arxiv: Some("1712.08859"),
        status: Status::Working,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "plain lasso paths, for which the working-set solver is faster",
        },
        parameters: &[],
    },
];
