//! Logits and perplexities against Hugging Face transformers. See `fixtures/README.md`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sparseland_core::Context;
use sparseland_data::{Checkpoint, DType, TensorFile, TensorSource, read_documents};
use sparseland_nn::{Convention, Decoder, KvCache, ModelConfig, Tokenizer, score};

const TOLERANCE: f32 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The shared data, or `None` with a line that says what is skipped.
fn data() -> Option<PathBuf> {
    let root = std::env::var_os("SPARSELAND_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    eprintln!("skipped: real models need SPARSELAND_DATA; {} is no folder", root.display());
    None
}

fn ids(file: &TensorFile) -> Vec<u32> {
    assert_eq!(file.info("input_ids").unwrap().dtype, DType::I64);
    file.read_typed::<i64>("input_ids").unwrap().into_iter().map(|id| id as u32).collect()
}

/// The largest difference; infinite where there is NaN, which `f32::max` alone would pass over.
fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

/// All tiny checkpoints, each with both spellings of its configuration.
fn tiny() -> Vec<(String, Checkpoint, TensorFile)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.join("reference.safetensors").exists() {
            continue;
        }
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let reference = || TensorFile::open(dir.join("reference.safetensors")).unwrap();
        out.push((name.clone(), Checkpoint::open(&dir).unwrap(), reference()));
        // The older spelling, beside links to the same weights.
        let older = tempfile::tempdir().unwrap().keep();
        for file in std::fs::read_dir(&dir).unwrap() {
            let file = file.unwrap().path();
            let to = match file.file_name().unwrap().to_str().unwrap() {
                "config.json" => continue,
                "config-v4.json" => "config.json".to_owned(),
                other => other.to_owned(),
            };
            std::fs::copy(&file, older.join(to)).unwrap();
        }
        out.push((format!("{name} (older configuration)"), Checkpoint::open(&older).unwrap(), reference()));
        std::fs::remove_dir_all(older).unwrap_or(());
    }
    out
}

#[test]
fn logits_equal_transformers_for_every_architecture() {
    let context = Context::new(0, 2).unwrap();
    let all = tiny();
    assert!(all.len() >= 20, "only {} fixtures found", all.len());
    let mut largest = 0.0f32;
    for (name, checkpoint, reference) in &all {
        let decoder = Decoder::load(checkpoint, &context).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokens = ids(reference);
        let logits = context.install(|| decoder.logits(&tokens)).unwrap();
        let error = worst(&logits, &reference.read_f32("logits").unwrap());
        assert!(error < TOLERANCE, "{name}: {error}");
        largest = largest.max(error);
    }
    println!("{} configurations: largest difference to transformers {largest:.2e}", all.len());
}

#[test]
fn decoding_with_a_cache_equals_the_whole_sequence() {
    let context = Context::new(0, 1).unwrap();
    for (name, checkpoint, reference) in &tiny() {
        // Dynamic scaling turns earlier keys differently once the sequence is longer: transformers, too,
        // keeps them as they were, so decoding differs there by design.
        if name.contains("dynamic") {
            continue;
        }
        let decoder = Decoder::load(checkpoint, &context).unwrap();
        let tokens = ids(reference);
        let all = decoder.logits(&tokens).unwrap();
        let vocabulary = decoder.config().vocab_size;
        let mut cache = KvCache::new(decoder.config(), tokens.len());
        for (i, logits) in all.chunks_exact(vocabulary).enumerate().skip(6) {
            let step = if i == 6 {
                decoder.prefill(&tokens[..7], &mut cache).unwrap()
            } else {
                decoder.forward_one(tokens[i], &mut cache).unwrap()
            };
            let error = worst(step, logits);
            assert!(error < 1e-5, "{name} at {i}: {error}");
        }
        assert!(decoder.forward_one(0, &mut cache).is_err(), "{name}: the cache is full");
    }
}

