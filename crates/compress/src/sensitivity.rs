//! What the calibration loss gains when one layer alone is compressed (the sensitivities of ASVD, Yuan et al.,
//! 2023, arXiv 2312.05821, section 4.2), for the allocation by [`crate::allocation::Allocation::Sensitivity`].
//!
//! Every option of every layer is tried in the original network: the hidden states before the layer's block are
//! at hand, so a trial runs the rest of the network only. Cost: options x layers x half a forward pass of
//! [`SEQUENCES`] sequences; memory: the whole model, once.

use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_matrix::Matrix;
use sparseland_nn::{Block, Decoder, LinearSite, Workspace, states_nll};

use crate::CompressError;
use crate::allocation::LayerProfile;
use crate::calibrate::Stream;

/// Calibration sequences that every option is tried on.
const SEQUENCES: usize = 16;

/// The original network, and its loss.
pub(crate) struct Prober {
    decoder: Decoder,
    workspace: Workspace,
    baseline: Option<f64>,
}

impl Prober {
    pub(crate) fn new(checkpoint: &Checkpoint, context: &Context) -> Result<Self, CompressError> {
        let decoder = Decoder::load(checkpoint, context)?;
        let workspace = Workspace::new(decoder.config());
        Ok(Self { decoder, workspace, baseline: None })
    }

    /// Fills in the sensitivities of a block's options; `built` holds their matrices, without the dense one.
    /// The stream stands before the block.
    pub(crate) fn probe(
        &mut self,
        stream: &mut Stream<'_>,
        index: usize,
        profiles: &mut [LayerProfile],
        built: Vec<Vec<Matrix>>,
        context: &Context,
    ) -> Result<(), CompressError> {
        let original = self.decoder.blocks()[index].clone();
        let baseline = match self.baseline {
            Some(loss) => loss,
            None => self.loss(stream, &original, index)?,
        };
        self.baseline = Some(baseline);
        for ((site, profile), matrices) in LinearSite::ALL.into_iter().zip(profiles).zip(built) {
            for (option, matrix) in profile.options[1..].iter_mut().zip(matrices) {
                context.check_cancelled()?;
                let mut block = original.clone();
                block.linear_mut(site).weight = matrix;
                option.sensitivity = Some(self.loss(stream, &block, index)? - baseline);
            }
        }
        Ok(())
    }

    /// Mean loss per token in nats with `block` in place of block `index`.
    fn loss(&mut self, stream: &mut Stream<'_>, block: &Block, index: usize) -> Result<f64, CompressError> {
        let config = self.decoder.config();
        let (mut total, mut count) = (0.0, 0);
        for i in 0..stream.len().min(SEQUENCES) {
            let (tokens, mut states) = stream.states(i)?;
            for block in std::iter::once(block).chain(&self.decoder.blocks()[index + 1..]) {
                block.forward_sequence(config, &mut states, &mut self.workspace, &mut |_, _, _| {});
            }
            let targets = &tokens[1..];
            total += states_nll(&self.decoder, &states[..targets.len() * config.hidden_size], targets)?;
            count += targets.len();
        }
        Ok(total / count.max(1) as f64)
    }
}
