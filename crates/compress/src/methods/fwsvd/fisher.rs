//! The empirical Fisher information of a language model's linear layers, one backward pass per sequence.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, DType, TensorFile, TensorSource, TensorSpec, TensorWriter, read_typed};
use sparseland_linalg::{Mat, gram};
use sparseland_matrix::LinearMap;
use sparseland_nn::TrainableDecoder;
use sparseland_tape::weight::{DenseWeight, from_f32};
use sparseland_tape::{IGNORED, Tape};

use super::Axis;
use crate::CompressError;
use crate::calibrate::Calibration;

/// Sums of the squared gradients of one layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerFisher {
    /// Per input, over all outputs.
    pub inputs: Vec<f64>,
    /// Per output, over all inputs.
    pub outputs: Vec<f64>,
    /// Products of gradients of different inputs and outputs, where they were asked for.
    pub correlations: Option<Arc<Correlations>>,
}

/// Means over examples of products of one layer's gradient `G: out x in` with itself; their diagonals are the sums of
/// squares in [`LayerFisher`].
#[derive(Debug, Clone, PartialEq)]
pub struct Correlations {
    /// `mean Gᵀ G`: inputs x inputs.
    pub inputs: Mat<f64>,
    /// `mean G Gᵀ`: outputs x outputs.
    pub outputs: Mat<f64>,
}

/// What the loss minds in every linear layer: means over examples of squared gradients.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fisher {
    layers: BTreeMap<String, LayerFisher>,
}

/// Suffixes of the tensors of a layer in a file.
const INPUTS: &str = ".fisher";
const OUTPUTS: &str = ".fisher_outputs";
const CORRELATIONS: [&str; 2] = [".fisher_correlations", ".fisher_outputs_correlations"];

impl Fisher {
    /// From sums of one's own.
    pub fn new(layers: BTreeMap<String, LayerFisher>) -> Self {
        Self { layers }
    }

    /// Of a checkpoint on sequences: the loss of an example is the negative log-likelihood of the sequence in nats.
    /// Sequences whose gradients are not finite are left out with a warning. For [`Axis::Kronecker`] also their
    /// correlations: `in² + out²` numbers per layer.
    ///
    /// # Errors
    /// If the model cannot be differentiated (see [`TrainableDecoder`]), no sequence is left, or the run is cancelled.
    pub fn measure(
        checkpoint: &Checkpoint,
        calibration: &Calibration,
        axis: Axis,
        context: &Context,
    ) -> Result<Self, CompressError> {
        let mut model = TrainableDecoder::<f32>::from_checkpoint(checkpoint, |parameters, name, matrix| {
            let shape = [matrix.rows(), matrix.cols()];
            let id = parameters.add(format!("{name}.weight"), &shape, &from_f32::<f32>(&matrix.to_dense()));
            Ok(Box::new(DenseWeight::new(parameters, id)))
        })?;
        let sequences = &calibration.sequences;
        context.report(Event::Stage { name: "gradients", total: sequences.len() });
        let mut tape = Tape::new();
        let mut layers: BTreeMap<String, LayerFisher> = BTreeMap::new();
        let (mut used, mut skipped) = (0usize, 0usize);
        for (done, sequence) in sequences.iter().enumerate().filter(|(_, s)| s.len() > 1) {
            context.check_cancelled()?;
            let found = context.install(|| {
                model.parameters.zero_gradients();
                let targets: Vec<u32> = sequence[1..].iter().copied().chain([IGNORED]).collect();
                let loss = model.loss(&mut tape, sequence, &targets, sequence.len());
                tape.backward(loss, &mut model.parameters);
                tape.clear();
                // The loss is a mean over predicted tokens; the likelihood of the sequence is a sum.
                squares(&model, (sequence.len() - 1) as f64, axis.correlated())
            });
            if found.values().any(|l| l.inputs.iter().chain(&l.outputs).any(|v| !v.is_finite())) {
                skipped += 1;
                continue;
            }
            used += 1;
            for (name, found) in found {
                match layers.get_mut(&name) {
                    None => drop(layers.insert(name, found)),
                    Some(sums) => {
                        sums.inputs.iter_mut().zip(&found.inputs).for_each(|(s, v)| *s += v);
                        sums.outputs.iter_mut().zip(&found.outputs).for_each(|(s, v)| *s += v);
                        if let (Some(sums), Some(found)) = (&mut sums.correlations, &found.correlations) {
                            let sums = Arc::get_mut(sums).expect("nobody else holds them yet");
                            let pairs =
                                [(&mut sums.inputs, &found.inputs), (&mut sums.outputs, &found.outputs)];
                            for (sum, found) in pairs {
                                sum.data.iter_mut().zip(&found.data).for_each(|(s, v)| *s += v);
                            }
                        }
                    }
                }
            }
            context.report(Event::Step { done: done + 1, message: "" });
        }
        if skipped > 0 {
            context.report(Event::Warning(&format!(
                "the gradients of {skipped} of {} sequences are not finite; they are left out",
                used + skipped
            )));
        }
        if used == 0 {
            return Err(CompressError::Setting(format!(
                "no calibration sequence of {} has finite gradients; Fisher information needs one",
                sequences.len()
            )));
        }
        for layer in layers.values_mut() {
            layer.inputs.iter_mut().chain(&mut layer.outputs).for_each(|v| *v /= used as f64);
            if let Some(sums) = &mut layer.correlations {
                let sums = Arc::get_mut(sums).expect("nobody else holds them yet");
                sums.inputs.data.iter_mut().chain(&mut sums.outputs.data).for_each(|v| *v /= used as f64);
            }
        }
        let silent: Vec<_> = layers.iter().filter(|(_, l)| l.inputs.iter().all(|&v| v == 0.0)).collect();
        for (name, _) in silent {
            context.report(Event::Warning(&format!("{name} has no Fisher information: plain SVD there")));
        }
        Ok(Self { layers })
    }

