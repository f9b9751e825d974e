//! The trainable decoder against transformers' gradients, finite differences, and the decoder that runs.

use std::path::PathBuf;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use sparseland_core::Context;
use sparseland_data::{Checkpoint, TensorFile, TensorSource};
use sparseland_matrix::{Bitmask, Csr, Dense, LinearMap, Matrix, Product, ValueType};
use sparseland_nn::{Decoder, TrainableDecoder};
use sparseland_tape::Tape;
use sparseland_tape::weight::{DenseWeight, FixedStructure};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load<R: sparseland_matrix::Real>(checkpoint: &Checkpoint) -> TrainableDecoder<R> {
    TrainableDecoder::from_checkpoint(checkpoint, |parameters, name, matrix| {
        let shape = [matrix.rows(), matrix.cols()];
        let values = sparseland_tape::weight::from_f32::<R>(&matrix.to_dense());
        let id = parameters.add(format!("{name}.weight"), &shape, &values);
        Ok(Box::new(DenseWeight::new(parameters, id)))
    })
    .unwrap()
}

fn tokens() -> (Vec<u32>, Vec<u32>) {
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % 64).chain((0..24).map(|i| (i * 5 + 1) % 64)).collect();
    let next = |i: usize| ids[i / 24 * 24 + (i + 1) % 24];
    (ids.clone(), (0..48).map(next).collect())
}

#[test]
fn gradients_equal_those_of_transformers() {
    for name in ["llama-bias", "qwen2", "qwen3"] {
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let mut model = load::<f32>(&checkpoint);
        let (ids, targets) = tokens();
        let mut tape = Tape::new();
        let loss = model.loss(&mut tape, &ids, &targets, 24);
        let reference = TensorFile::open(fixture(name).join("gradients.safetensors")).unwrap();
        let want = reference.read_f32("loss").unwrap()[0];
        assert!((tape.value(loss)[0] - want).abs() < 1e-4, "{name}: {} {want}", tape.value(loss)[0]);
        tape.backward(loss, &mut model.parameters);
        let mut compared = 0;
        for p in model.parameters.iter() {
            let want = reference.read_f32(&p.name).unwrap();
            assert_eq!(want.len(), p.gradient.len(), "{name} {}", p.name);
            let largest = want.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for (i, (found, want)) in p.gradient.iter().zip(&want).enumerate() {
                let error = (found - want).abs();
                assert!(error <= 1e-4 * largest.max(1.0), "{name} {}[{i}]: {found} {want}", p.name);
            }
            compared += 1;
        }
        assert_eq!(compared, reference.tensors().len() - 1, "{name}: every gradient is compared");
    }
}

#[test]
fn directional_derivatives_of_a_whole_model_equal_differences() {
    let checkpoint = Checkpoint::open(fixture("qwen3")).unwrap();
    let mut model = load::<f64>(&checkpoint);
    let (ids, targets) = tokens();
    let value = |model: &TrainableDecoder<f64>| {
        let mut tape = Tape::new();
        tape.set_recording(false);
        let loss = model.loss(&mut tape, &ids, &targets, 24);
        tape.value(loss)[0]
    };
    let mut tape = Tape::new();
    let loss = model.loss(&mut tape, &ids, &targets, 24);
    tape.backward(loss, &mut model.parameters);
    let directions: Vec<Vec<f64>> = model
        .parameters
        .iter()
        .map(|p| (0..p.value.len()).map(|i| ((i * 31 + 5) % 13) as f64 / 6.0 - 1.0).collect())
        .collect();
    for id in model.parameters.ids().collect::<Vec<_>>() {
        let direction = &directions[id.index()];
        let slope: f64 = model.parameters.gradient(id).iter().zip(direction).map(|(g, d)| g * d).sum();
        let mut moved = |step: f64| {
            let start = model.parameters.value(id).to_vec();
            model.parameters.value_mut(id).iter_mut().zip(direction).for_each(|(v, d)| *v += step * d);
            let loss = value(&model);
            model.parameters.value_mut(id).copy_from_slice(&start);
            loss
        };
        let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        let name = &model.parameters.get(id).name;
        assert!(
            (slope - difference).abs() < 1e-5 * difference.abs().max(1.0),
            "{name}: {slope} {difference}"
        );
    }
}

