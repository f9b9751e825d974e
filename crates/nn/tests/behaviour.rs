//! What a decoder promises beside the right numbers: loading, streaming, generating and scoring.
//!
//! Tests without the shared data run on a fixture with random weights and tokenizers made here.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sparseland_core::Context;
use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, DType, TensorSource, TensorSpec, read_documents,
};
use sparseland_matrix::{Bitmask, Dense, Layout, LinearMap, Matrix, Product, ValueType};
use sparseland_nn::structure::{Structure, StructuredLayer, part_spec};
use sparseland_nn::{
    Block, Convention, Decoder, KvCache, LinearInput, LinearSite, LoadOptions, ModelConfig, NnError, Sampler,
    Stop, Streaming, Tokenizer, Workspace, embed, generate, score,
};

fn fixture(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
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

fn context(threads: usize) -> Context {
    Context::new(0, threads).unwrap()
}

/// Tokens below 64, the vocabulary of the fixtures.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 29 + i * i * 7 + 3) % 64).collect()
}

/// A copy of a checkpoint with some tensors replaced or added; `None` leaves one out.
fn rewrite(
    from: &Checkpoint,
    config: &serde_json::Map<String, Value>,
    edits: &[(TensorSpec, Option<Vec<u8>>)],
    files: &[(&str, &[u8])],
) -> (tempfile::TempDir, Checkpoint) {
    let edited = |name: &str| edits.iter().any(|(spec, _)| spec.name == name);
    let kept: Vec<&str> = from.names().into_iter().filter(|name| !edited(name)).collect();
    let mut specs: Vec<TensorSpec> = Vec::new();
    for &name in &kept {
        let info = from.info(name).unwrap();
        specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
    }
    specs.extend(edits.iter().filter(|(_, bytes)| bytes.is_some()).map(|(spec, _)| spec.clone()));
    let dir = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(dir.path(), &specs, &CheckpointOptions::default()).unwrap();
    kept.iter().for_each(|name| writer.copy(from, name).unwrap());
    for (spec, bytes) in edits {
        if let Some(bytes) = bytes {
            writer.write(&spec.name, bytes).unwrap();
        }
    }
    files.iter().for_each(|(name, bytes)| writer.add_file(name, *bytes).unwrap());
    writer.finish(config).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// A tokenizer of 64 words `w0 w1 ...`, `w1` put before every text, that asks for texts to be cut to four
/// tokens (which must not happen).
fn word_tokenizer() -> Vec<u8> {
    let vocabulary: serde_json::Map<String, Value> = (0..64).map(|i| (format!("w{i}"), i.into())).collect();
    let single = json!([{ "SpecialToken": { "id": "w1", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }]);
    serde_json::to_vec(&json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": {
            "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "w0",
        },
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": single,
            "special_tokens": { "w1": { "id": "w1", "ids": [1], "tokens": ["w1"] } },
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    }))
    .unwrap()
}

