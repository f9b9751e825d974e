//! Whole runs: learning, resuming to the bit, refusals, and structure kept to the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sparseland_core::{Context, Event, Progress};
use sparseland_data::Checkpoint;
use sparseland_matrix::{Dense, Layout, LinearMap, ValueType};
use sparseland_nn::{Decoder, Tokenizer};
use sparseland_tape::Tape;
use sparseland_train::{Classifier, Images, LanguageModel, Recipe, Task, TrainError, Trainer};

fn context(threads: usize) -> Context {
    Context::new(0, threads).unwrap()
}

/// A text with much to learn in it.
fn text(dir: &Path) -> PathBuf {
    let path = dir.join("text.txt");
    let words = ["the boat ", "sailed ", "home ", "at night ", "and ", "a bird ", "sang. "];
    let text: String = (0..3000).map(|i| words[(i * i + i / 7) % words.len()]).collect();
    std::fs::write(&path, text).unwrap();
    path
}

fn lm_recipe(text: &Path, method: &str, steps: u64, extra: &str) -> Recipe {
    Recipe::parse(&format!(
        r#"
        seed = 7
        [model]
        hidden_size = 32
        intermediate_size = 64
        num_hidden_layers = 2
        num_attention_heads = 4
        num_key_value_heads = 2
        max_position_embeddings = 64
        tie_word_embeddings = true
        [data]
        text = [{text:?}]
        sequence = 32
        [training]
        steps = {steps}
        batch = 8
        learning_rate = 5e-3
        warmup = 5
        validate_every = 10
        {extra}
        [method]
        {method}
        "#,
    ))
    .unwrap()
}

const METHODS: [&str; 4] = [
    "name = \"dense\"",
    "name = \"sr-ste\"\nn = 2\nm = 4",
    "name = \"sltrain\"\nrank = 6\ndelta = 0.1\nalpha = 12.0",
    "name = \"low-rank\"\nrank = 8",
];

#[test]
fn every_method_learns_saves_its_structure_and_runs_as_it_trained() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    for (which, method) in METHODS.iter().enumerate() {
        let recipe = lm_recipe(&text, method, 60, "");
        let mut task = LanguageModel::new(&recipe).unwrap();
        let outcome = Trainer::new(&recipe, None).run(&mut task, &context(2)).unwrap();
        let (first, last) =
            (outcome.curve[0].metrics["bits_per_byte"], outcome.last("bits_per_byte").unwrap());
        assert!(last < 0.7 * first, "{method}: {first} {last}");
        let out = dir.path().join(format!("out{which}"));
        task.save(&out, ValueType::F32, Vec::new()).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        let sample = "the boat sang. é\u{1F426} and\nhome";
        let encoding = tokenizer.encode(sample, false).unwrap();
        assert_eq!(encoding.ids.len(), sample.len(), "a token per byte");
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), sample);
        let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
        for (_, linear) in decoder.blocks().iter().flat_map(|b| b.linears()) {
            let layout = linear.weight.layout();
            let fits = match which {
                0 => matches!(layout, Layout::Dense { .. }),
                1 => matches!(layout, Layout::NofM { n: 2, m: 4, .. }),
                2 => matches!(layout, Layout::Sum { .. }),
                _ => matches!(layout, Layout::Product { .. }),
            };
            assert!(fits, "{method}: {layout:?}");
        }
        // The saved model predicts as the trained one.
        let (ids, targets) = (encoding.ids[..24].to_vec(), encoding.ids[1..25].to_vec());
        let mut tape = Tape::new();
        tape.set_recording(false);
        let loss = task.model().loss(&mut tape, &ids, &targets, 24);
        let logits = decoder.logits(&ids).unwrap();
        let nats: f64 = logits
            .chunks(257)
            .zip(&targets)
            .map(|(row, &t)| {
                let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
                total.ln() - f64::from(row[t as usize])
            })
            .sum();
        let trained = f64::from(tape.value(loss)[0]);
        assert!((nats / 24.0 - trained).abs() < 1e-4, "{method}: {} {trained}", nats / 24.0);
    }
}

fn bytes(task: &mut dyn Task) -> Vec<Vec<f32>> {
    task.parameters().iter().map(|p| p.value.to_vec()).collect()
}

