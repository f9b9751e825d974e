//! The search of every layer's own split: coordinate descent on the calibration loss.

use sparseland_core::{Context, Event};
use sparseland_data::Checkpoint;
use sparseland_nn::{Decoder, LinearInput, LinearSite, Workspace, states_nll};

use super::{Alphas, FEWEST_INPUTS, PreparedLayer, RSparse, SAMPLE_ROWS, Split};
use crate::CompressError;
use crate::calibrate::{Calibration, Stream};
use crate::problem::Needs;

/// Shares that are tried.
const GRID: [f64; 7] = [1.0, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5];

/// Calibration sequences that a trial is scored on.
const SEQUENCES: usize = 16;

/// Finds every layer's share: the best common one of a grid first, then layer by layer its neighbours, kept where
/// the calibration loss falls. Thresholds are those of the dense network's inputs, so that one pass of text
/// serves all trials; the final thresholds are taken afresh. Holds the whole model and its largest factors.
///
/// # Errors
/// If the model cannot be loaded or a decomposition fails.
pub fn search(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    method: &RSparse,
    scratch: &std::path::Path,
    context: &Context,
) -> Result<Alphas, CompressError> {
    let mut decoder = Decoder::load(checkpoint, context)?;
    let config = decoder.config().clone();
    let mut stream = Stream::start(checkpoint, &config, calibration, Needs::Nothing, scratch)?;
    let mut layers: Vec<Option<PreparedLayer>> = Vec::new();
    for (index, block) in decoder.blocks().iter().enumerate() {
        let samples = context.install(|| stream.sample_inputs(block, SAMPLE_ROWS))?;
        for site in LinearSite::ALL {
            let weight = &block.linear(site).weight;
            let (outputs, inputs) = site.shape(&config);
            if inputs < FEWEST_INPUTS {
                layers.push(None);
                continue;
            }
            let widest = GRID.iter().map(|&a| Split::new((inputs, outputs), method.sparsity, a).rank);
            let rank = widest.max().unwrap_or(0);
            let input: LinearInput = site.input();
            let prepared = context
                .install(|| PreparedLayer::new(weight, &samples[&input], method.norms, rank))
                .map_err(|e| e.in_layer(&site.full_name(index)))?;
            layers.push(Some(prepared));
        }
        context.install(|| stream.advance(block, index, context))?;
    }
    let sequences: Vec<&[u32]> = calibration.sequences.iter().take(SEQUENCES).map(Vec::as_slice).collect();
    let mut trial = Trial { workspace: Workspace::new(&config), sequences };
    let set = |decoder: &mut Decoder, layer: usize, alpha: f64| {
        let Some(prepared) = &layers[layer] else { return };
        let site = LinearSite::ALL[layer % LinearSite::ALL.len()];
        let (outputs, inputs) = site.shape(decoder.config());
        let split = Split::new((inputs, outputs), method.sparsity, alpha);
        let linear = decoder.blocks_mut()[layer / LinearSite::ALL.len()].linear_mut(site);
        linear.weight = prepared.weight().clone();
        linear.selection = Some(Box::new(prepared.selection(split, true)));
    };
    let mut best = (f64::INFINITY, 0);
    context.report(Event::Stage { name: "searching the split", total: GRID.len() + layers.len() });
    for (i, &alpha) in GRID.iter().enumerate() {
        (0..layers.len()).for_each(|layer| set(&mut decoder, layer, alpha));
        let loss = trial.loss(&decoder, context)?;
        if loss < best.0 {
            best = (loss, i);
        }
        context.report(Event::Step { done: i + 1, message: "" });
    }
    let (mut smallest, common) = best;
    let mut found = vec![common; layers.len()];
    (0..layers.len()).for_each(|layer| set(&mut decoder, layer, GRID[common]));
    for layer in 0..layers.len() {
        for next in
            [common.checked_sub(1), Some(common + 1).filter(|&i| i < GRID.len())].into_iter().flatten()
        {
            set(&mut decoder, layer, GRID[next]);
            let loss = trial.loss(&decoder, context)?;
            if loss < smallest {
                (smallest, found[layer]) = (loss, next);
            }
        }
        set(&mut decoder, layer, GRID[found[layer]]);
        context.report(Event::Step { done: GRID.len() + layer + 1, message: "" });
    }
    Ok(Alphas::PerLayer(found.into_iter().map(|i| GRID[i]).collect()))
}

struct Trial<'a> {
    workspace: Workspace,
    sequences: Vec<&'a [u32]>,
}

impl Trial<'_> {
    /// Mean loss per token in nats.
    fn loss(&mut self, decoder: &Decoder, context: &Context) -> Result<f64, CompressError> {
        context.check_cancelled()?;
        let width = decoder.config().hidden_size;
        let (mut total, mut count) = (0.0, 0);
        for tokens in &self.sequences {
            let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
            total += context.install(|| -> Result<f64, CompressError> {
                let states = decoder.hidden_states(inputs, &mut self.workspace)?;
                Ok(states_nll(decoder, &states[..targets.len() * width], targets)?)
            })?;
            count += targets.len();
        }
        Ok(total / count.max(1) as f64)
    }
}