/// A fixture with the words as its tokenizer.
fn with_words(config: &serde_json::Map<String, Value>) -> (tempfile::TempDir, Checkpoint) {
    rewrite(&fixture("llama-bias"), config, &[], &[("tokenizer.json", &word_tokenizer())])
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name_and_index() {
    let good = fixture("llama-bias");
    let name = "model.layers.1.mlp.up_proj.weight";
    let shape = good.info(name).unwrap().shape.clone();
    let values = good.read_f32(name).unwrap();
    for (dtype, size) in [(DType::F32, 4), (DType::BF16, 2), (DType::F16, 2)] {
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            let mut values = values.clone();
            values[17] = bad;
            let bytes: Vec<u8> = match dtype {
                DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            };
            assert_eq!(bytes.len(), values.len() * size);
            let spec = TensorSpec::new(name, dtype, shape.clone());
            let (_dir, checkpoint) = rewrite(&good, good.config(), &[(spec, Some(bytes))], &[]);
            let error = Decoder::load(&checkpoint, &context(1)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("at index 17"), "{dtype:?}: {error}");
        }
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let good = fixture("llama-bias");
    for name in
        ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"]
    {
        let info = good.info(name).unwrap();
        let spec = TensorSpec::new(name, info.dtype, info.shape.clone());
        let (_dir, checkpoint) = rewrite(&good, good.config(), &[(spec, None)], &[]);
        let error = Decoder::load(&checkpoint, &context(1)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        let spec = TensorSpec::new(name, DType::F32, [3]);
        let (_dir, checkpoint) = rewrite(&good, good.config(), &[(spec, Some(vec![0; 12]))], &[]);
        let error = Decoder::load(&checkpoint, &context(1)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("has shape [3]"), "{error}");
    }
}

#[test]
fn blocks_one_at_a_time_equal_the_whole_model() {
    for name in ["llama-bias", "llama-dynamic", "qwen3", "qwen2-mixed-window", "llama-llama3"] {
        let checkpoint = fixture(name);
        let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
        let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
        // Sequences of different lengths share one workspace.
        let sequences = [tokens(40), tokens(9), tokens(33)];
        let mut states: Vec<Vec<f32>> =
            embed(&checkpoint, &config, &sequences).unwrap().collect::<Result<_, _>>().unwrap();
        let mut workspace = Workspace::new(&config);
        for index in 0..config.num_hidden_layers {
            let block = Block::load(&checkpoint, &config, index, &LoadOptions::default()).unwrap();
            for hidden in &mut states {
                block.forward_sequence(&config, hidden, &mut workspace, &mut |_, _, _| {});
            }
        }
        for (sequence, states) in sequences.iter().zip(&states) {
            let whole = decoder.hidden_states(sequence, &mut Workspace::new(&config)).unwrap();
            assert_eq!(states, &whole, "{name}");
        }
    }
}

#[test]
fn observers_see_what_the_linear_layers_read() {
    for name in ["llama-bias", "qwen3", "mistral-window8"] {
        let checkpoint = fixture(name);
        let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
        let block = Block::load(&checkpoint, &config, 0, &LoadOptions::default()).unwrap();
        let sequences = [tokens(21)];
        let before = embed(&checkpoint, &config, &sequences).unwrap().next().unwrap().unwrap();
        let mut hidden = before.clone();
        let mut seen: Vec<(LinearInput, Vec<f32>)> = Vec::new();
        block.forward_sequence(&config, &mut hidden, &mut Workspace::new(&config), &mut |input, x, rows| {
            assert_eq!(rows, 21);
            seen.push((input, x.to_vec()));
        });
        let order: Vec<LinearInput> = seen.iter().map(|s| s.0).collect();
        use LinearInput::{Attention, AttentionOutput, Mlp, MlpActivation};
        assert_eq!(order, [Attention, AttentionOutput, Mlp, MlpActivation]);
        let run = |site: LinearSite| {
            let x = &seen[order.iter().position(|&o| o == site.input()).unwrap()].1;
            assert_eq!(x.len(), 21 * site.shape(&config).1);
            let mut y = vec![0.0; 21 * site.shape(&config).0];
            block.linear(site).forward(x, 21, &mut y);
            y
        };
        // The activation is the gated product, and the residual stream is the sum of both branches.
        let gated: Vec<f32> = run(LinearSite::Gate)
            .iter()
            .zip(run(LinearSite::Up))
            .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
            .collect();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&gated, &seen[3].1), "{name}");
        let branches = run(LinearSite::O).into_iter().zip(run(LinearSite::Down));
        let sum: Vec<f32> = before.iter().zip(branches).map(|(h, (o, d))| h + o + d).collect();
        assert!(close(&sum, &hidden), "{name}");
        assert_eq!(block.linears().map(|(site, _)| site).collect::<Vec<_>>(), LinearSite::ALL);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in ["llama-llama3", "qwen2", "qwen3", "mistral-window8"] {
        let decoder = Decoder::load(&fixture(name), &context(1)).unwrap();
        // Several blocks of attention.
        let tokens = tokens(120);
        let run = |threads| context(threads).install(|| decoder.logits(&tokens)).unwrap();
        let one = run(1);
        assert_eq!(one, run(2), "{name}");
        assert_eq!(one, run(5), "{name}");
    }
}

#[test]
fn prompts_may_come_in_pieces_and_failures_leave_the_cache_alone() {
    let decoder = Decoder::load(&fixture("qwen3"), &context(1)).unwrap();
    let (tokens, vocabulary) = (tokens(100), decoder.config().vocab_size);
    let whole = decoder.logits(&tokens).unwrap();
    let mut cache = KvCache::new(decoder.config(), tokens.len());
    for piece in [0..1, 1..40, 40..41, 41..99] {
        let end = piece.end;
        assert!(matches!(decoder.prefill(&[], &mut cache), Err(NnError::ShortText { .. })));
        assert!(matches!(decoder.forward_one(64, &mut cache), Err(NnError::Token { token: 64, .. })));
        assert!(matches!(decoder.prefill(&[0; 101], &mut cache), Err(NnError::Context { .. })));
        let logits = decoder.prefill(&tokens[piece], &mut cache).unwrap();
        let want = &whole[(end - 1) * vocabulary..end * vocabulary];
        assert!(logits.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{end}");
        assert_eq!(cache.len(), end);
    }
}

#[test]
fn linear_weights_load_in_another_type() {
    let checkpoint = fixture("qwen2");
    let plain = Decoder::load(&checkpoint, &context(1)).unwrap();
    for values in [ValueType::I8, ValueType::F32, ValueType::Bf16] {
        let options = LoadOptions { values: Some(values) };
        let other = Decoder::load_with(&checkpoint, &options, &context(1)).unwrap();
        for (a, b) in plain.blocks().iter().zip(other.blocks()) {
            for ((site, a), (_, b)) in a.linears().zip(b.linears()) {
                assert!(matches!(b.weight.layout(), Layout::Dense { values: v, .. } if v == values));
                let cols = site.shape(plain.config()).1;
                for (a, b) in a.weight.to_dense().chunks(cols).zip(b.weight.to_dense().chunks(cols)) {
                    // Half a step of 127 to the row's largest; the stored type is bf16.
                    let top = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let bound = if values == ValueType::I8 { top / 253.9 } else { 0.0 };
                    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= bound), "{values} {site:?}");
                }
            }
        }
        let logits = |d: &Decoder| d.logits(&tokens(20)).unwrap();
        assert_eq!(values == ValueType::I8, logits(&plain) != logits(&other), "{values}");
    }
}

