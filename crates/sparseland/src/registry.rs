//! The registry: every method once, read by `methods`, help texts and conformance tests.

use sparseland_core::{
    Allocation, Method, MethodCard, Need, Parameter, ParameterKind, Pattern, Status, When,
};

const BOTH: &[Allocation] = &[Allocation::Uniform, Allocation::Budgeted];

/// All methods, in the order of the README.
pub const METHODS: &[Method] = &[
    Method {
        slug: "rocket",
        family: "compress",
        title: "ROCKET: Rapid Optimization via Calibration-guided Knapsack Enhanced Truncation for \
                Efficient Model Compression",
        year: 2026,
        arxiv: Some("2602.11008"),
        status: Status::Ready,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::DictionarySparse,
            allocations: BOTH,
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: &["dense", "bitmask", "csr"],
            not_for: "less than about 10 % removed, or serving in large batches on a matrix unit",
        },
        parameters: &[
            Parameter {
                name: "importance",
                kind: ParameterKind::Real { min: 0.0, max: 1.0 },
                default: "0",
                source: "ours (official code: 0.5)",
                help: "weight of the whitening norms in the first selection of coefficients",
            },
            Parameter {
                name: "refill",
                kind: ParameterKind::Real { min: 0.0, max: 0.5 },
                default: "0.05",
                source: "ours (official code: 0.005)",
                help: "share of all coefficients re-activated globally",
            },
            Parameter {
                name: "ridge",
                kind: ParameterKind::Real { min: 0.0, max: 1.0 },
                default: "0.000001",
                source: "ours (official code: 0.001)",
                help: "ridge of the dictionary refit, relative to the mean squared coefficient energy",
            },
            Parameter {
                name: "refine-steps",
                kind: ParameterKind::Integer { min: 0, max: 10_000 },
                default: "0",
                source: "ours (official sample configuration: 100)",
                help: "Adam steps on both factors with the support fixed",
            },
            Parameter {
                name: "objective",
                kind: ParameterKind::Choice { of: &["squared-params", "paper"] },
                default: "squared-params",
                source: "ours (the paper's plain sum needs its cap to beat uniform)",
                help: "what the knapsack minimises",
            },
            Parameter {
                name: "error-space",
                kind: ParameterKind::Choice { of: &["weight", "output"] },
                default: "weight",
                source: "paper",
                help: "whether the knapsack looks at weight errors or calibration output errors",
            },
        ],
    },
    Method {
        slug: "svd-llm",
        family: "compress",
        title: "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
        year: 2024,
        arxiv: Some("2403.07378"),
        status: Status::Working,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::LowRank,
            allocations: BOTH,
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: &["dense"],
            not_for: "less than about 20 % removed; ROCKET contains it as the case k = s",
        },
        parameters: &[],
    },
    Method {
        slug: "svd",
        family: "compress",
        title: "The approximation of one matrix by another of lower rank",
        year: 1936,
        arxiv: None,
        status: Status::Working,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::LowRank,
            allocations: BOTH,
            needs: &[Need::Checkpoint],
            kernels: &["dense"],
            not_for: "anything but a baseline, where calibration text is at hand",
        },
        parameters: &[],
    },
    Method {
        slug: "sr-ste",
        family: "train",
        title: "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
        year: 2021,
        arxiv: Some("2102.04010"),
        status: Status::Ready,
        card: MethodCard {
            when: When::During,
            pattern: Pattern::NofM,
            allocations: &[Allocation::Uniform],
            needs: &[Need::Gradients],
            kernels: &["nofm"],
            not_for: "making training itself cheaper: the master and its gradient are dense",
        },
        parameters: &[
            Parameter {
                name: "n",
                kind: ParameterKind::Integer { min: 1, max: 256 },
                default: "2",
                source: "paper",
                help: "entries kept per group",
            },
            Parameter {
                name: "m",
                kind: ParameterKind::Integer { min: 1, max: 256 },
                default: "4",
                source: "paper",
                help: "consecutive inputs of a group",
            },
            Parameter {
                name: "lambda",
                kind: ParameterKind::Real { min: -1.0, max: 10.0 },
                default: "0.0002",
                source: "official code",
                help: "decay of the entries left out; 0 is the plain straight-through estimator",
            },
            Parameter {
                name: "decay-on",
                kind: ParameterKind::Choice { of: &["weight", "gradient"] },
                default: "weight",
                source: "ours with AdamW and Muon (official code, SGD: gradient)",
                help: "where the decay acts",
            },
            Parameter {
                name: "tail",
                kind: ParameterKind::Choice { of: &["error", "pad", "dense"] },
                default: "error",
                source: "ours (the official code lets groups straddle rows)",
                help: "what happens to inputs that fill no whole group",
            },
            Parameter {
                name: "refresh-every",
                kind: ParameterKind::Integer { min: 1, max: u64::MAX },
                default: "1",
                source: "official code",
                help: "steps between two choices of the mask",
            },
        ],
    },
    Method {
        slug: "sltrain",
        family: "train",
        title: "SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining",
        year: 2024,
        arxiv: Some("2406.02214"),
        status: Status::Ready,
        card: MethodCard {
            when: When::During,
            pattern: Pattern::LowRankPlusSparse,
            allocations: &[Allocation::Uniform],
            needs: &[Need::Gradients],
            kernels: &["dense", "csr"],
            not_for: "layers so small that the rank that keeps quality stores as much as the dense matrix",
        },
        parameters: &[
            Parameter {
                name: "rank",
                kind: ParameterKind::Integer { min: 1, max: 65_536 },
                default: "128",
                source: "paper (60 M parameters)",
                help: "rank of the low-rank part",
            },
            Parameter {
                name: "delta",
                kind: ParameterKind::Real { min: 0.0, max: 1.0 },
                default: "0.03",
                source: "paper",
                help: "share of the entries in the sparse part",
            },
            Parameter {
                name: "alpha",
                kind: ParameterKind::Real { min: 0.0, max: 1e6 },
                default: "32",
                source: "paper (60 M parameters)",
                help: "the low-rank part is scaled by alpha / rank",
            },
        ],
    },
    Method {
        slug: "low-rank",
        family: "train",
        title: "Plain low-rank weights, trained from scratch",
        year: 2013,
        arxiv: Some("1306.0543"),
        status: Status::Working,
        card: MethodCard {
            when: When::During,
            pattern: Pattern::LowRank,
            allocations: &[Allocation::Uniform],
            needs: &[Need::Gradients],
            kernels: &["dense"],
            not_for: "anything but a baseline: a few sparse entries more are worth their room",
        },
        parameters: &[Parameter {
            name: "rank",
            kind: ParameterKind::Integer { min: 1, max: 65_536 },
            default: "128",
            source: "as SLTrain",
            help: "the rank",
        }],
    },
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
    Method {
        slug: "high-dimensional",
        family: "estimate",
        title: "Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data",
        year: 2025,
        arxiv: Some("2410.10082"),
        status: Status::Ready,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "features that matter only together, which have no information one by one",
        },
        parameters: &[],
    },
    Method {
        slug: "random-supports",
        family: "estimate",
        title: "Sparse Linear Regression is Easy on Random Supports",
        year: 2025,
        arxiv: Some("2511.06211"),
        status: Status::Ready,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "well-conditioned designs, where the lasso is as good and fifteen times cheaper",
        },
        parameters: &[],
    },
    Method {
        slug: "stacking",
        family: "estimate",
        title: "Regularized Meta-Learning for Improved Generalization",
        year: 2026,
        arxiv: Some("2602.12469"),
        status: Status::Ready,
        card: MethodCard {
            when: When::Fit,
            pattern: Pattern::Coefficients,
            allocations: &[],
            needs: &[Need::Data],
            kernels: &[],
            not_for: "a handful of good models, whose mean is as good",
        },
        parameters: &[],
    },
];

/// The method of a slug.
pub fn find(slug: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.slug == slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_in_their_ranges_and_slugs_are_unique() {
        for (i, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..i].iter().all(|m| m.slug != method.slug));
            for p in method.parameters {
                match p.kind {
                    ParameterKind::Real { min, max } => {
                        let value: f64 = p.default.parse().unwrap();
                        assert!((min..=max).contains(&value), "{}", p.name);
                    }
                    ParameterKind::Integer { min, max } => {
                        let value: u64 = p.default.parse().unwrap();
                        assert!((min..=max).contains(&value), "{}", p.name);
                    }
                    ParameterKind::Choice { of } => assert!(of.contains(&p.default), "{}", p.name),
                }
            }
        }
    }
}
