//! Language models from text.

use std::path::Path;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde_json::{Map, Value, json};
use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_matrix::ValueType;
use sparseland_nn::{ModelConfig, Tokenizer, TrainableDecoder};
use sparseland_tape::weight::{DenseWeight, WeightError};
use sparseland_tape::{Parameters, Tape, Var};

use crate::{Corpus, DataRecipe, MethodRecipe, OptimiserKind, Recipe, Task, TrainError, Weights};

/// Sequences of a validation.
const WINDOWS: usize = 128;

/// A decoder and the text it learns.
pub struct LanguageModel {
    model: TrainableDecoder<f32>,
    training: Corpus,
    validation: Corpus,
    seed: u64,
    batch: usize,
    sequence: usize,
    files: Vec<(String, Vec<u8>)>,
}

/// A `tokenizer.json` whose tokens are the 256 bytes and one that ends a text.
pub fn byte_tokenizer() -> Vec<u8> {
    // The printable stand-ins of bytes that byte-level tokenizers use.
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut vocabulary = Map::new();
    let mut next = 256;
    for byte in 0..256u32 {
        let code = if printable(byte) { byte } else { next };
        if !printable(byte) {
            next += 1;
        }
        let stand_in = char::from_u32(code).expect("a code below 512 is a character");
        vocabulary.insert(stand_in.to_string(), Value::from(byte));
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}
    });
    serde_json::to_vec(&tokenizer).expect("plain data serialises")
}

/// What a [`LanguageModel`] trains from and with, besides its recipe.
struct Text {
    tokenizer: Tokenizer,
    files: Vec<(String, Vec<u8>)>,
}

impl Text {
    fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TrainError> {
        let mut files = Vec::new();
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            if checkpoint.has_file(name) {
                files.push((name.to_owned(), checkpoint.read_file(name)?.into_owned()));
            }
        }
        Ok(Self { tokenizer: Tokenizer::from_checkpoint(checkpoint)?, files })
    }
}