/// A matrix of some structure near `dense`.
fn structured(kind: usize, dense: &Matrix) -> Matrix {
    let (rows, cols, data) = (dense.rows(), dense.cols(), dense.to_dense());
    let thin: Vec<f32> = data.iter().enumerate().map(|(i, v)| if i % 3 == 0 { 0.0 } else { *v }).collect();
    match kind % 3 {
        0 => Bitmask::from_dense(rows, cols, &thin, ValueType::F32).into(),
        1 => {
            let left = Csr::from_dense(rows, cols.min(5), &thin[..rows * cols.min(5)], ValueType::F32);
            Product::new(
                left,
                Dense::from_f32(cols.min(5), cols, &data[..cols.min(5) * cols], ValueType::F32),
            )
            .into()
        }
        _ => dense.clone(),
    }
}

#[test]
fn a_structured_model_saves_and_runs_as_it_trained() {
    let checkpoint = Checkpoint::open(fixture("llama-bias")).unwrap();
    let mut kind = 0;
    let mut model = TrainableDecoder::<f32>::from_checkpoint(&checkpoint, |parameters, name, matrix| {
        kind += 1;
        Ok(Box::new(FixedStructure::new(parameters, name, &structured(kind, matrix))?))
    })
    .unwrap();
    let (linears, _) = model.linears_mut();
    linears.for_each(|l| l.method = "test".into());
    let layouts: Vec<_> =
        model.linears().map(|l| l.weight.export(&model.parameters, ValueType::F32).layout()).collect();
    // Some steps, so that every value has moved.
    let (ids, targets) = tokens();
    let mut tape = Tape::new();
    for _ in 0..3 {
        model.parameters.zero_gradients();
        let loss = model.loss(&mut tape, &ids, &targets, 24);
        tape.backward(loss, &mut model.parameters);
        tape.clear();
        for p in model.parameters.iter_mut() {
            p.value.iter_mut().zip(p.gradient.iter()).for_each(|(v, g)| *v -= 0.05 * g);
        }
    }
    tape.set_recording(false);
    let loss = model.loss(&mut tape, &ids, &targets, 24);
    let trained = f64::from(tape.value(loss)[0]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    model.save(&out, ValueType::F32, vec![("note.txt".into(), b"hello".to_vec())]).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    assert!(written.has_file("note.txt"));
    let decoder = Decoder::load(&written, &Context::new(0, 1).unwrap()).unwrap();
    let found: Vec<_> =
        decoder.blocks().iter().flat_map(|b| b.linears()).map(|(_, l)| l.weight.layout()).collect();
    assert_eq!(found, layouts, "training changed the structure");
    let mut total = 0.0;
    for (ids, targets) in ids.chunks(24).zip(targets.chunks(24)) {
        let logits = decoder.logits(ids).unwrap();
        for (row, &target) in logits.chunks(64).zip(targets) {
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            total += sum.ln() - f64::from(row[target as usize]);
        }
    }
    assert!((total / 48.0 - trained).abs() < 1e-5, "{} {trained}", total / 48.0);
}

#[test]
fn fresh_models_start_near_the_uniform_guess_and_the_same_seed_gives_the_same_model() {
    let json = serde_json::json!({
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 64, "tie_word_embeddings": false,
    });
    let make = |seed| {
        TrainableDecoder::<f32>::dense(json.as_object().unwrap().clone(), &mut Pcg64::seed_from_u64(seed))
            .unwrap()
    };
    let (a, b, c) = (make(1), make(1), make(2));
    let values =
        |m: &TrainableDecoder<f32>| m.parameters.iter().flat_map(|p| p.value.to_vec()).collect::<Vec<_>>();
    assert_eq!(values(&a), values(&b));
    assert_ne!(values(&a), values(&c));
    let (ids, targets) = tokens();
    let mut tape = Tape::new();
    let loss = a.loss(&mut tape, &ids, &targets, 24);
    assert!((tape.value(loss)[0] - 64f32.ln()).abs() < 0.1, "{}", tape.value(loss)[0]);
}

#[test]
fn what_training_lacks_is_refused() {
    let make = |extra: serde_json::Value| {
        let mut json = serde_json::json!({
            "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1,
            "intermediate_size": 64, "vocab_size": 64,
        });
        let object = json.as_object_mut().unwrap();
        object.extend(extra.as_object().unwrap().clone());
        let made = TrainableDecoder::<f32>::dense(object.clone(), &mut Pcg64::seed_from_u64(1));
        made.map(|_| ()).unwrap_err().to_string()
    };
    let error = make(serde_json::json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}));
    assert!(error.contains("scaled rotary positions"), "{error}");
    let error = make(serde_json::json!({"hidden_act": "gelu_pytorch_tanh"}));
    assert!(error.contains("SiLU"), "{error}");
}
