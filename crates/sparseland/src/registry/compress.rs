//! Compression of trained networks.

use sparseland_core::{
    Allocation, Method, MethodCard, Need, Parameter, ParameterKind, Pattern, Status, When,
};

const BOTH: &[Allocation] = &[Allocation::Uniform, Allocation::Budgeted];

const MASK_KERNELS: &[&str] = &["bitmask", "csr", "n-of-m"];

const PATTERN: Parameter = Parameter {
    name: "pattern",
    kind: ParameterKind::Choice {
        of: &[
            "unstructured",
            "1:2",
            "1:4",
            "2:4",
            "3:4",
            "1:8",
            "2:8",
            "4:8",
            "1:16",
            "2:16",
            "4:16",
            "8:16",
        ],
    },
    default: "unstructured",
    source: "paper",
    help: "where zeros may stand; N:M keeps N of every M inputs and needs --remove 1 - N/M",
};

const fn scope(default: &'static str, source: &'static str) -> Parameter {
    Parameter {
        name: "scope",
        kind: ParameterKind::Choice { of: &["row", "layer"] },
        default,
        source,
        help: "which weights compete: those of one output, or all of the layer (better on small models)",
    }
}

const BLOCK: Parameter = Parameter {
    name: "block",
    kind: ParameterKind::Integer { min: 1, max: 1 << 20 },
    default: "128",
    source: "paper",
    help: "columns whose mask is chosen at once",
};

const DAMPENING: Parameter = Parameter {
    name: "dampening",
    kind: ParameterKind::Real { min: 0.0, max: 10.0 },
    default: "0.01",
    source: "paper",
    help: "what is added to the diagonal of the Hessian, relative to its mean",
};

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
    Method {
        slug: "magnitude",
        family: "compress",
        title: "Learning both Weights and Connections for Efficient Neural Networks",
        year: 2015,
        arxiv: Some("1506.02626"),
        status: Status::Working,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::Unstructured,
            allocations: BOTH,
            needs: &[Need::Checkpoint],
            kernels: MASK_KERNELS,
            not_for: "anything but a baseline, where calibration text is at hand",
        },
        parameters: &[PATTERN, scope("layer", "official code of Wanda")],
    },
    Method {
        slug: "wanda",
        family: "compress",
        title: "A Simple and Effective Pruning Approach for Large Language Models",
        year: 2023,
        arxiv: Some("2306.11695"),
        status: Status::Working,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::Unstructured,
            allocations: BOTH,
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: MASK_KERNELS,
            not_for: "more than about half removed, where SparseGPT is better; on models of a few million \
                      weights the paper's scope row is often worse than layer",
        },
        parameters: &[PATTERN, scope("row", "paper")],
    },
    Method {
        slug: "sparsegpt",
        family: "compress",
        title: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        year: 2023,
        arxiv: Some("2301.00774"),
        status: Status::Working,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::Unstructured,
            allocations: BOTH,
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: MASK_KERNELS,
            not_for: "fewer calibration tokens than about four per input, or kept weights that must not change",
        },
        parameters: &[PATTERN, scope("layer", "paper (block by block)"), BLOCK, DAMPENING],
    },
    Method {
        slug: "dsnot",
        family: "compress",
        title: "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs",
        year: 2023,
        arxiv: Some("2310.08915"),
        status: Status::Ready,
        card: MethodCard {
            when: When::After,
            pattern: Pattern::Unstructured,
            allocations: BOTH,
            needs: &[Need::Checkpoint, Need::Calibration],
            kernels: MASK_KERNELS,
            not_for: "networks whose inputs have weak means (small ones): there is little to gain, and many \
                      cycles do damage",
        },
        parameters: &[
            Parameter {
                name: "start",
                kind: ParameterKind::Choice { of: &["wanda", "magnitude", "sparsegpt"] },
                default: "wanda",
                source: "official code",
                help: "the method that makes the starting mask",
            },
            PATTERN,
            scope("row", "paper"),
            BLOCK,
            DAMPENING,
            Parameter {
                name: "max-cycles",
                kind: ParameterKind::Integer { min: 0, max: 1 << 20 },
                default: "50",
                source: "paper",
                help: "the most swaps per row",
            },
            Parameter {
                name: "cycle-share",
                kind: ParameterKind::Real { min: 0.0, max: 1.0 },
                default: "0.012",
                source: "ours (paper: none, that is 1)",
                help: "the most swaps per row as a share of its inputs",
            },
            Parameter {
                name: "threshold",
                kind: ParameterKind::Real { min: 0.0, max: 1e9 },
                default: "0.1",
                source: "paper",
                help: "a row ends when its expected output is that close to the dense one",
            },
            Parameter {
                name: "var-power",
                kind: ParameterKind::Real { min: 0.0, max: 8.0 },
                default: "1",
                source: "paper",
                help: "power of the input variance in the ranking of what grows",
            },
            Parameter {
                name: "sign-stop",
                kind: ParameterKind::Choice { of: &["false", "true"] },
                default: "false",
                source: "official code",
                help: "whether unstructured rows end when their error changes sign",
            },
            Parameter {
                name: "guard",
                kind: ParameterKind::Choice { of: &["off", "0", "0.001", "0.01", "0.1"] },
                default: "off",
                source: "ours",
                help: "the most by which swaps may let what varies in a row's output error grow, relative",
            },
            Parameter {
                name: "unit",
                kind: ParameterKind::Choice { of: &["token", "sequence"] },
                default: "token",
                source: "ours (official code: sequence)",
                help: "whether input means, and with them the threshold, count per token or per sequence",
            },
            Parameter {
                name: "skip",
                kind: ParameterKind::Choice { of: &["nothing", "mlp", "attention"] },
                default: "nothing",
                source: "ours (official code: mlp)",
                help: "layers that keep their starting mask",
            },
        ],
    },
];
