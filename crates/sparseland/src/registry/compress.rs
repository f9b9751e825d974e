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