#[test]
fn structured_layers_survive_the_file() {
    // An untied head, so that it may be structured too.
    let original = fixture("llama-llama3");
    let mut decoder = Decoder::load(&original, &context(1)).unwrap();
    let (mut structure, mut edits) = (Structure::default(), Vec::new());
    let mut add = |name: String, matrix: &Matrix| {
        let weight = format!("{name}.weight");
        let info = original.info(&weight).unwrap();
        edits.push((TensorSpec::new(weight, info.dtype, info.shape.clone()), None));
        edits.extend(matrix.parts(&name).into_iter().map(|part| (part_spec(&part), Some(part.bytes))));
        structure
            .layers
            .insert(name, StructuredLayer { method: "test".into(), layout: matrix.layout(), inputs: None });
    };
    for (index, block) in decoder.blocks_mut().iter_mut().enumerate() {
        for (i, site) in LinearSite::ALL.into_iter().enumerate() {
            let weight = &mut block.linear_mut(site).weight;
            let (rows, cols, dense) = (weight.rows(), weight.cols(), weight.to_dense());
            *weight = match i % 3 {
                0 => Bitmask::from_dense(rows, cols, &dense, ValueType::F16).into(),
                1 => Product::new(
                    Dense::from_f32(rows, 2, &dense[..rows * 2], ValueType::Bf16),
                    Dense::from_f32(2, cols, &dense[..2 * cols], ValueType::I8),
                )
                .into(),
                _ => continue,
            };
            add(site.full_name(index), weight);
        }
    }
    let head = original.read_f32("lm_head.weight").unwrap();
    add("lm_head".into(), &Bitmask::from_dense(64, 32, &head, ValueType::F16).into());
    let mut config = original.config().clone();
    structure.write(&mut config);
    let (_dir, checkpoint) = rewrite(&original, &config, &edits, &[]);
    let read = Decoder::load(&checkpoint, &context(1)).unwrap();
    for (a, b) in decoder.blocks().iter().zip(read.blocks()) {
        assert!(a.linears().zip(b.linears()).all(|((_, a), (_, b))| a.weight == b.weight));
    }
    let tokens = tokens(30);
    let (a, b) = (decoder.logits(&tokens).unwrap(), read.logits(&tokens).unwrap());
    // The head's product is another kernel's.
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));

    // A part that is missing, holds NaN, or belongs to no layer.
    let fails = |edits: &[(TensorSpec, Option<Vec<u8>>)], config: &serde_json::Map<String, Value>| {
        let (_dir, checkpoint) = rewrite(&original, config, edits, &[]);
        Decoder::load(&checkpoint, &context(1)).unwrap_err().to_string()
    };
    let part = "model.layers.1.self_attn.k_proj.factor_a";
    let at = edits.iter().position(|(spec, _)| spec.name == part).unwrap();
    let mut without = edits.clone();
    without.remove(at);
    assert!(fails(&without, &config).contains(part));
    let mut nan = edits.clone();
    nan[at].1.as_mut().unwrap()[6..8].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let error = fails(&nan, &config);
    assert!(error.contains(part) && error.contains("at index 3"), "{error}");
    let layer = structure.layers["lm_head"].clone();
    structure.layers.insert("model.layers.7.mlp.up_proj".into(), layer.clone());
    structure.write(&mut config);
    assert!(fails(&edits, &config).contains("model.layers.7.mlp.up_proj"));
    structure.layers.remove("model.layers.7.mlp.up_proj");
    structure.layers.insert("model.layers.0.self_attn.v_proj".into(), layer);
    structure.write(&mut config);
    assert!(fails(&edits, &config).contains("model.layers.0.self_attn.v_proj is 64 x 32"));
}