#[test]
fn structured_weights_that_lose_nothing_change_nothing() {
    use sparseland_matrix::{Bitmask, Csr, Dense, LinearMap, Product, Sum, ValueType};
    let context = Context::new(0, 2).unwrap();
    for (name, checkpoint, reference) in &tiny() {
        let mut decoder = Decoder::load(checkpoint, &context).unwrap();
        for block in decoder.blocks_mut() {
            for (i, site) in sparseland_nn::LinearSite::ALL.into_iter().enumerate() {
                let weight = &mut block.linear_mut(site).weight;
                let (rows, cols, dense) = (weight.rows(), weight.cols(), weight.to_dense());
                let identity: Vec<f32> =
                    (0..cols * cols).map(|i| f32::from(u8::from(i / cols == i % cols))).collect();
                *weight = match i % 4 {
                    0 => Bitmask::from_dense(rows, cols, &dense, ValueType::F32).into(),
                    1 => Csr::from_dense(rows, cols, &dense, ValueType::F32).into(),
                    2 => Product::new(
                        Bitmask::from_dense(rows, cols, &dense, ValueType::F32),
                        Dense::from_f32(cols, cols, &identity, ValueType::F32),
                    )
                    .into(),
                    _ => Sum::new(vec![
                        Dense::from_f32(rows, cols, &dense, ValueType::F32).into(),
                        Csr::from_dense(rows, cols, &vec![0.0; rows * cols], ValueType::F32).into(),
                    ])
                    .into(),
                };
            }
        }
        let logits = decoder.logits(&ids(reference)).unwrap();
        let error = worst(&logits, &reference.read_f32("logits").unwrap());
        assert!(error < TOLERANCE, "{name}: {error}");
    }
}

#[test]
fn real_models_equal_transformers() {
    let Some(data) = data() else { return };
    let context = Context::new(0, 2).unwrap();
    let mut found = 0;
    for name in ["novels-10m", "tinystories-656k", "stories260k"] {
        let path = fixtures().join(format!("real-models/{name}.safetensors"));
        let reference = TensorFile::open(&path).unwrap();
        found += 1;
        let checkpoint = Checkpoint::open(data.join("models").join(name)).unwrap();
        let decoder = Decoder::load(&checkpoint, &context).unwrap();
        let tokens = ids(&reference);
        assert!(tokens.len() >= 200);
        let text = String::from_utf8(reference.read("text").unwrap()).unwrap();
        let encoded = Tokenizer::from_checkpoint(&checkpoint).unwrap().encode(&text, true).unwrap();
        assert_eq!(encoded.ids[..tokens.len()], tokens, "{name}: the tokenizer differs");
        let logits = context.install(|| decoder.logits(&tokens)).unwrap();
        let vocabulary = decoder.config().vocab_size;
        let full = reference.read_f32("logits").unwrap();
        let positions = reference.read_typed::<i64>("positions").unwrap();
        let mut error = 0.0f32;
        for (row, &position) in full.chunks_exact(vocabulary).zip(&positions) {
            let position = position as usize;
            error = error.max(worst(row, &logits[position * vocabulary..(position + 1) * vocabulary]));
        }
        let next = reference.read_f32("next_logit").unwrap();
        let sums = reference.read_f32("logsumexp").unwrap();
        for (i, row) in logits.chunks_exact(vocabulary).enumerate() {
            let sum = row.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln() as f32;
            error = error.max(worst(&[sum], &sums[i..=i]));
            if i + 1 < tokens.len() {
                error = error.max(worst(&[row[tokens[i + 1] as usize]], &next[i..=i]));
            }
        }
        println!("{name}: largest difference to transformers {error:.2e}");
        assert!(error < TOLERANCE, "{name}: {error}");
    }
    assert_eq!(found, 3);
}