    /// [`measure`](Self::measure), kept in `path` for the next run on the same model and text.
    ///
    /// # Errors
    /// As [`measure`](Self::measure); if the file cannot be written.
    pub fn cached(
        checkpoint: &Checkpoint,
        calibration: &Calibration,
        axis: Axis,
        path: &Path,
        context: &Context,
    ) -> Result<Self, CompressError> {
        let key = key_of(checkpoint, calibration, axis);
        if let Ok(file) = TensorFile::open(path)
            && file.metadata().get("of").is_some_and(|of| *of == key)
        {
            return Self::of_file(&file);
        }
        let found = Self::measure(checkpoint, calibration, axis, context)?;
        found.save(path, &key)?;
        Ok(found)
    }

    /// The importances in a file of the user's, or [`measure`](Self::measure)d and written there if there is no such
    /// file yet. What they were measured on is not compared with this run: a file made with more text, or by another
    /// program from labels, serves as it is.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`measure`](Self::measure); if the file cannot be written.
    pub fn shared(
        checkpoint: &Checkpoint,
        calibration: &Calibration,
        axis: Axis,
        path: &Path,
        context: &Context,
    ) -> Result<Self, CompressError> {
        if path.exists() {
            let found = Self::load(path)?;
            let (layers, path) = (found.layers.len(), path.display());
            context.report(Event::Line(&format!("importances of {layers} layers read from {path}")));
            return Ok(found);
        }
        let found = Self::measure(checkpoint, calibration, axis, context)?;
        found.save(path, &key_of(checkpoint, calibration, axis))?;
        Ok(found)
    }

    /// Reads a file of tensors `LAYER.fisher` (one number per input) and, where given, `LAYER.fisher_outputs`.
    ///
    /// # Errors
    /// If it cannot be read or holds no such tensor.
    pub fn load(path: &Path) -> Result<Self, CompressError> {
        let found = Self::of_file(&TensorFile::open(path)?)?;
        if found.layers.is_empty() {
            return Err(CompressError::Setting(format!(
                "{} holds no tensor named LAYER{INPUTS}; give a file of importances, or one that does not exist yet \
                 to have them measured",
                path.display()
            )));
        }
        Ok(found)
    }

    fn of_file(file: &TensorFile) -> Result<Self, CompressError> {
        let mut layers = BTreeMap::new();
        for name in file.names() {
            let Some(layer) = name.strip_suffix(INPUTS) else { continue };
            let outputs = format!("{layer}{OUTPUTS}");
            let outputs = if file.find(&outputs).is_some() { numbers(file, &outputs)? } else { Vec::new() };
            let inputs = numbers(file, name)?;
            let square = |suffix: &str, n: usize| -> Result<Option<Mat<f64>>, CompressError> {
                let name = format!("{layer}{suffix}");
                match file.find(&name) {
                    Some(_) => Ok(Some(Mat::from_vec(n, n, numbers(file, &name)?)?)),
                    None => Ok(None),
                }
            };
            let correlations =
                match (square(CORRELATIONS[0], inputs.len())?, square(CORRELATIONS[1], outputs.len())?) {
                    (Some(inputs), Some(outputs)) => Some(Arc::new(Correlations { inputs, outputs })),
                    _ => None,
                };
            layers.insert(layer.to_owned(), LayerFisher { inputs, outputs, correlations });
        }
        Ok(Self { layers })
    }