#[test]
fn scores_equal_sums_over_logits() {
    let (_dir, checkpoint) = with_words(fixture("llama-bias").config());
    let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let text: Vec<String> = tokens(200).iter().map(|t| format!("w{t}")).collect();
    let documents = [text[..120].join(" "), text[120..].join("  ")];
    let encoding = tokenizer.encode(&documents[0], true).unwrap();
    assert_eq!(encoding.ids[1..], tokens(120), "texts are neither cut nor filled up");
    assert_eq!((encoding.ids[0], encoding.ends[0]), (1, 0));
    assert_eq!(encoding.ends[120], documents[0].len());
    // Of a sequence, the targets from `first` on.
    let nll = |ids: &[u32], first: usize| {
        let logits = decoder.logits(ids).unwrap();
        let rows = logits.chunks_exact(64).zip(&ids[1..]).skip(first - 1);
        let loss = |(row, &target): (&[f32], &u32)| {
            row.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln() - f64::from(row[target as usize])
        };
        rows.map(loss).sum::<f64>()
    };
    let run = |convention| score(&decoder, &tokenizer, &documents, convention, &context(2)).unwrap();
    let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");

    let score = run(Convention::Documents { max_length: 100 });
    let first: Vec<u32> = std::iter::once(1).chain(tokens(200)[..99].iter().copied()).collect();
    let second: Vec<u32> = std::iter::once(1).chain(tokens(200)[120..].iter().copied()).collect();
    close(score.nll, nll(&first, 1) + nll(&second, 1));
    assert_eq!((score.tokens, score.words), (99 + 80, None));
    let bytes = text[..99].join(" ").len() + documents[1].len();
    assert_eq!(score.bytes as usize, bytes);

    let score = run(Convention::Windows { length: 50 });
    let joined: Vec<u32> = std::iter::once(1).chain(tokens(200)).collect();
    close(score.nll, joined.chunks_exact(50).map(|w| nll(w, 1)).sum());
    assert_eq!((score.tokens, score.words), (4 * 49, None));

    let score = run(Convention::Rolling { length: 50 });
    let ids = tokens(200);
    let with_prefix =
        |range: std::ops::Range<usize>| std::iter::once(1).chain(ids[range].iter().copied()).collect();
    let windows: [(Vec<u32>, usize); 5] = [
        (with_prefix(0..50), 1),
        (ids[49..100].to_vec(), 1),
        // The rest of 20, filled to the left.
        (ids[69..120].to_vec(), 31),
        (with_prefix(120..170), 1),
        (ids[149..200].to_vec(), 21),
    ];
    close(score.nll, windows.iter().map(|(ids, first)| nll(ids, *first)).sum());
    assert_eq!((score.tokens, score.words), (200, Some(200)));
    assert_eq!(score.bytes as usize, documents[0].len() + documents[1].len());
}

