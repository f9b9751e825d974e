//! `sparseland bench training`: seconds and memory of a training step, beside PyTorch where one is found.
//!
//! Every measurement runs in a process of its own, so that its peak memory is its own; engines take turns, so that
//! drift of the machine hits all alike.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sparseland_core::{Context, Event};
use sparseland_eval::statistics::median;
use sparseland_eval::table::{Column, Table, human_bytes};
use sparseland_matrix::Precision;
use sparseland_nn::TrainableDecoder;
use sparseland_tape::optimiser::{AdamW, Optimiser, StateBits};
use sparseland_tape::weight::{DenseWeight, WeightError};
use sparseland_tape::{Activation, ConvShape, Parameters, PoolShape, Tape};
use sparseland_train::methods::sltrain::SlTrain;

use crate::machine::peak_rss_bytes;

const SCRIPT: &str = include_str!("training.py");

/// Steps before the timed ones.
const WARM: usize = 3;

/// Measures a training step against PyTorch.
#[derive(Args)]
pub struct Training {
    /// Timed steps per turn.
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// Turns of every engine; the median over turns of their median steps counts.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// The Python whose PyTorch is measured.
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    python: String,
    /// Measure only this model.
    #[arg(long, value_enum)]
    model: Option<Model>,
    /// Run one model in this process and print its times.
    #[arg(long, hide = true, requires = "model")]
    child: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    /// Llama-like, 6.8 M parameters, 8 sequences of 256 tokens, AdamW.
    Decoder,
    /// The same with products of factors rounded to bf16, beside PyTorch's bf16 autocast.
    DecoderBf16,
    /// The first with linear weights of rank 64 plus 3 % sparse.
    DecoderSltrain,
    /// A convolutional network for MNIST, batch 128, AdamW.
    MnistConv,
}

/// What each model is measured against: the script's name for it.
const PEERS: [(Model, &str); 4] = [
    (Model::Decoder, "decoder"),
    (Model::DecoderBf16, "decoder-bf16"),
    (Model::DecoderSltrain, "decoder-sltrain"),
    (Model::MnistConv, "mnist-conv"),
];

#[derive(Serialize, Deserialize)]
struct Times {
    seconds: Vec<f64>,
    peak_rss_bytes: u64,
    engine: String,
}

#[derive(Serialize)]
struct Row {
    model: String,
    engine: String,
    threads: usize,
    step_seconds: f64,
    peak_rss_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_vs_pytorch: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_ratio_vs_pytorch: Option<f64>,
}

impl Training {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        if let (true, Some(model)) = (self.child, self.model) {
            let seconds = context.install(|| measure(model, self.steps))?;
            let engine = format!("sparseland {}", env!("CARGO_PKG_VERSION"));
            return super::super::print_json(&Times { seconds, peak_rss_bytes: peak_rss_bytes(), engine });
        }
        let mut rows = Vec::new();
        for (model, peer) in PEERS {
            if self.model.is_none_or(|m| m == model) {
                rows.extend(self.compare(model, peer, context)?);
            }
        }
        if self.json { super::super::print_json(&rows) } else { super::super::print_text(&to_text(&rows)) }
    }

    fn compare(&self, model: Model, peer: &str, context: &Context) -> Result<Vec<Row>> {
        let name = model.to_possible_value().expect("no model is hidden").get_name().to_owned();
        // Ours first, then the peer's; turn by turn.
        let mut times: [Vec<Times>; 2] = Default::default();
        context.report(Event::Stage { name: "training steps", total: self.turns });
        for turn in 0..self.turns {
            context.check_cancelled()?;
            let mut own = Command::new(std::env::current_exe()?);
            own.args(["-q", "bench", "training", "--child", "--model", &name]).args([
                "--steps",
                &self.steps.to_string(),
                "--threads",
                &context.threads().to_string(),
            ]);
            times[0].push(output(own, None)?.context("the measurement printed nothing")?);
            let mut python = Command::new(&self.python);
            let numbers = [context.threads(), self.steps, WARM].map(|n| n.to_string());
            python.args(["-", peer]).args(numbers);
            times[1].extend(output(python, Some(SCRIPT)).ok().flatten());
            context.report(Event::Step { done: turn + 1, message: &name });
        }
        let medians: Vec<Option<(f64, u64)>> = times
            .iter()
            .map(|turns| {
                let steps: Vec<f64> = turns.iter().filter_map(|t| median(&t.seconds)).collect();
                Some((median(&steps)?, turns.iter().map(|t| t.peak_rss_bytes).max()?))
            })
            .collect();
        let reference = medians.get(1).copied().flatten();
        let rows = [name.as_str(), peer].into_iter().zip(&times).zip(&medians).filter_map(
            |((model, times), measured)| {
                let (step_seconds, peak_rss_bytes) = (*measured)?;
                Some(Row {
                    model: model.to_owned(),
                    engine: times[0].engine.clone(),
                    threads: context.threads(),
                    step_seconds,
                    peak_rss_bytes,
                    ratio_vs_pytorch: reference.map(|r| step_seconds / r.0),
                    memory_ratio_vs_pytorch: reference.map(|r| peak_rss_bytes as f64 / r.1 as f64),
                })
            },
        );
        Ok(rows.collect())
    }
}