#[test]
fn hostile_configurations_are_refused_in_one_line() {
    let path = fixtures().join("llama-bias/config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let hostile = [
        ("model_type", Value::from("gpt2")),
        ("model_type", Value::from("")),
        ("hidden_size", Value::from(0)),
        ("hidden_size", Value::from(-3)),
        ("hidden_size", Value::from(1u64 << 60)),
        ("hidden_size", Value::from("32")),
        ("num_attention_heads", Value::from(0)),
        ("num_attention_heads", Value::Null),
        ("num_key_value_heads", Value::from(3)),
        ("head_dim", Value::from(7)),
        ("num_hidden_layers", Value::Null),
        ("vocab_size", Value::from(1.5)),
        ("rms_norm_eps", Value::from(-1.0)),
        ("hidden_act", Value::from("relu6")),
        ("rope_parameters", serde_json::json!({ "rope_type": "longrope", "rope_theta": 1e4 })),
        ("rope_parameters", serde_json::json!({ "rope_type": "linear", "factor": 0.0 })),
        ("attention_bias", Value::from("yes")),
    ];
    for (key, value) in hostile {
        let mut config = good.as_object().unwrap().clone();
        config.insert(key.into(), value.clone());
        let error = ModelConfig::from_json(&config).expect_err(&format!("{key} = {value}")).to_string();
        assert!(!error.contains('\n') && error.starts_with("config.json: "), "{error}");
    }
    assert!(ModelConfig::from_json(good.as_object().unwrap()).is_ok());
}

#[test]
fn perplexities_equal_the_reference() {
    let Some(data) = data() else { return };
    let context = Context::new(0, 2).unwrap();
    let all: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("real-models/perplexity.json")).unwrap())
            .unwrap();
    let novel = |convention, bytes| {
        let checkpoint = Checkpoint::open(data.join("models/novels-10m")).unwrap();
        let decoder = Decoder::load(&checkpoint, &context).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        let mut text = read_documents(data.join("wikitext-2/wiki.valid.raw.zst")).unwrap().remove(0);
        text.truncate((0..=bytes).rev().find(|&i| text.is_char_boundary(i)).unwrap());
        score(&decoder, &tokenizer, &[text], convention, &context).unwrap()
    };
    let stories = |name: &str| {
        let checkpoint = Checkpoint::open(data.join("models").join(name)).unwrap();
        let decoder = Decoder::load(&checkpoint, &context).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        let mut text = read_documents(data.join("tinystories-sample/stories.jsonl.zst")).unwrap();
        text.truncate(100);
        score(&decoder, &tokenizer, &text, Convention::Documents { max_length: 512 }, &context).unwrap()
    };
    let runs = [
        (&all["windows"], novel(Convention::Windows { length: 256 }, 40_000)),
        (&all["rolling"], novel(Convention::Rolling { length: 256 }, 40_000)),
        (&all["rolling_short"], novel(Convention::Rolling { length: 256 }, 600)),
        (&all["documents"][0], stories("tinystories-656k")),
        (&all["documents"][1], stories("stories260k")),
    ];
    for (reference, score) in runs {
        let number = |key: &str| reference.get(key).and_then(Value::as_f64);
        let close = |key: &str, got: Option<f64>| {
            if let Some(want) = number(key) {
                let got = got.unwrap();
                assert!((got / want - 1.0).abs() < 1e-5, "{reference}: {key} is {got}, not {want}");
            }
        };
        assert_eq!(score.tokens as f64, number("predicted_tokens").or(number("tokens")).unwrap());
        if let Some(words) = number("words") {
            // Every token is predicted, so every byte is covered.
            assert_eq!(
                (score.bytes as f64, score.words),
                (number("text_bytes").unwrap(), Some(words as u64))
            );
        } else if let Some(bytes) = number("predicted_bytes") {
            assert_eq!((score.bytes as f64, score.words), (bytes, None));
        }
        close("nats", Some(score.nll));
        close("perplexity", score.perplexity());
        close("token_perplexity", score.perplexity());
        close("bits_per_byte", score.bits_per_byte());
        close("word_perplexity", score.word_perplexity());
        println!(
            "{}: perplexity {:?}, bits per byte {:?}",
            reference["model"],
            score.perplexity(),
            score.bits_per_byte()
        );
    }
}
