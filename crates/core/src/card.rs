//! The registry's entries: what a method is, what it needs and which parameters it takes.

use serde::Serialize;

/// When in a network's life a method acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Before training.
    Before,
    /// During training.
    During,
    /// After training.
    After,
    /// A model is fitted to data; there is no network.
    Fit,
}

/// The structure that a method produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Single weights anywhere.
    Unstructured,
    /// At most N of every M consecutive weights.
    NofM,
    /// Products of thin dense factors.
    LowRank,
    /// A dense dictionary times sparse coefficients.
    DictionarySparse,
    /// A low-rank matrix plus a sparse one.
    LowRankPlusSparse,
    /// Weights stay; inputs are skipped token by token.
    Activations,
    /// Few non-zero coefficients of a model.
    Coefficients,
    /// A sparse graph.
    Graph,
}

/// How the budget is spread over the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// The same fraction for every layer.
    Uniform,
    /// Chosen per layer under one global budget by a cost.
    Budgeted,
}

/// What a method needs besides the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// A trained checkpoint.
    Checkpoint,
    /// Unlabelled calibration inputs.
    Calibration,
    /// Labels.
    Labels,
    /// Gradients.
    Gradients,
    /// Further training.
    Retraining,
    /// A table of data.
    Data,
}

/// How far an implementation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Complete, with its acceptance experiment recorded.
    Ready,
    /// Usable, acceptance experiment not recorded.
    Working,
}

/// The taxonomy of a method: the facts by which two methods may or may not be compared.
#[derive(Debug, Clone, Serialize)]
pub struct MethodCard {
    /// When it acts.
    pub when: When,
    /// The structure it produces.
    pub pattern: Pattern,
    /// The allocations it can be combined with.
    pub allocations: &'static [Allocation],
    /// What it needs.
    pub needs: &'static [Need],
    /// The matrix kinds whose kernels run its result.
    pub kernels: &'static [&'static str],
    /// In one sentence: when not to use it.
    pub not_for: &'static str,
}

/// The type and range of a parameter, for help texts and checks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum ParameterKind {
    /// A real number in the closed range.
    Real {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// A whole number in the closed range.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// One of a list of words.
    Choice {
        /// The words.
        of: &'static [&'static str],
    },
    /// The path of a file; empty for none.
    File,
}

/// One parameter of a method.
#[derive(Debug, Clone, Serialize)]
pub struct Parameter {
    /// Name, kebab-case, as on the command line.
    pub name: &'static str,
    /// Type and range.
    pub kind: ParameterKind,
    /// The default, as text.
    pub default: &'static str,
    /// Where the default comes from: paper, official code, ours.
    pub source: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// One entry of the registry.
#[derive(Debug, Clone, Serialize)]
pub struct Method {
    /// The name by which commands know it.
    pub slug: &'static str,
    /// The family crate that implements it.
    pub family: &'static str,
    /// The paper's title.
    pub title: &'static str,
    /// The paper's year.
    pub year: u16,
    /// The arXiv identifier, where there is one.
    pub arxiv: Option<&'static str>,
    /// How far the implementation is.
    pub status: Status,
    /// The taxonomy.
    pub card: MethodCard,
    /// The parameters.
    pub parameters: &'static [Parameter],
}