    fn save(&self, path: &Path, key: &str) -> Result<(), CompressError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .map_err(|source| CompressError::Io { path: dir.display().to_string(), source })?;
        }
        let mut tensors: Vec<(String, &Vec<f64>)> = Vec::new();
        for (name, layer) in &self.layers {
            tensors.push((format!("{name}{INPUTS}"), &layer.inputs));
            tensors.push((format!("{name}{OUTPUTS}"), &layer.outputs));
            if let Some(full) = &layer.correlations {
                let both = CORRELATIONS.iter().zip([&full.inputs, &full.outputs]);
                tensors.extend(both.map(|(suffix, m)| (format!("{name}{suffix}"), &m.data)));
            }
        }
        let specs: Vec<_> =
            tensors.iter().map(|(name, v)| TensorSpec::new(name.as_str(), DType::F64, [v.len()])).collect();
        let mut writer = TensorWriter::create(path, &specs, &[("of".to_owned(), key.to_owned())].into())?;
        for (name, values) in &tensors {
            writer.write_typed(name, values)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// The sums of a layer of the given size.
    ///
    /// # Errors
    /// If there are none, their number is wrong, or one is negative or not finite.
    pub fn layer(&self, name: &str, inputs: usize, outputs: usize) -> Result<LayerFisher, CompressError> {
        let Some(found) = self.layers.get(name) else {
            return Err(CompressError::Setting(format!(
                "no Fisher information for {name} among {} layers; measure it on this model",
                self.layers.len()
            )));
        };
        let mut found = found.clone();
        if found.outputs.is_empty() {
            found.outputs = vec![1.0; outputs];
        }
        if (found.inputs.len(), found.outputs.len()) != (inputs, outputs) {
            return Err(CompressError::Setting(format!(
                "the Fisher information of {name} is for {} inputs and {} outputs, the layer has {inputs} and \
                 {outputs}",
                found.inputs.len(),
                found.outputs.len()
            )));
        }
        if let Some(full) = &found.correlations {
            full.inputs.check_finite("Fisher information of inputs")?;
            full.outputs.check_finite("Fisher information of outputs")?;
        }
        for (side, numbers) in [("input", &found.inputs), ("output", &found.outputs)] {
            if let Some(i) = numbers.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
                return Err(CompressError::Setting(format!(
                    "the Fisher information of {name} is {} at {side} {i}; it must be a finite number of at least 0",
                    numbers[i]
                )));
            }
        }
        Ok(found)
    }
}

/// A tensor as f64; other programs may have written another type.
fn numbers(file: &TensorFile, name: &str) -> Result<Vec<f64>, CompressError> {
    if file.info(name)?.dtype == DType::F64 {
        return Ok(read_typed(file, name)?);
    }
    Ok(file.read_f32(name)?.into_iter().map(f64::from).collect())
}

/// What decides the importances: the model and the text.
fn key_of(checkpoint: &Checkpoint, calibration: &Calibration, axis: Axis) -> String {
    let correlated = if axis.correlated() { " correlated" } else { "" };
    let (dir, bytes) = (checkpoint.dir().display(), checkpoint.file_bytes());
    format!("{dir} {bytes} {}{correlated}", calibration.fingerprint())
}

/// Row and column sums of the squared gradients of all linear layers, gradients times `scale`.
fn squares(model: &TrainableDecoder<f32>, scale: f64, correlated: bool) -> BTreeMap<String, LayerFisher> {
    let of = |linear: &sparseland_nn::TrainableLinear<f32>| {
        let (rows, cols) = linear.weight.shape();
        let mut sums = LayerFisher { inputs: vec![0.0; cols], outputs: vec![0.0; rows], correlations: None };
        if let (true, [id]) = (correlated, &linear.weight.parameters()[..]) {
            let gradient = model.parameters.gradient(*id).iter().map(|&g| f64::from(g) * scale).collect();
            let gradient = Mat { rows, cols, data: gradient };
            let (inputs, outputs) = (gram(&gradient), gram(&gradient.transposed()));
            sums.correlations = Some(Arc::new(Correlations { inputs, outputs }));
        }
        for id in linear.weight.parameters() {
            for (o, row) in model.parameters.gradient(id).chunks_exact(cols).enumerate() {
                for (sum, &g) in sums.inputs.iter_mut().zip(row) {
                    let square = (f64::from(g) * scale).powi(2);
                    *sum += square;
                    sums.outputs[o] += square;
                }
            }
        }
        (linear.name.clone(), sums)
    };
    model.linears().map(of).collect()
}
