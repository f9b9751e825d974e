//! Records of acceptance experiments: what the paper claims against what was measured.

use serde::{Deserialize, Serialize};

/// The outcome of reproducing a system's claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every experiment met its bar.
    Reproduced,
    /// The direction of the claim holds; some bar was missed.
    Direction,
    /// The claim was not seen.
    Missed,
}

/// One measured claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Experiment {
    /// What is compared.
    pub name: String,
    /// The data it ran on.
    pub data: String,
    /// The metric, with its direction.
    pub metric: String,
    /// The bar or the paper's figure, in words.
    pub claimed: String,
    /// The measured value.
    pub measured: f64,
    /// Half the range over the seeds, 0 where one deterministic run decides.
    pub spread: f64,
    /// The baseline's value in the same run.
    pub baseline: f64,
    /// Whether the bar was met.
    pub passed: bool,
    /// The seeds used.
    pub seeds: Vec<u64>,
    /// Wall time of this experiment.
    pub seconds: f64,
}

/// The record of `sparseland reproduce SLUG`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reproduction {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// The experiments, hits and misses alike.
    pub experiments: Vec<Experiment>,
    /// The verdict over all of them.
    pub verdict: Verdict,
    /// What a reader should know: departures, causes of misses.
    pub notes: Vec<String>,
}

impl Reproduction {
    /// Derives the verdict from the experiments: all passed, more than half passed, or fewer.
    pub fn judge(experiments: &[Experiment]) -> Verdict {
        let passed = experiments.iter().filter(|e| e.passed).count();
        if passed == experiments.len() && passed > 0 {
            Verdict::Reproduced
        } else if 2 * passed > experiments.len() {
            Verdict::Direction
        } else {
            Verdict::Missed
        }
    }
}
