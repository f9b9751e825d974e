//! Classifiers of images and table rows.

use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use sparseland_core::Context;
use sparseland_data::{TensorSpec, TensorWriter};
use sparseland_matrix::{LinearMap, Matrix, ValueType};
use sparseland_nn::structure::part_spec;
use sparseland_tape::weight::DenseWeight;
use sparseland_tape::{Activation, ParamId, Parameters, Parametrisation, PatchShape, Tape, Var};

use crate::{Images, MethodRecipe, NetRecipe, OptimiserKind, Recipe, Task, TrainError, Weights};

/// Items of a forward pass in validation.
const ITEMS: usize = 250;

/// A linear map with a bias, between which the network has its fixed steps.
struct Layer {
    name: String,
    weight: Box<dyn Parametrisation<f32>>,
    bias: ParamId,
    step: Step,
}

/// What stands before a layer's product, and whether ReLU follows.
#[derive(Clone, Copy)]
enum Step {
    /// Rows as they are.
    Plain { relu: bool },
    /// Patches before, ReLU and pooling after.
    Conv { patches: PatchShape, pool: PatchShape },
}

/// Gives a layer's weight from its name and its exported matrix; `None` keeps the dense matrix.
pub type MakeWeight<'a> = dyn FnMut(&mut Parameters<f32>, &str, &Matrix) -> Result<Option<Box<dyn Parametrisation<f32>>>, TrainError>
    + 'a;

/// What single items say of one layer's weight.
#[derive(Debug, Clone, Default)]
pub struct ItemGradients {
    /// The layer.
    pub name: String,
    /// Items x inputs; empty for weights that are not dense.
    pub inputs: Vec<f32>,
    /// Items x outputs.
    pub outputs: Vec<f32>,
}

/// A network and the items it learns.
pub struct Classifier {
    parameters: Parameters<f32>,
    layers: Vec<Layer>,
    training: Images,
    validation: Images,
    seed: u64,
    batch: usize,
    /// The order of the items in an epoch.
    order: Option<(u64, Vec<usize>)>,
}

