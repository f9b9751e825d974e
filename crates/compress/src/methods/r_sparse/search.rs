//! The search of the split: coordinate descent on the loss of calibration text that gives no thresholds.

use std::sync::Arc;

use rayon::prelude::*;
use sparseland_core::{Context, Event};
use sparseland_data::Checkpoint;
use sparseland_nn::{Block, Decoder, InputSelection, LinearSite, Workspace, states_nll};

use super::{Alphas, FEWEST_INPUTS, PreparedLayer, RSparse, SAMPLE_ROWS, Split, install};
use crate::CompressError;
use crate::calibrate::{Calibration, Stream};
use crate::problem::Needs;

/// Shares that are tried.
const GRID: [f64; 9] = [1.0, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2];

/// The most calibration sequences that a trial is scored on.
const SEQUENCES: usize = 16;

/// Of so many calibration sequences one is for scoring.
const HELD_OUT: usize = 4;

/// A change is kept if the mean gain over sequences exceeds so many of its standard errors: dozens of trials on little
/// text find some gain by chance.
const CERTAINTY: f64 = 2.0;

/// Which layers have a share of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freedom {
    /// None: one common share.
    Common,
    /// The seven kinds of layers of a block.
    Kinds,
    /// Every layer.
    Layers,
}

/// Finds the shares: the best common one of a grid first, then kind by kind or layer by layer its neighbours, kept where
/// the loss falls by more than chance.
///
/// A quarter of the calibration text scores, the rest gives thresholds: those of the dense network's inputs for the
/// common share, then those of the network with that share. The final thresholds are taken afresh. Holds the
/// whole model, its layers' samples and their factors of one split.
///
/// # Errors
/// If there is but one calibration sequence, the model cannot be loaded or a decomposition fails.
pub fn search(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    (method, freedom): (&RSparse, Freedom),
    scratch: &std::path::Path,
    context: &Context,
) -> Result<Alphas, CompressError> {
    let all = &calibration.sequences;
    if all.len() < 2 {
        return Err(CompressError::Setting(
            "the search scores on calibration text that gives no thresholds: it needs two sequences; give a longer \
             text or a smaller --calibration-length"
                .into(),
        ));
    }
    let (own, scored) = all.split_at(all.len() - (all.len() / HELD_OUT).clamp(1, SEQUENCES));
    let calibration = Calibration { sequences: own.to_vec() };
    let dense = Decoder::load(checkpoint, context)?;
    let mut search = Search {
        layers: Vec::new(),
        decoder: dense.clone(),
        workspace: Workspace::new(dense.config()),
        scored,
        method,
        context,
    };
    let source = (checkpoint, dense.blocks());
    search.prepare(source, &calibration, scratch, None)?;
    let units: Vec<Vec<usize>> = match freedom {
        Freedom::Common => Vec::new(),
        Freedom::Kinds => {
            let kinds = LinearSite::ALL.len();
            (0..kinds).map(|kind| (kind..search.layers.len()).step_by(kinds).collect()).collect()
        }
        Freedom::Layers => (0..search.layers.len()).map(|layer| vec![layer]).collect(),
    };
    context.report(Event::Stage { name: "searching the split", total: GRID.len() + units.len() });
    let everything: Vec<usize> = (0..search.layers.len()).collect();
    let mut losses: Vec<Vec<f64>> = Vec::new();
    for (i, &alpha) in GRID.iter().enumerate() {
        search.set(&everything, alpha)?;
        losses.push(search.losses()?);
        context.report(Event::Step { done: i + 1, message: "" });
    }
    let total = |l: &[f64]| l.iter().sum::<f64>();
    let common = (0..GRID.len()).min_by(|&a, &b| total(&losses[a]).total_cmp(&total(&losses[b])));
    let common = common.expect("the grid is not empty");
    let mut found = vec![common; search.layers.len()];
    if freedom != Freedom::Common {
        if method.sequential {
            search.prepare(source, &calibration, scratch, Some(GRID[common]))?;
        }
        search.set(&everything, GRID[common])?;
        let mut smallest = search.losses()?;
        for (done, unit) in units.iter().enumerate() {
            // Away from the common share as long as it helps, in one direction or the other.
            for step in [-1isize, 1] {
                while let Some(next) = found[unit[0]].checked_add_signed(step).filter(|&i| i < GRID.len()) {
                    search.set(unit, GRID[next])?;
                    let losses = search.losses()?;
                    if !gains(&smallest, &losses) {
                        break;
                    }
                    smallest = losses;
                    unit.iter().for_each(|&layer| found[layer] = next);
                }
                search.set(unit, GRID[found[unit[0]]])?;
                if found[unit[0]] != common {
                    break;
                }
            }
            context.report(Event::Step { done: GRID.len() + done + 1, message: "" });
        }
    }
    Ok(Alphas::PerLayer(found.into_iter().map(|i| GRID[i]).collect()))
}