impl LanguageModel {
    /// A fresh model by a recipe.
    ///
    /// # Errors
    /// If the recipe lacks something or asks for the impossible, or text cannot be read.
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let wrong = |what: &str| TrainError::Recipe(what.to_owned());
        let mut json = recipe.model.clone().ok_or_else(|| wrong("`model` is missing"))?;
        json.entry("model_type").or_insert(Value::from("llama"));
        json.entry("architectures").or_insert(json!(["LlamaForCausalLM"]));
        let text = match &recipe.data.tokenizer {
            Some(dir) => Text::of_checkpoint(&Checkpoint::open(dir)?)?,
            None => {
                json.entry("vocab_size").or_insert(Value::from(257));
                json.entry("eos_token_id").or_insert(Value::from(256));
                let config = ModelConfig::from_json(&json)?;
                let bytes = byte_tokenizer();
                let tokenizer = Tokenizer::from_bytes(&bytes, &config)?;
                Text { tokenizer, files: vec![("tokenizer.json".into(), bytes)] }
            }
        };
        let adaptive = recipe.training.optimiser != OptimiserKind::Sgd;
        let mut rng = Pcg64::seed_from_u64(recipe.seed);
        let refuse = |reason: String| WeightError::Structure { kind: recipe.method.slug(), reason };
        let model = TrainableDecoder::new(json, &mut rng, |parameters, name, shape, deviation, rng| {
            let dense = |parameters: &mut Parameters<f32>, rng: &mut Pcg64| {
                parameters.add_normal(format!("{name}.weight"), &[shape.0, shape.1], deviation, rng)
            };
            Ok(match &recipe.method {
                MethodRecipe::SrSte(method) if method.applies(name, shape.1).map_err(refuse)? => {
                    let master = dense(parameters, rng);
                    Box::new(method.weight(parameters, master, adaptive))
                }
                MethodRecipe::Dense | MethodRecipe::SrSte(_) => {
                    let id = dense(parameters, rng);
                    Box::new(DenseWeight::new(parameters, id))
                }
                MethodRecipe::Sltrain(method) => {
                    Box::new(method.weight(parameters, name, shape, rng).map_err(refuse)?)
                }
                MethodRecipe::LowRank(method) => {
                    Box::new(method.weight(parameters, name, shape, deviation, rng).map_err(refuse)?)
                }
                MethodRecipe::Dsformer(method) => {
                    let start = method.random_start(shape, deviation, rng);
                    Box::new(method.weight(parameters, name, shape, &start).map_err(refuse)?)
                }
            })
        })?;
        Self::with_model(model, recipe, text)
    }

    /// A model of a checkpoint, to go on with.
    ///
    /// # Errors
    /// If the text cannot be read or is too short.
    pub fn of_model(
        model: TrainableDecoder<f32>,
        checkpoint: &Checkpoint,
        recipe: &Recipe,
    ) -> Result<Self, TrainError> {
        Self::with_model(model, recipe, Text::of_checkpoint(checkpoint)?)
    }

    fn with_model(mut model: TrainableDecoder<f32>, recipe: &Recipe, text: Text) -> Result<Self, TrainError> {
        let data = &recipe.data;
        if data.text.is_empty() {
            return Err(TrainError::Recipe("`data.text` names no file".into()));
        }
        let held_out = if data.validation_text.is_empty() { data.held_out } else { 0.0 };
        let (training, mut validation) = Corpus::read(data, &data.text, held_out, &text.tokenizer)?;
        if !data.validation_text.is_empty() {
            let once = DataRecipe { repeat: Vec::new(), ..data.clone() };
            validation = Corpus::read(&once, &data.validation_text, 0.0, &text.tokenizer)?.0;
        }
        for (what, corpus) in [("training", &training), ("validation", &validation)] {
            if corpus.len() <= data.sequence && !(what == "validation" && corpus.is_empty()) {
                return Err(TrainError::Data {
                    path: data.text[0].clone(),
                    reason: format!(
                        "the {what} text has {} tokens; a sequence of {} needs more",
                        corpus.len(),
                        data.sequence
                    ),
                });
            }
        }
        let (linears, _) = model.linears_mut();
        for linear in linears.filter(|l| l.method == "dense") {
            linear.method = recipe.method.slug().to_owned();
        }
        Ok(Self {
            model,
            training,
            validation,
            seed: recipe.seed,
            batch: recipe.training.batch,
            sequence: data.sequence,
            files: text.files,
        })
    }

    /// The model.
    pub fn model(&self) -> &TrainableDecoder<f32> {
        &self.model
    }

    /// Tokens of the training and of the validation text.
    pub fn tokens(&self) -> (usize, usize) {
        (self.training.len(), self.validation.len())
    }

    /// Writes the model as a checkpoint with its tokenizer; `record` goes beside it.
    ///
    /// # Errors
    /// If writing fails.
    pub fn save(
        &self,
        dir: &Path,
        values: ValueType,
        record: Vec<(String, Vec<u8>)>,
    ) -> Result<u64, TrainError> {
        let files = self.files.iter().cloned().chain(record).collect();
        Ok(self.model.save(dir, values, files)?.file_bytes)
    }
}

impl Task for LanguageModel {
    fn parameters(&mut self) -> &mut Parameters<f32> {
        &mut self.model.parameters
    }

    fn weights(&mut self) -> (Weights<'_>, &mut Parameters<f32>) {
        let (linears, parameters) = self.model.linears_mut();
        let mut weights: Weights<'_> = Vec::new();
        for linear in linears {
            weights.push((&linear.name, &mut *linear.weight));
        }
        (weights, parameters)
    }

    fn loss(&mut self, tape: &mut Tape<f32>, step: u64, part: usize, parts: usize) -> Var {
        let (inputs, targets) = self.training.batch(self.seed, step, self.batch, self.sequence);
        let each = self.batch / parts * self.sequence;
        let range = part * each..(part + 1) * each;
        self.model.loss(tape, &inputs[range.clone()], &targets[range], self.sequence)
    }

    fn validate(
        &mut self,
        tape: &mut Tape<f32>,
        context: &Context,
    ) -> Result<Vec<(String, f64)>, TrainError> {
        let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
        for (inputs, targets, length) in self.validation.windows(self.sequence, WINDOWS) {
            context.check_cancelled()?;
            let loss = self.model.loss(tape, inputs, targets, self.sequence);
            nats += f64::from(tape.value(loss)[0]) * inputs.len() as f64;
            tape.clear();
            tokens += inputs.len();
            bytes += length;
        }
        if tokens == 0 {
            return Ok(Vec::new());
        }
        let per_byte = nats / std::f64::consts::LN_2 / bytes.max(1) as f64;
        Ok(vec![("bits_per_byte".into(), per_byte), ("perplexity".into(), (nats / tokens as f64).exp())])
    }
}