impl Classifier {
    /// A fresh network by a recipe. The last layer stays dense, and so does the first convolution.
    ///
    /// # Errors
    /// If the recipe lacks something or asks for the impossible, or data cannot be read.
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let wrong = |what: &str| TrainError::Recipe(what.to_owned());
        let path = recipe.data.images.as_deref().ok_or_else(|| wrong("`data.images` is missing"))?;
        let (training, validation) = Images::read(path, recipe.data.validation_images.as_deref())?;
        Self::with_data(recipe, training, validation)
    }

    /// As [`new`](Self::new), on items at hand.
    ///
    /// # Errors
    /// If the recipe asks for the impossible.
    pub fn with_data(recipe: &Recipe, mut training: Images, validation: Images) -> Result<Self, TrainError> {
        let wrong = |what: &str| TrainError::Recipe(what.to_owned());
        let net = recipe.net.as_ref().ok_or_else(|| wrong("`net` is missing"))?;
        if let Some(limit) = recipe.data.limit {
            training.truncate(limit);
        }
        if training.is_empty() || validation.is_empty() {
            return Err(wrong("there are no items to train or to validate on"));
        }
        let (height, width) = training.shape;
        let mut shapes: Vec<(String, usize, usize, Step, bool)> = Vec::new();
        let mut inner = height * width;
        match net {
            NetRecipe::Mlp { hidden } => {
                for (i, &out) in hidden.iter().enumerate() {
                    shapes.push((format!("layers.{i}"), out, inner, Step::Plain { relu: true }, true));
                    inner = out;
                }
            }
            NetRecipe::Conv { channels, hidden } => {
                let (mut height, mut width, mut from) = (height, width, 1);
                for (i, &out) in channels.iter().enumerate() {
                    let patches =
                        PatchShape { height, width, channels: from, side: 3, stride: 1, padding: 1 };
                    let pool = PatchShape { height, width, channels: out, side: 2, stride: 2, padding: 0 };
                    if height < 2 || width < 2 {
                        return Err(wrong("the images are too small for that many poolings"));
                    }
                    let step = Step::Conv { patches, pool };
                    shapes.push((format!("conv.{i}"), out, patches.patch_len(), step, i > 0));
                    (height, width, from) = (pool.output().0, pool.output().1, out);
                }
                inner = height * width * from;
                shapes.push(("hidden".into(), *hidden, inner, Step::Plain { relu: true }, true));
                inner = *hidden;
            }
        }
        shapes.push(("head".into(), training.classes, inner, Step::Plain { relu: false }, false));
        if shapes.iter().any(|s| s.1 == 0) {
            return Err(wrong("a layer has width 0"));
        }
        let adaptive = recipe.training.optimiser != OptimiserKind::Sgd;
        let mut rng = Pcg64::seed_from_u64(recipe.seed);
        let (mut parameters, mut layers) = (Parameters::new(), Vec::new());
        for (name, rows, cols, step, structured) in shapes {
            let deviation = (2.0 / cols as f64).sqrt();
            let dense = |parameters: &mut Parameters<f32>, rng: &mut Pcg64| {
                parameters.add_normal(format!("{name}.weight"), &[rows, cols], deviation, rng)
            };
            let weight: Box<dyn Parametrisation<f32>> = match &recipe.method {
                MethodRecipe::SrSte(m)
                    if structured && m.applies(&name, cols).map_err(TrainError::Recipe)? =>
                {
                    let master = dense(&mut parameters, &mut rng);
                    Box::new(m.weight(&parameters, master, adaptive))
                }
                MethodRecipe::Sltrain(m) if structured => Box::new(
                    m.weight(&mut parameters, &name, (rows, cols), &mut rng).map_err(TrainError::Recipe)?,
                ),
                MethodRecipe::LowRank(m) if structured => Box::new(
                    m.weight(&mut parameters, &name, (rows, cols), deviation, &mut rng)
                        .map_err(TrainError::Recipe)?,
                ),
                MethodRecipe::Dsformer(m) if structured => {
                    let start = m.random_start((rows, cols), deviation, &mut rng);
                    let weight = m.weight(&mut parameters, &name, (rows, cols), &start);
                    Box::new(weight.map_err(TrainError::Recipe)?)
                }
                _ => {
                    let id = dense(&mut parameters, &mut rng);
                    Box::new(DenseWeight::new(&parameters, id))
                }
            };
            let bias = parameters.add_constant(format!("{name}.bias"), &[rows], 0.0);
            layers.push(Layer { name, weight, bias, step });
        }
        let (seed, batch) = (recipe.seed, recipe.training.batch);
        Ok(Self { parameters, layers, training, validation, seed, batch, order: None })
    }

    /// The same network and items with other weights: `make` gives the weight of a layer from its name and its
    /// exported matrix, or `None` for the dense matrix itself.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn rebuilt(&self, make: &mut MakeWeight<'_>) -> Result<Self, TrainError> {
        let (mut parameters, mut layers) = (Parameters::new(), Vec::new());
        for (layer, (name, matrix)) in self.layers.iter().zip(self.export(ValueType::F32)) {
            let weight = match make(&mut parameters, &name, &matrix)? {
                Some(weight) => weight,
                None => {
                    let shape = [matrix.rows(), matrix.cols()];
                    let id = parameters.add(format!("{name}.weight"), &shape, &matrix.to_dense());
                    Box::new(DenseWeight::new(&parameters, id))
                }
            };
            let bias = self.parameters.get(layer.bias);
            let bias = parameters.add(bias.name.clone(), &bias.shape, &bias.value);
            layers.push(Layer { name, weight, bias, step: layer.step });
        }
        let (training, validation) = (self.training.clone(), self.validation.clone());
        Ok(Self { parameters, layers, training, validation, order: None, ..*self })
    }

    /// Gradients of the loss of single items (the first `items` of training) to the dense weights, one row per item and
    /// side: by inputs `sign_j sqrt(sum_o G_oj²)`, by outputs `sign_o sqrt(sum_j G_oj²)`. The gradient of a layer that an
    /// item passes once is of rank one, `G = d xᵀ`: the rows are then `||d|| x` and `||x|| d` up to a sign of the item,
    /// and sums of their squares and products are the empirical Fisher information by inputs and by outputs (FWSVD). A
    /// convolution's gradient sums over patches; its squares are right, its products are not.
    pub fn item_gradients(&mut self, items: usize) -> Vec<ItemGradients> {
        let shapes: Vec<_> = self.layers.iter().map(|l| l.weight.shape()).collect();
        let empty = |layer: &Layer| ItemGradients { name: layer.name.clone(), ..Default::default() };
        let mut found: Vec<ItemGradients> = self.layers.iter().map(empty).collect();
        let mut tape = Tape::new();
        for item in 0..items.min(self.training.len()) {
            self.parameters.zero_gradients();
            let (pixels, labels) = self.training.gather(&[item]);
            let logits = self.logits(&mut tape, &pixels);
            let loss = tape.cross_entropy(&self.parameters, logits, &labels);
            tape.backward(loss, &mut self.parameters);
            tape.clear();
            for ((layer, found), &(rows, cols)) in self.layers.iter().zip(&mut found).zip(&shapes) {
                let [weight] = layer.weight.parameters()[..] else { continue };
                let gradient = self.parameters.gradient(weight);
                let (mut by_inputs, mut by_outputs) = (vec![0.0f64; cols], vec![0.0f64; rows]);
                let mut pivot = (0.0f32, 0, 0);
                for (o, row) in gradient.chunks_exact(cols).enumerate() {
                    for (j, &g) in row.iter().enumerate() {
                        let square = f64::from(g) * f64::from(g);
                        by_inputs[j] += square;
                        by_outputs[o] += square;
                        if g.abs() > pivot.0 {
                            pivot = (g.abs(), o, j);
                        }
                    }
                }
                let (_, o, j) = pivot;
                let sign = |square: f64, g: f32| square.sqrt().copysign(f64::from(g)) as f32;
                let row = gradient[o * cols..][..cols].iter();
                found.inputs.extend(by_inputs.into_iter().zip(row).map(|(s, &g)| sign(s, g)));
                let column = gradient.chunks_exact(cols).map(|row| row[j]);
                found.outputs.extend(by_outputs.into_iter().zip(column).map(|(s, g)| sign(s, g)));
            }
        }
        self.parameters.zero_gradients();
        found
    }

    /// Names and exported weights of the layers.
    pub fn export(&self, values: ValueType) -> Vec<(String, Matrix)> {
        let one = |l: &Layer| (l.name.clone(), l.weight.export(&self.parameters, values));
        self.layers.iter().map(one).collect()
    }

    /// The items held out.
    pub fn validation(&self) -> &Images {
        &self.validation
    }

    /// Steps of one pass over the training items.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.training.len() / self.batch).max(1) as u64
    }

    fn logits(&self, tape: &mut Tape<f32>, pixels: &[f32]) -> Var {
        let p = &self.parameters;
        let width = self.training.shape.0 * self.training.shape.1;
        let mut x = tape.input(pixels.len() / width, width, pixels);
        for layer in &self.layers {
            x = match layer.step {
                Step::Plain { relu } => {
                    let y = layer.weight.apply(tape, p, x);
                    let y = tape.bias(p, y, layer.bias);
                    if relu { tape.activation(p, y, Activation::Relu) } else { y }
                }
                Step::Conv { patches, pool } => {
                    let rows = tape.patches(p, x, patches);
                    let y = layer.weight.apply(tape, p, rows);
                    let y = tape.bias(p, y, layer.bias);
                    // The largest of rectified numbers is the rectified largest: a quarter of the work.
                    let y = tape.max_pool_last(p, y, pool);
                    tape.activation(p, y, Activation::Relu)
                }
            };
        }
        x
    }

    /// Logits of items by the weights as used.
    pub fn predict(&self, tape: &mut Tape<f32>, pixels: &[f32]) -> Vec<f32> {
        tape.set_recording(false);
        let y = self.logits(tape, pixels);
        let logits = tape.value(y).to_vec();
        tape.clear();
        logits
    }

    /// Logits of items by exported matrices, through their own kernels.
    ///
    /// # Panics
    /// If the matrices are not those of [`export`](Self::export).
    pub fn run_exported(&self, layers: &[(String, Matrix)], pixels: &[f32]) -> Vec<f32> {
        // The fixed steps on a tape, the products by the matrices.
        let empty = Parameters::<f32>::new();
        let mut tape = Tape::new();
        tape.set_recording(false);
        let width = self.training.shape.0 * self.training.shape.1;
        let mut x = tape.input(pixels.len() / width, width, pixels);
        for (layer, (_, matrix)) in self.layers.iter().zip(layers) {
            if let Step::Conv { patches, .. } = layer.step {
                x = tape.patches(&empty, x, patches);
            }
            let (rows, _) = tape.shape(x);
            let mut y = vec![0.0; rows * matrix.rows()];
            matrix.apply_batch(tape.value(x), rows, &mut y);
            let bias = self.parameters.value(layer.bias);
            y.chunks_exact_mut(bias.len()).for_each(|r| r.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
            x = tape.input(rows, matrix.rows(), &y);
            x = match layer.step {
                Step::Plain { relu: false } => x,
                Step::Plain { relu: true } => tape.activation(&empty, x, Activation::Relu),
                Step::Conv { pool, .. } => {
                    let y = tape.max_pool_last(&empty, x, pool);
                    tape.activation(&empty, y, Activation::Relu)
                }
            };
        }
        tape.value(x).to_vec()
    }

    /// Writes the exported weights and biases to a safetensors file; its metadata name each layer's structure.
    ///
    /// # Errors
    /// If writing fails.
    pub fn save(&self, path: &Path, values: ValueType) -> Result<u64, TrainError> {
        let mut tensors: Vec<(TensorSpec, Vec<u8>)> = Vec::new();
        let mut metadata = std::collections::BTreeMap::new();
        for (layer, (name, matrix)) in self.layers.iter().zip(self.export(values)) {
            let layout = serde_json::to_string(&matrix.layout()).expect("plain data serialises");
            metadata.insert(format!("layout.{name}"), layout);
            tensors.extend(matrix.parts(&name).into_iter().map(|part| (part_spec(&part), part.bytes)));
            let bias = self.parameters.get(layer.bias);
            let bytes = bias.value.bytes().to_vec();
            tensors
                .push((TensorSpec::new(&bias.name, sparseland_data::DType::F32, bias.shape.clone()), bytes));
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|(s, _)| s.clone()).collect();
        let mut writer = TensorWriter::create(path, &specs, &metadata)?;
        for (spec, bytes) in &tensors {
            writer.write(&spec.name, bytes)?;
        }
        Ok(writer.finish()?)
    }

    /// The items of a step: epochs are whole passes in an order that seed and epoch decide.
    fn items(&mut self, step: u64) -> Vec<usize> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, within) = (step / per_epoch, (step % per_epoch) as usize);
        if self.order.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let mut order: Vec<usize> = (0..self.training.len()).collect();
            order.shuffle(&mut Pcg64::new(u128::from(epoch), u128::from(self.seed)));
            self.order = Some((epoch, order));
        }
        let order = &self.order.as_ref().expect("made above").1;
        order.iter().copied().cycle().skip(within * self.batch).take(self.batch).collect()
    }
}