/// Whether losses of the same sequences fell by more than chance.
fn gains(before: &[f64], after: &[f64]) -> bool {
    let n = before.len() as f64;
    let gain: Vec<f64> = before.iter().zip(after).map(|(b, a)| b - a).collect();
    let mean = gain.iter().sum::<f64>() / n;
    if n < 2.0 {
        return mean > 0.0;
    }
    let variance = gain.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean > CERTAINTY * (variance / n).sqrt()
}

struct Search<'a> {
    /// Every layer that is wide enough, ready for any split.
    layers: Vec<Option<PreparedLayer>>,
    decoder: Decoder,
    workspace: Workspace,
    scored: &'a [Vec<u32>],
    method: &'a RSparse,
    context: &'a Context,
}

impl Search<'_> {
    /// Takes samples of the dense network's inputs, or of the network's with a common share.
    fn prepare(
        &mut self,
        (checkpoint, blocks): (&Checkpoint, &[Block]),
        calibration: &Calibration,
        scratch: &std::path::Path,
        alpha: Option<f64>,
    ) -> Result<(), CompressError> {
        let config = self.decoder.config().clone();
        let mut stream = Stream::start(checkpoint, &config, calibration, Needs::Nothing, scratch)?;
        self.layers.clear();
        for (index, block) in blocks.iter().enumerate() {
            self.context.check_cancelled()?;
            let samples = self.context.install(|| stream.sample_inputs(block, SAMPLE_ROWS))?;
            for site in LinearSite::ALL {
                if site.shape(&config).1 < FEWEST_INPUTS {
                    self.layers.push(None);
                    continue;
                }
                let (weight, inputs) = (&block.linear(site).weight, Arc::clone(&samples[&site.input()]));
                let make = || PreparedLayer::new(weight, inputs, self.method.norms, Some(self.method.path));
                let made = self.context.install(make).map_err(|e| e.in_layer(&site.full_name(index)))?;
                self.layers.push(Some(made));
            }
            let mut seen = block.clone();
            if let Some(alpha) = alpha {
                let common = Alphas::Uniform(alpha);
                self.context.install(|| install(&mut seen, index, &samples, (self.method, &common)))?;
            }
            self.context.install(|| stream.advance(&seen, index, self.context))?;
        }
        Ok(())
    }

    /// Gives some layers a share.
    fn set(&mut self, layers: &[usize], alpha: f64) -> Result<(), CompressError> {
        self.context.check_cancelled()?;
        let kinds = LinearSite::ALL.len();
        let config = self.decoder.config();
        let made = self.context.install(|| {
            layers
                .par_iter()
                .map(|&layer| {
                    let Some(prepared) = &self.layers[layer] else { return Ok(None) };
                    let (outputs, inputs) = LinearSite::ALL[layer % kinds].shape(config);
                    let split = Split::new((inputs, outputs), self.method.sparsity, alpha);
                    prepared.selection(split, true).map(Some)
                })
                .collect::<Result<Vec<Option<InputSelection>>, CompressError>>()
        })?;
        for (&layer, selection) in layers.iter().zip(made) {
            let (Some(prepared), Some(selection)) = (&self.layers[layer], selection) else { continue };
            let linear = self.decoder.blocks_mut()[layer / kinds].linear_mut(LinearSite::ALL[layer % kinds]);
            linear.weight = prepared.weight().clone();
            linear.selection = Some(Box::new(selection));
        }
        Ok(())
    }

    /// The mean loss per token of every scored sequence, in nats.
    fn losses(&mut self) -> Result<Vec<f64>, CompressError> {
        let width = self.decoder.config().hidden_size;
        let mut losses = Vec::with_capacity(self.scored.len());
        for tokens in self.scored {
            self.context.check_cancelled()?;
            let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
            let loss = self.context.install(|| -> Result<f64, CompressError> {
                let states = self.decoder.hidden_states(inputs, &mut self.workspace)?;
                Ok(states_nll(&self.decoder, &states[..targets.len() * width], targets)?)
            })?;
            losses.push(loss / targets.len().max(1) as f64);
        }
        Ok(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gains_beyond_chance_count() {
        let before = [2.0, 3.0, 1.5, 2.5];
        let shifted = |by: [f64; 4]| before.iter().zip(by).map(|(b, s)| b - s).collect::<Vec<_>>();
        assert!(gains(&before, &shifted([0.1; 4])));
        assert!(gains(&before, &shifted([0.1, 0.12, 0.09, 0.11])));
        // The same mean, but one sequence alone has it.
        assert!(!gains(&before, &shifted([0.44, 0.0, 0.0, 0.0])));
        assert!(!gains(&before, &shifted([0.0; 4])));
        assert!(!gains(&before, &shifted([-0.1; 4])));
        assert!(gains(&before[..1], &[1.9]) && !gains(&before[..1], &[2.0]));
    }
}
