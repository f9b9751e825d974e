//! The acceptance experiments of FWSVD that need no labels.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::Mat;

use super::{Axis, Fisher, Fwsvd, WeightedSvd};
use crate::CompressError;
use crate::experiments::{Folders, LanguageModel, Record, Row, gaussian};
use crate::methods::asvd::Asvd;
use crate::methods::svd::PlainSvd;
use crate::methods::svd_llm::SvdLlm;
use crate::problem::LayerMethod;

/// What `experiments/fwsvd.toml` holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the planted weights.
    pub seeds: Vec<u64>,
    /// Side of the planted weights.
    pub side: usize,
    /// Language models.
    pub model: Vec<LanguageModel>,
}

/// All experiments for which there are data; `report` receives each as soon as it is done.
///
/// # Errors
/// Whatever a run returns.
pub fn run(
    config: &Config,
    folders: &Folders,
    context: &Context,
    report: &mut (dyn FnMut(&Experiment) + Send),
) -> Result<Vec<Experiment>, CompressError> {
    let mut record = Record::new(report);
    context.install(|| mismatch(config, &mut record))?;
    for model in &config.model {
        honesty(model, folders, context, &mut record)?;
    }
    Ok(record.rows)
}

/// The paper's observation in closed form: smaller weighted error, larger plain error, at every rank.
fn mismatch(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let (n, mut shares, mut gains) = (config.side, Vec::new(), Vec::new());
    for &seed in &config.seeds {
        let mut rng = Pcg64::seed_from_u64(seed);
        let w = gaussian(&mut rng, n, n);
        let f: Vec<f64> = (0..n).map(|_| 10f64.powf(4.0 * rng.random::<f64>())).collect();
        let ours = WeightedSvd::new(&w, f.iter().map(|f| f.sqrt()).collect(), vec![1.0; n])?;
        let plain = WeightedSvd::new(&w, vec![1.0; n], vec![1.0; n])?;
        let loss = |a: &Mat<f64>, weight: &dyn Fn(usize) -> f64| -> f64 {
            let row = |i: usize| w.row(i).iter().zip(a.row(i)).map(|(w, a)| (w - a) * (w - a)).sum::<f64>();
            (0..n).map(|i| weight(i) * row(i)).sum()
        };
        let mut both = 0;
        for k in 1..n {
            let (a, b) = (ours.approximation(k), plain.approximation(k));
            let weighted = [loss(&a, &|i| f[i]), loss(&b, &|i| f[i])];
            let flat = [loss(&a, &|_| 1.0), loss(&b, &|_| 1.0)];
            both += usize::from(weighted[0] < weighted[1] && flat[1] < flat[0]);
            if k == n / 4 {
                gains.push(weighted[0] / weighted[1]);
            }
        }
        shares.push(both as f64 / (n - 1) as f64);
    }
    record.add(Row {
        name: "smaller weighted and larger plain error than SVD".into(),
        data: &format!("random {n} x {n}, importances over 4 decades"),
        metric: "share of ranks where both hold; baseline: weighted loss over SVD's at a quarter of the ranks",
        claimed: "1: every rank".into(),
        measured: &shares,
        baseline: crate::experiments::mean(&gains),
        passed: shares.iter().all(|&s| s == 1.0),
        seeds: &config.seeds,
    });
    Ok(())
}

/// Language models, where FWSVD is not the right tool: plain SVD, FWSVD and ASVD, whitened SVD.
fn honesty(
    model: &LanguageModel,
    folders: &Folders,
    context: &Context,
    record: &mut Record<'_>,
) -> Result<(), CompressError> {
    let Some(opened) = model.open(folders, context)? else { return Ok(()) };
    let fisher = Fisher::measure(&opened.checkpoint, &opened.calibration, Axis::Kronecker, context)?;
    let dense = opened.dense_bits(context)?;
    for &remove in &model.remove {
        let bits = |method: &dyn LayerMethod| opened.compressed_bits(method, remove, folders, context);
        let plain = bits(&PlainSvd)?;
        let mut row = |name: &str, measured: f64, claimed: String, baseline: f64| {
            record.add(Row {
                name: format!("{name}, {:.0} % removed", 100.0 * remove),
                data: &model.name,
                metric: "bits per byte, lower is better",
                claimed,
                measured: &[measured],
                baseline,
                passed: measured < baseline,
                seeds: &[context.seed()],
            });
        };
        let weighted = |axis: Axis| bits(&Fwsvd { fisher: fisher.clone(), axis });
        let ours = weighted(Axis::Input)?;
        row("FWSVD by inputs", ours, format!("below plain SVD, dense {dense:.4}"), plain);
        let activations = bits(&Asvd::default())?;
        row("ASVD", activations, "below plain SVD".into(), plain);
        let whitened = bits(&SvdLlm::default())?;
        row("whitened SVD", whitened, "below FWSVD and ASVD".into(), ours.min(activations));
        row(
            "FWSVD by inputs and outputs (ours)",
            weighted(Axis::Both)?,
            "below FWSVD by inputs".into(),
            ours,
        );
        row("FWSVD, kronecker", weighted(Axis::Kronecker)?, "below whitened SVD".into(), whitened);
    }
    Ok(())
}