/// Runs a measurement; `None` if it printed nothing that is understood.
fn output(mut command: Command, input: Option<&str>) -> Result<Option<Times>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    if let Some(input) = input {
        stdin.write_all(input.as_bytes())?;
    }
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    Ok(serde_json::from_slice(&output.stdout).ok())
}

fn measure(model: Model, steps: usize) -> Result<Vec<f64>> {
    let mut rng = Pcg64::seed_from_u64(0);
    let mut tape = Tape::new();
    let mut adam = AdamW::new(0.01, StateBits::Full);
    let mut seconds = Vec::new();
    let mut time = |step: &mut dyn FnMut()| {
        for i in 0..WARM + steps {
            let began = Instant::now();
            step();
            if i >= WARM {
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
    };
    match model {
        Model::Decoder | Model::DecoderBf16 | Model::DecoderSltrain => {
            if model == Model::DecoderBf16 {
                tape.set_precision(Precision::Bf16);
            }
            let config = json!({
                "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6,
                "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 4096,
                "tie_word_embeddings": false,
            });
            let method = SlTrain { rank: 64, delta: 0.03, alpha: 32.0 };
            let config = config.as_object().expect("an object").clone();
            let mut decoder =
                TrainableDecoder::<f32>::new(config, &mut rng, |p, name, shape, deviation, rng| {
                    if model == Model::DecoderSltrain {
                        let refuse = |reason| WeightError::Structure { kind: "sltrain", reason };
                        return Ok(Box::new(method.weight(p, name, shape, rng).map_err(refuse)?));
                    }
                    let id = p.add_normal(format!("{name}.weight"), &[shape.0, shape.1], deviation, rng);
                    Ok(Box::new(DenseWeight::new(p, id)))
                })?;
            let ids: Vec<u32> = (0..8 * 256).map(|_| rng.random_range(0..4096)).collect();
            let targets: Vec<u32> = (0..8 * 256).map(|_| rng.random_range(0..4096)).collect();
            time(&mut || {
                decoder.parameters.zero_gradients();
                let loss = decoder.loss(&mut tape, &ids, &targets, 256);
                tape.backward(loss, &mut decoder.parameters);
                tape.clear();
                adam.step(&mut decoder.parameters, 3e-4);
            });
        }
        Model::MnistConv => {
            let mut p = Parameters::<f32>::new();
            let mut layer = |name: &str, out: usize, inner: usize, rng: &mut Pcg64| {
                let weight =
                    p.add_normal(format!("{name}.weight"), &[out, inner], (2.0 / inner as f64).sqrt(), rng);
                (weight, p.add_constant(format!("{name}.bias"), &[out], 0.0))
            };
            let first = layer("conv1", 32, 9, &mut rng);
            let second = layer("conv2", 64, 288, &mut rng);
            let hidden = layer("hidden", 128, 3136, &mut rng);
            let head = layer("head", 10, 128, &mut rng);
            let pixels: Vec<f32> = (0..128 * 784).map(|_| rng.random::<f32>() - 0.5).collect();
            let labels: Vec<u32> = (0..128).map(|_| rng.random_range(0..10)).collect();
            let conv = |channels, side| ConvShape {
                channels,
                height: side,
                width: side,
                kernel: 3,
                stride: 1,
                padding: 1,
            };
            let pool = |channels, side| PoolShape { channels, height: side, width: side, window: 2 };
            time(&mut || {
                p.zero_gradients();
                let x = tape.input(128, 784, &pixels);
                let x = tape.convolution(&p, x, first.0, Some(first.1), conv(1, 28));
                let x = tape.max_pool(&p, x, pool(32, 28));
                let x = tape.activation(&p, x, Activation::Relu);
                let x = tape.convolution(&p, x, second.0, Some(second.1), conv(32, 14));
                let x = tape.max_pool(&p, x, pool(64, 14));
                let x = tape.activation(&p, x, Activation::Relu);
                let x = tape.linear(&p, x, hidden.0, Some(hidden.1));
                let x = tape.activation(&p, x, Activation::Relu);
                let x = tape.linear(&p, x, head.0, Some(head.1));
                let loss = tape.cross_entropy(&p, x, &labels);
                tape.backward(loss, &mut p);
                tape.clear();
                adam.step(&mut p, 3e-4);
            });
        }
    }
    Ok(seconds)
}

fn to_text(rows: &[Row]) -> String {
    let mut table = Table::new([
        Column::text("model"),
        Column::text("engine"),
        Column::number("ms per step", 1),
        Column::text("peak memory"),
        Column::number("x PyTorch's time", 2),
        Column::number("x its memory", 2),
    ]);
    for row in rows {
        table.row([
            row.model.as_str().into(),
            row.engine.as_str().into(),
            (1e3 * row.step_seconds).into(),
            human_bytes(row.peak_rss_bytes).into(),
            row.ratio_vs_pytorch.into(),
            row.memory_ratio_vs_pytorch.into(),
        ]);
    }
    let threads = rows.first().map_or(0, |r| r.threads);
    let found = rows.iter().any(|r| r.ratio_vs_pytorch.is_some());
    let note = if found { "" } else { "; no PyTorch was found (see --python)" };
    format!("{threads} threads; {}{note}\n{table}", sparseland_matrix::features().join(" "))
}