#[test]
fn texts_and_windows_that_cannot_be_scored_are_refused() {
    let fixture = fixture("llama-bias");
    let (_dir, checkpoint) = with_words(fixture.config());
    let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let run = |text: &[&str], convention| {
        let text: Vec<String> = text.iter().map(|&t| t.to_owned()).collect();
        score(&decoder, &tokenizer, &text, convention, &context(1)).unwrap_err()
    };
    let short = |error: NnError| match error {
        NnError::ShortText { tokens, needed } => (tokens, needed),
        other => panic!("{other}"),
    };
    assert_eq!(short(run(&["w3 w4"], Convention::Windows { length: 4 })), (3, 4));
    assert_eq!(short(run(&[], Convention::Windows { length: 4 })), (1, 4));
    assert_eq!(short(run(&["", ""], Convention::Documents { max_length: 9 })), (1, 2));
    assert_eq!(short(run(&["", ""], Convention::Rolling { length: 9 })), (0, 1));
    for convention in [
        Convention::Windows { length: 1 },
        Convention::Windows { length: 129 },
        Convention::Rolling { length: 0 },
        Convention::Documents { max_length: 1 },
    ] {
        assert!(matches!(run(&["w3 w4 w5"], convention), NnError::Setting(_)), "{convention:?}");
    }
    let cancelled = context(1);
    cancelled.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let text = ["w3 w4 w5".to_owned()];
    let error =
        score(&decoder, &tokenizer, &text, Convention::Rolling { length: 9 }, &cancelled).unwrap_err();
    assert!(matches!(error, NnError::Cancelled(_)));

    let mut config = fixture.config().clone();
    config.insert("bos_token_id".into(), Value::Null);
    config.insert("eos_token_id".into(), Value::Null);
    let (_dir, checkpoint) = with_words(&config);
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let error =
        score(&decoder, &tokenizer, &text, Convention::Rolling { length: 9 }, &context(1)).unwrap_err();
    assert!(error.to_string().contains("bos_token_id"), "{error}");
}

#[test]
fn generation_stops_for_the_right_reason_and_repeats() {
    let (_dir, checkpoint) = with_words(fixture("llama-bias").config());
    let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let run = |prompt: &str, tokens, sampler: Sampler| {
        let mut text = String::new();
        let outcome = generate(&decoder, &tokenizer, prompt, tokens, &sampler, &context(1), &mut |piece| {
            text.push_str(piece);
        });
        outcome.map(|outcome| (outcome, text))
    };
    let warm = |seed| Sampler { temperature: 1.5, seed, ..Sampler::default() };
    let draws = |seed| run("w5 w6", 20, warm(seed)).unwrap().0.tokens;
    assert_eq!(draws(3), draws(3));
    assert!((0..5).any(|seed| draws(seed) != draws(3)));

    // Greedy: each token is the likeliest after all before it.
    let (outcome, text) = run("w5 w6 w7", 12, Sampler::default()).unwrap();
    let mut ids = vec![1, 5, 6, 7];
    for &token in &outcome.tokens {
        let logits = decoder.logits(&ids).unwrap();
        let last = &logits[(ids.len() - 1) * 64..];
        assert!(last.iter().all(|&v| v <= last[token as usize]));
        ids.push(token);
    }
    let words: Vec<String> = outcome.tokens.iter().map(|t| format!(" w{t}")).collect();
    assert_eq!(text, words.concat());
    match outcome.stop {
        Stop::Length => assert_eq!(outcome.tokens.len(), 12),
        Stop::End => assert!(outcome.tokens.len() < 12),
        Stop::Context => panic!("the context holds 128 tokens"),
    }

    // Without a token that ends the text, the context does: 128 tokens, one of them w1.
    let mut endless = fixture("llama-bias").config().clone();
    endless.insert("eos_token_id".into(), Value::Null);
    let (_dir, checkpoint) = with_words(&endless);
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let prompt = vec!["w9"; 120].join(" ");
    let mut ignore = |_: &str| {};
    let mut run = |prompt: &str, tokens| {
        generate(&decoder, &tokenizer, prompt, tokens, &Sampler::default(), &context(1), &mut ignore)
    };
    let outcome = run(&prompt, usize::MAX).unwrap();
    // The last of them needs no place of its own.
    assert_eq!((outcome.stop, outcome.tokens.len()), (Stop::Context, 128 - 121 + 1));
    assert_eq!(run(&prompt, 3).unwrap().stop, Stop::Length);
    assert!(run(&prompt, 0).unwrap().tokens.is_empty());
    let error = run(&vec!["w9"; 128].join(" "), 3).unwrap_err();
    assert!(matches!(error, NnError::Context { tokens: 129, context: 128 }));
    // Every token ends the text.
    let mut ending = fixture("llama-bias").config().clone();
    ending.insert("eos_token_id".into(), (0..64).collect::<Vec<u32>>().into());
    let (_dir, checkpoint) = with_words(&ending);
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let outcome =
        generate(&decoder, &tokenizer, "w5", 9, &Sampler::default(), &context(1), &mut |_| panic!("no text"))
            .unwrap();
    assert_eq!((outcome.stop, outcome.tokens.len()), (Stop::End, 0));
}