impl Task for Classifier {
    fn parameters(&mut self) -> &mut Parameters<f32> {
        &mut self.parameters
    }

    fn weights(&mut self) -> (Weights<'_>, &mut Parameters<f32>) {
        let mut weights: Weights<'_> = Vec::new();
        for layer in &mut self.layers {
            weights.push((&layer.name, &mut *layer.weight));
        }
        (weights, &mut self.parameters)
    }

    fn loss(&mut self, tape: &mut Tape<f32>, step: u64, part: usize, parts: usize) -> Var {
        let items = self.items(step);
        let each = items.len() / parts;
        let (pixels, labels) = self.training.gather(&items[part * each..(part + 1) * each]);
        let logits = self.logits(tape, &pixels);
        tape.cross_entropy(&self.parameters, logits, &labels)
    }

    fn validate(
        &mut self,
        tape: &mut Tape<f32>,
        context: &Context,
    ) -> Result<Vec<(String, f64)>, TrainError> {
        let (mut wrong, mut nats) = (0usize, 0.0);
        let items: Vec<usize> = (0..self.validation.len()).collect();
        for items in items.chunks(ITEMS) {
            context.check_cancelled()?;
            let (pixels, labels) = self.validation.gather(items);
            let logits = self.logits(tape, &pixels);
            for (row, &label) in tape.value(logits).chunks_exact(self.training.classes).zip(&labels) {
                let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("classes").0;
                wrong += usize::from(best != label as usize);
            }
            let loss = tape.cross_entropy(&self.parameters, logits, &labels);
            nats += f64::from(tape.value(loss)[0]) * items.len() as f64;
            tape.clear();
        }
        let n = self.validation.len() as f64;
        let error = wrong as f64 / n;
        Ok(vec![
            ("error".into(), error),
            ("accuracy".into(), 1.0 - error),
            ("validation_loss".into(), nats / n),
        ])
    }
}