#[test]
fn rounded_products_learn_as_well_and_alike_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let run = |extra: &str, threads: usize| {
        let recipe = lm_recipe(&text, METHODS[0], 60, extra);
        let mut task = LanguageModel::new(&recipe).unwrap();
        let outcome = Trainer::new(&recipe, None).run(&mut task, &context(threads)).unwrap();
        (bytes(&mut task), outcome.last("bits_per_byte").unwrap())
    };
    let (full, exact) = run("", 2);
    let (one, rounded) = run("products = \"bf16\"", 1);
    assert_eq!(one, run("products = \"bf16\"", 2).0);
    assert_ne!(one, full);
    assert!((rounded / exact - 1.0).abs() < 0.05, "{rounded} {exact}");
}

/// Cancels once a step is done, as Ctrl-C does.
struct Stop(Arc<AtomicBool>, usize);

impl Progress for Stop {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { done, .. } = event {
            self.0.fetch_or(done >= self.1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_run_stopped_at_any_step_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    for (method, stop) in METHODS.iter().zip([13u64, 7, 22, 1]) {
        let extra = "save_every = 1\naccumulate = 2";
        let recipe = lm_recipe(&text, method, 25, extra);
        let mut whole = LanguageModel::new(&recipe).unwrap();
        let outcome = Trainer::new(&recipe, None).run(&mut whole, &context(2)).unwrap();
        let out = dir.path().join(format!("stopped{stop}"));
        std::fs::create_dir_all(&out).unwrap();
        let stopping = context(1);
        let flag = stopping.cancel_flag();
        let stopping = stopping.with_progress(Arc::new(Stop(flag, stop as usize)));
        let mut part = LanguageModel::new(&recipe).unwrap();
        let error = Trainer::new(&recipe, Some(&out)).run(&mut part, &stopping).unwrap_err();
        assert!(matches!(error, TrainError::Cancelled(_)), "{error}");
        let mut rest = LanguageModel::new(&recipe).unwrap();
        let mut trainer = Trainer::new(&recipe, Some(&out));
        assert!(trainer.can_resume());
        trainer.resume(&mut rest).unwrap();
        assert_eq!(trainer.step(), stop);
        let resumed = trainer.run(&mut rest, &context(2)).unwrap();
        assert_eq!(bytes(&mut whole), bytes(&mut rest), "{method}");
        assert_eq!(outcome.curve, resumed.curve, "{method}");
        let other = lm_recipe(&text, method, 26, extra);
        let error = Trainer::new(&other, Some(&out)).resume(&mut rest).unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
        trainer.forget();
        assert!(!trainer.can_resume());
    }
}

#[test]
fn a_loss_that_explodes_names_step_and_last_good_state() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let mut recipe = lm_recipe(&text, METHODS[0], 200, "save_every = 1\nclip = 0.0\noptimiser = \"sgd\"");
    recipe.training.learning_rate = 1e18;
    let mut task = LanguageModel::new(&recipe).unwrap();
    let error = Trainer::new(&recipe, Some(dir.path())).run(&mut task, &context(1)).unwrap_err().to_string();
    for part in ["step ", "is not finite", "last good state", "lower the learning rate"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn patience_stops_a_run_that_learns_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let mut recipe = lm_recipe(&text, METHODS[0], 500, "patience = 2");
    recipe.training.learning_rate = 1e-300;
    let mut task = LanguageModel::new(&recipe).unwrap();
    let outcome = Trainer::new(&recipe, None).run(&mut task, &context(1)).unwrap();
    assert!(outcome.stopped_early && outcome.steps == 30, "{}", outcome.steps);
}

#[test]
fn impossible_recipes_are_refused_before_any_work() {
    let parse = |text: &str| Recipe::parse(text).unwrap_err().to_string();
    let base = "[data]\n[training]\nsteps = 1\nbatch = 4\nlearning_rate = 1.0\n";
    assert!(parse(&format!("{base}learning_rat = 2.0")).contains("learning_rat"));
    assert!(parse(&format!("{base}accumulate = 3")).contains("equal parts"));
    assert!(parse(&format!("{base}[method]\nname = \"sr-ste\"\nn = 5\nm = 4")).contains("5:4"));
    assert!(parse(&format!("{base}[method]\nname = \"sltrain\"\nrank = 4\ndelta = 1.5")).contains("delta"));
    assert!(parse(&format!("{base}[method]\nname = \"lottery\"")).contains("lottery"));
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let refuse = |text: &Path, method: &str| match LanguageModel::new(&lm_recipe(text, method, 1, "")) {
        Ok(_) => panic!("{method} was accepted"),
        Err(error) => error.to_string(),
    };
    let error = refuse(&text, "name = \"sltrain\"\nrank = 30\ndelta = 0.2");
    assert!(error.contains("rank of at most"), "{error}");
    let error = refuse(&text, "name = \"sr-ste\"\nn = 2\nm = 24");
    assert!(error.contains("multiple of M"), "{error}");
    let error = refuse(&text, "name = \"sltrain\"\nrank = 2\ndelta = 0.00001");
    assert!(error.contains("use at least"), "{error}");
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "too short").unwrap();
    assert!(refuse(&short, METHODS[0]).contains("a sequence of 32 needs more"));
}

/// Images of bars: vertical, horizontal or none, with noise.
fn bars(count: usize, seed: u32) -> Images {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count as u32 {
        let class = i % 3;
        let place = (i / 3 + seed) % 6 + 1;
        for y in 0..8 {
            for x in 0..8 {
                let on = (class == 0 && x == place) || (class == 1 && y == place);
                let hash = (i * 64 + y * 8 + x).wrapping_mul(2_654_435_761).wrapping_add(seed);
                pixels.push(f32::from(u8::from(on)) * 2.0 + (hash >> 16 & 255) as f32 / 255.0 - 0.5);
            }
        }
        labels.push(class);
    }
    Images { pixels, labels, shape: (8, 8), classes: 3 }
}

#[test]
fn structured_conv_nets_learn_and_their_exports_give_the_same_logits() {
    for (n, m) in [(0, 0), (2, 4), (1, 8)] {
        let method = format!("[method]\nname = \"sr-ste\"\nn = {n}\nm = {m}\ntail = \"pad\"");
        let recipe = Recipe::parse(&format!(
            "[net]\nkind = \"conv\"\nchannels = [4, 8]\nhidden = 16\n[data]\n[training]\nsteps = 90\nbatch = 30\n\
             learning_rate = 0.01\nvalidate_every = 30\n{}",
            if n > 0 { &method } else { "" }
        ))
        .unwrap();
        let mut task = Classifier::with_data(&recipe, bars(300, 1), bars(90, 5)).unwrap();
        let outcome = Trainer::new(&recipe, None).run(&mut task, &context(2)).unwrap();
        assert!(outcome.last("accuracy").unwrap() > 0.95, "{n}:{m}: {:?}", outcome.curve);
        let export = task.export(ValueType::F32);
        let pixels = task.validation().pixels.clone();
        let (masked, packed) = (task.predict(&mut Tape::new(), &pixels), task.run_exported(&export, &pixels));
        let scale = masked.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        assert!(masked.iter().zip(&packed).all(|(a, b)| (a - b).abs() <= 1e-5 * scale));
        if n > 0 {
            let sparse = |name: &str| {
                let layer = export.iter().find(|(n, _)| n == name).unwrap();
                matches!(layer.1.layout(), Layout::NofM { .. })
            };
            assert!(!sparse("conv.0") && sparse("conv.1") && sparse("hidden") && !sparse("head"));
            let flips: Vec<f64> = outcome.curve.iter().map(|p| p.metrics["mask flips"]).collect();
            assert!(flips[0] > flips[2], "the mask settles: {flips:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let size = task.save(&dir.path().join("net.safetensors"), ValueType::F32).unwrap();
        assert!(size > export.iter().map(|(_, m)| m.stored_bytes()).sum());
    }
}

#[test]
fn all_kept_equals_dense_training_to_the_bit_and_no_decay_equals_straight_through() {
    let run = |method: &str| {
        let recipe = Recipe::parse(&format!(
            "[net]\nkind = \"mlp\"\nhidden = [24, 16]\n[data]\n[training]\nsteps = 20\nbatch = 30\n\
             learning_rate = 0.01\n{method}"
        ))
        .unwrap();
        let mut task = Classifier::with_data(&recipe, bars(120, 1), bars(30, 5)).unwrap();
        Trainer::new(&recipe, None).run(&mut task, &context(1)).unwrap();
        bytes(&mut task)
    };
    assert_eq!(run(""), run("[method]\nname = \"sr-ste\"\nn = 4\nm = 4"));
    let with = |lambda: &str, on: &str| {
        run(&format!("[method]\nname = \"sr-ste\"\nn = 2\nm = 4\nlambda = {lambda}\ndecay_on = \"{on}\""))
    };
    assert_eq!(with("0.0", "gradient"), with("0.0", "weight"));
    assert_ne!(with("0.0", "gradient"), with("0.1", "gradient"));
}

#[test]
fn gradients_of_single_items_are_those_of_finite_differences() {
    let text =
        "[net]\nkind = \"mlp\"\nhidden = [6]\n[data]\n[training]\nsteps = 5\nbatch = 8\nlearning_rate = 0.01";
    let recipe = Recipe::parse(text).unwrap();
    let mut task = Classifier::with_data(&recipe, bars(40, 1), bars(10, 5)).unwrap();
    let items = bars(40, 1);
    let found = task.item_gradients(3);
    let layer = &found[1];
    assert_eq!(layer.name, "head");
    let (rows, cols) = (items.classes, 6);
    assert_eq!((layer.inputs.len(), layer.outputs.len()), (3 * cols, 3 * rows));
    let width = items.shape.0 * items.shape.1;
    for item in 0..3 {
        let (pixels, label) = (&items.pixels[item * width..][..width], items.labels[item] as usize);
        // The loss of an item with one entry of the head changed.
        let loss = |o: usize, j: usize, step: f32| -> f64 {
            let mut layers = task.export(ValueType::F32);
            let mut head = layers[1].1.to_dense();
            head[o * cols + j] += step;
            layers[1].1 = Dense::from_f32(rows, cols, &head, ValueType::F32).into();
            let logits: Vec<f64> = task.run_exported(&layers, pixels).iter().map(|&v| f64::from(v)).collect();
            let most = logits.iter().copied().fold(f64::MIN, f64::max);
            most + logits.iter().map(|l| (l - most).exp()).sum::<f64>().ln() - logits[label]
        };
        let gradient = |o: usize, j: usize| (loss(o, j, 1e-2) - loss(o, j, -1e-2)) / 2e-2;
        let (x, d) = (&layer.inputs[item * cols..][..cols], &layer.outputs[item * rows..][..rows]);
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        // Both rows have the gradient's norm, and their outer product is the gradient times it, up to a sign.
        assert!((norm(x) - norm(d)).abs() < 1e-4 * norm(x), "{} {}", norm(x), norm(d));
        let mut sign = 0.0;
        for o in 0..rows {
            for j in 0..cols {
                let (ours, theirs) = (f64::from(x[j]) * f64::from(d[o]) / norm(x), gradient(o, j));
                if sign == 0.0 && theirs.abs() > 1e-3 {
                    sign = (ours * theirs).signum();
                }
                assert!(
                    (ours - sign * theirs).abs() < 1e-3 || theirs.abs() <= 1e-3,
                    "{o} {j}: {ours} {theirs}"
                );
            }
        }
        assert!(sign != 0.0);
    }
}

#[test]
fn damaged_items_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table.csv");
    let read = |text: &str| {
        std::fs::write(&table, text).unwrap();
        Images::read(&table, Some(&table)).unwrap_err().to_string()
    };
    assert!(read("1,2,0\n3,x,1\n").contains("line 2, column 2"));
    assert!(read("1,2,0\n3,1\n").contains("line 2 has 2 columns"));
    assert!(read("1,2,0.5\n").contains("0.5 is no class"));
    assert!(read("1,NaN,0\n").contains("line 1, column 2"));
    assert!(read("# only a comment\n").contains("holds no row"));
    std::fs::write(&table, "a,b,class\n1,2,0\n\n3,4,1\n").unwrap();
    let (images, _) = Images::read(&table, Some(&table)).unwrap();
    assert_eq!((images.len(), images.shape, images.classes), (2, (1, 2), 2));
    let idx = |bytes: &[u8]| {
        std::fs::write(dir.path().join("train-images-idx3-ubyte"), bytes).unwrap();
        std::fs::write(dir.path().join("train-labels-idx1-ubyte"), [0u8, 0, 8, 1, 0, 0, 0, 0]).unwrap();
        Images::read(dir.path(), None).unwrap_err().to_string()
    };
    assert!(idx(&[0, 0, 8, 3, 0, 0, 0, 9]).contains("ends inside its header"));
    assert!(idx(&[0, 0, 9, 1, 0, 0, 0, 0]).contains("no IDX file of bytes"));
    assert!(idx(&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1]).contains("1 bytes of data"));
}