/// A tokenizer with one token per byte.
fn byte_tokenizer() -> Vec<u8> {
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocabulary: serde_json::Map<String, Value> =
        alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    serde_json::to_vec(&json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    }))
    .unwrap()
}

/// Pieces of the tokens after the first `prompt` ones, checked to be whole characters.
fn pieces(tokenizer: &Tokenizer, ids: &[u32], prompt: usize) -> Vec<String> {
    let mut streaming = Streaming::after(&ids[..prompt]);
    let mut pieces: Vec<String> =
        ids[prompt..].iter().map(|&id| streaming.push(id, tokenizer).unwrap()).collect();
    assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{pieces:?}");
    pieces.push(streaming.finish(tokenizer).unwrap());
    pieces
}

#[test]
fn streamed_text_comes_in_whole_characters() {
    let (_dir, checkpoint) = rewrite(
        &fixture("llama-bias"),
        fixture("llama-bias").config(),
        &[],
        &[("tokenizer.json", &byte_tokenizer())],
    );
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let text = "a é € 𝄞 👩‍👩‍👧 end";
    let ids = tokenizer.encode(text, false).unwrap().ids;
    assert_eq!(ids.len(), text.len(), "one token a byte");
    for (prompt, _) in text.char_indices() {
        let pieces = pieces(&tokenizer, &ids, prompt);
        assert_eq!(pieces.concat(), text[prompt..]);
        assert_eq!(pieces.iter().filter(|p| !p.is_empty()).count(), text[prompt..].chars().count());
    }
    // Cut inside the euro sign.
    let cut = text.find('€').unwrap() + 2;
    let pieces = pieces(&tokenizer, &ids[..cut], 0);
    assert_eq!(pieces.concat(), "a é \u{fffd}");
    assert!(!pieces.last().unwrap().is_empty());
}

#[test]
fn real_tokenizers_stream_what_they_decode() {
    let Some(data) = data() else { return };
    let stories = read_documents(data.join("tinystories-sample/stories.jsonl.zst")).unwrap();
    for name in ["novels-10m", "tinystories-656k", "stories260k"] {
        let checkpoint = Checkpoint::open(data.join("models").join(name)).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        for text in [stories[0].as_str(), "Naïve café — €5 𝄞 👩‍👩‍👧!  Two  blanks\n\nand lines", " leading"]
        {
            let encoding = tokenizer.encode(text, true).unwrap();
            let ids = &encoding.ids;
            assert!(encoding.ends.is_sorted() && *encoding.ends.last().unwrap() == text.len(), "{name}");
            let whole = tokenizer.decode(ids).unwrap();
            assert_eq!(pieces(&tokenizer, ids, 0).concat(), whole, "{name}");
            // After a prompt that ends at a character.
            let half = ids.len() / 2;
            let prompt =
                (half..ids.len()).find(|&i| !tokenizer.decode(&ids[..i]).unwrap().ends_with('\u{fffd}'));
            let prompt = prompt.unwrap();
            let known = tokenizer.decode(&ids[..prompt]).unwrap();
            assert_eq!(known + &pieces(&tokenizer, ids, prompt).concat(), whole, "{name}");
        }
    }
}

#[test]
fn a_story_begins_as_published() {
    let Some(data) = data() else { return };
    let checkpoint = Checkpoint::open(data.join("models/stories260k")).unwrap();
    let decoder = Decoder::load(&checkpoint, &context(1)).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let mut text = String::new();
    let outcome = generate(&decoder, &tokenizer, "", 60, &Sampler::default(), &context(2), &mut |piece| {
        text.push_str(piece);
    })
    .unwrap();
    // Greedy text from the start token, as the data's README quotes it.
    let published = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
                     One day, she saw a big, red ball.";
    assert!(text.trim_start().starts_with(published), "{text}");
    assert_eq!((outcome.stop, outcome.tokens.len()), (Stop::Length, 60));
}
