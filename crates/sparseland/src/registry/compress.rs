//! Compression of trained networks.

use sparseland_core::{
    Allocation, Method, MethodCard, Need, Parameter, ParameterKind, Pattern, Status, When,
};

const BOTH: &[Allocation] = &[Allocation::Uniform, Allocation::Budgeted];

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
        ],
    },
    Method {
        slug: "r-sparse",
        family: "compress",
        title: "R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM Inference",
        year: 2025,
        arxiv: Some("2504.19449"),
        status: Status::Ready,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::Activations,
            allocations: &[Allocation::Uniform],
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: &["dense by columns"],
            not_for: "smaller files, prompts and batches, or weights that fit the last cache",
        },
        parameters: &[
            Parameter {
                name: "alpha",
                kind: ParameterKind::Real { min: 0.0, max: 1.0 },
                default: "0.95",
                source: "paper",
                help: "share of the multiply-adds spent on exact inputs, the rest on the low-rank path",
            },
            Parameter {
                name: "search",
                kind: ParameterKind::Choice { of: &["no", "yes"] },
                default: "no",
                source: "ours (paper: evolution over 16 samples)",
                help: "find every layer's own alpha on the calibration text",
            },
            Parameter {
                name: "score",
                kind: ParameterKind::Choice { of: &["norms", "magnitude"] },
                default: "norms",
                source: "paper",
                help: "whether column norms weigh the inputs",
            },
            Parameter {
                name: "tokens",
                kind: ParameterKind::Choice { of: &["all", "decoded"] },
                default: "all",
                source: "ours (paper: prompts dense)",
                help: "whether prompts and scored texts are sparse, too",
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
];
