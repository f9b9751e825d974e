//! Checkpoints whose layers share factors: stored once, one in memory, the same numbers as factors of their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sparseland_compress::concat_svd::{Shared, Sharing, Side, share};
use sparseland_core::Context;
use sparseland_data::{Checkpoint, TensorSource};
use sparseland_matrix::{Dense, LinearMap, Matrix, ValueType};
use sparseland_nn::structure::Structure;
use sparseland_nn::{Decoder, KvCache, LinearSite, ModelConfig};

fn fixture() -> Checkpoint {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama-bias");
    Checkpoint::open(dir).unwrap()
}

fn context() -> Context {
    Context::new(0, 2).unwrap()
}

fn run(sharing: &Sharing, values: Option<ValueType>, out: &Path) -> Shared {
    let checkpoint = fixture();
    let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    share((&checkpoint, &config), sharing, values, out, &context()).unwrap()
}

fn sharing(side: Side, epsilon: f64) -> Sharing {
    Sharing { remove: 0.4, epsilon, sites: LinearSite::ALL.to_vec(), side }
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let mut cache = KvCache::new(decoder.config(), 16);
    let tokens: Vec<u32> = (0..12).map(|i| (i * 5 + 2) % 64).collect();
    decoder.prefill(&tokens, &mut cache).unwrap();
    decoder.forward_one(7, &mut cache).unwrap().to_vec()
}

#[test]
fn shared_factors_are_stored_once_and_give_the_numbers_of_factors_of_their_own() {
    for (side, place) in [(Side::Inputs, 1), (Side::Outputs, 0)] {
        for values in [None, Some(ValueType::Bf16), Some(ValueType::I8)] {
            let scratch = tempfile::tempdir().unwrap();
            let out = scratch.path().join("out");
            let found = run(&sharing(side, 1.0), values, &out);
            let checkpoint = Checkpoint::open(&out).unwrap();
            let structure = Structure::read(checkpoint.config()).unwrap();
            let layers: usize = found.groups.iter().map(|g| g.layers.len()).sum();
            assert_eq!(layers, structure.layers.len());
            assert_eq!(
                structure.shared.len(),
                layers - found.groups.len(),
                "one is stored, the others name it"
            );
            let loaded = Decoder::load(&checkpoint, &context()).unwrap();
            assert_eq!(loaded.stored_bytes() + other_bytes(&checkpoint), checkpoint.data_bytes());
            // One buffer per group in memory.
            let mut buffers = BTreeSet::new();
            let mut own = loaded.clone();
            for (i, block) in loaded.blocks().iter().enumerate() {
                for (site, linear) in block.linears() {
                    let Matrix::Product(product) = &linear.weight else { continue };
                    assert!(structure.layers.contains_key(&site.full_name(i)));
                    buffers.insert(Arc::as_ptr(product.factors()[place]));
                    // The same layer with factors of its own.
                    let [left, right] = product.factors().map(|f| f.as_ref().clone());
                    own.blocks_mut()[i].linear_mut(site).weight =
                        sparseland_matrix::Product::new(left, right).into();
                }
            }
            assert_eq!(buffers.len(), found.groups.len(), "{side:?} {values:?}");
            assert!(own.stored_bytes() > loaded.stored_bytes());
            assert_eq!(logits(&own), logits(&loaded));
            assert_eq!(found.written.file_bytes, checkpoint.file_bytes());
            let left_dense = (7 * loaded.blocks().len()) as u64 - layers as u64;
            assert!(left_dense > 0 || found.parameters as f64 <= 0.6 * found.dense_parameters as f64);
        }
    }
}

/// Bytes of what no matrix holds: norms and biases.
fn other_bytes(checkpoint: &Checkpoint) -> u64 {
    let other = |name: &&str| name.contains("norm") || name.ends_with(".bias");
    checkpoint.names().into_iter().filter(other).map(|n| checkpoint.info(n).unwrap().len as u64).sum()
}

#[test]
fn the_error_of_every_group_is_that_of_its_stored_weights_and_within_the_bound() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let epsilon = 0.95;
    let found = run(&sharing(Side::Inputs, epsilon), Some(ValueType::F32), &out);
    let (before, after) = (
        Decoder::load(&fixture(), &context()).unwrap(),
        Decoder::load(&Checkpoint::open(&out).unwrap(), &context()).unwrap(),
    );
    assert!(found.groups.iter().any(|g| g.layers.len() > 1));
    let dense = |decoder: &Decoder, name: &str| -> Vec<f32> {
        let places = (0..decoder.blocks().len()).flat_map(|i| LinearSite::ALL.map(|s| (i, s)));
        let (i, site) = places.into_iter().find(|(i, s)| s.full_name(*i) == name).unwrap();
        decoder.blocks()[i].linear(site).weight.to_dense()
    };
    for group in &found.groups {
        let (mut apart, mut whole) = (0.0, 0.0);
        for name in &group.layers {
            for (a, b) in dense(&before, name).iter().zip(dense(&after, name)) {
                apart += f64::from(a - b).powi(2);
                whole += f64::from(*a).powi(2);
            }
        }
        let error = (apart / whole).sqrt();
        assert!((error - group.error).abs() < 1e-4, "{error} {}", group.error);
        assert!(error <= epsilon + 1e-6);
    }
    // A bound that nothing meets is refused, and says what to do.
    let config = ModelConfig::from_checkpoint(&fixture()).unwrap();
    let strict = sharing(Side::Inputs, 0.0);
    let error = share((&fixture(), &config), &strict, None, &out, &context()).unwrap_err().to_string();
    assert!(
        error.contains("within a relative error of 0") && error.contains("allow a larger error"),
        "{error}"
    );
}

#[test]
fn sharing_that_does_not_fit_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    run(&sharing(Side::Inputs, 1.0), None, &out);
    let path = out.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let q = |block: usize| format!("model.layers.{block}.self_attn.q_proj.factor_b");
    let down = "model.layers.0.mlp.down_proj.factor_b";
    for (of, expected) in [
        (q(9), "not both are factors"),
        ("nothing".to_owned(), "not both are factors"),
        (down.to_owned(), "another shape"),
        (q(1), "not stored either"),
    ] {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["sparseland"]["shared"][q(1)] = of.clone().into();
        std::fs::write(&path, json.to_string()).unwrap();
        let error = Decoder::load(&Checkpoint::open(&out).unwrap(), &context()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&of), "{error}");
    }
    // Without its entry the factor is missing.
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["sparseland"].as_object_mut().unwrap().remove("shared");
    std::fs::write(&path, json.to_string()).unwrap();
    let error = Decoder::load(&Checkpoint::open(&out).unwrap(), &context()).unwrap_err().to_string();
    assert!(error.contains("factor_b") && error.contains("missing"), "{error}");
}

#[test]
fn a_product_of_shared_factors_is_the_product() {
    let dense = |rows: usize, cols: usize, from: usize| {
        let data: Vec<f32> = (0..rows * cols).map(|i| ((i * 7 + from) % 11) as f32 - 5.0).collect();
        Matrix::from(Dense::from_f32(rows, cols, &data, ValueType::F32))
    };
    let right = Arc::new(dense(3, 8, 1));
    let a = sparseland_matrix::Product::of_shared(Arc::new(dense(5, 3, 2)), Arc::clone(&right));
    let b = sparseland_matrix::Product::new(dense(5, 3, 2), dense(3, 8, 1));
    assert_eq!(a, b);
    assert_eq!(a.to_dense(), b.to_dense());
    assert!(Arc::ptr_eq(a.clone().factors()[1], &right), "a clone keeps the shared factor");
}
