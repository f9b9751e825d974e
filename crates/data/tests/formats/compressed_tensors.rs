//! The sparse formats of compressed-tensors: layout to the bit, round trips, damaged files.

use half::bf16;
use proptest::prelude::*;
use serde_json::json;
use sparseland_data::compressed_tensors::{SparseFormat, SparseTensor, layer_of, sparse_layers};
use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, DType, DataError, TensorFile, TensorSource, TensorSpec,
    TensorWriter, read_typed,
};

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A checkpoint of one sparse layer.
fn write(dir: &std::path::Path, tensor: &SparseTensor, format: SparseFormat) {
    let mut writer =
        CheckpointWriter::create(dir, &tensor.specs("a.b"), &CheckpointOptions::default()).unwrap();
    tensor.write("a.b", &mut writer).unwrap();
    let mut config = serde_json::Map::new();
    format.write(&mut config, &["lm_head".into()], 0.5);
    writer.finish(&config).unwrap();
}

#[test]
fn bitmasks_have_the_published_layout() {
    // 2 x 10: columns 8 and 9 are bits 0 and 1 of the second byte of a row.
    let mut dense = vec![0.0f32; 20];
    for (at, value) in [(0, 1.0), (3, 2.0), (9, 3.0), (10 + 8, 4.0), (10 + 1, -0.0)] {
        dense[at] = value;
    }
    let tensor =
        SparseTensor::from_dense(SparseFormat::Bitmask, DType::F32, (2, 10), &bytes(&dense)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &tensor, SparseFormat::Bitmask);
    let found = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(read_typed::<i64>(&found, "a.b.shape").unwrap(), [2, 10]);
    assert_eq!(found.read("a.b.bitmask").unwrap(), [0b1001, 0b10, 0, 0b1]);
    assert_eq!(read_typed::<f32>(&found, "a.b.compressed").unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read_typed::<i64>(&found, "a.b.row_offsets").unwrap(), [0, 3]);
    assert_eq!(SparseFormat::read(found.config()).unwrap(), Some(SparseFormat::Bitmask));
    assert_eq!(sparse_layers(&found), ["a.b"]);
    assert_eq!(layer_of("a.b.row_offsets", &sparse_layers(&found)), Some("a.b"));
    assert_eq!(layer_of("a.b.bias", &sparse_layers(&found)), None);
}

#[test]
fn two_of_four_stores_half_and_shapes_as_a_column() {
    // A group with one non-zero stores a true zero beside it.
    let dense = [0.0f32, 0.0, 5.0, 0.0, 1.0, 0.0, 0.0, 2.0];
    let tensor =
        SparseTensor::from_dense(SparseFormat::Bitmask24, DType::F32, (1, 8), &bytes(&dense)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &tensor, SparseFormat::Bitmask24);
    let found = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(found.info("a.b.shape").unwrap().shape, [2, 1]);
    assert_eq!(found.info("a.b.compressed").unwrap().shape, [1, 4]);
    assert!(!found.contains("a.b.row_offsets"));
    assert_eq!(found.read("a.b.bitmask").unwrap(), [0b1001_0101]);
    assert_eq!(read_typed::<f32>(&found, "a.b.compressed").unwrap(), [0.0, 5.0, 1.0, 2.0]);
    let crowded = [1.0f32, 1.0, 1.0, 0.0];
    let error = SparseTensor::from_dense(SparseFormat::Bitmask24, DType::F32, (1, 4), &bytes(&crowded));
    assert!(error.unwrap_err().contains("row 0 has 3 non-zeros"));
    let error = SparseTensor::from_dense(SparseFormat::Bitmask24, DType::F32, (1, 3), &bytes(&crowded[..3]));
    assert!(error.unwrap_err().contains("multiple of 4"));
    let error = SparseTensor::from_dense(SparseFormat::Bitmask, DType::I8, (1, 3), &[1, 2, 3]);
    assert!(error.unwrap_err().contains("I8"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn values_come_back_to_the_bit(rows in 1usize..9, cols in 1usize..40, density in 0u32..100, two_four: bool,
        halves: bool, seed: u64)
    {
        let cols = if two_four { 4 * cols } else { cols };
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let mut in_group = 0;
        let values: Vec<f32> = (0..rows * cols)
            .map(|i| {
                if i % 4 == 0 {
                    in_group = 0;
                }
                let keep = next() % 100 < density && !(two_four && in_group == 2);
                in_group += u32::from(keep);
                if keep { (next() % 1000) as f32 / 8.0 - 60.0 } else { 0.0 }
            })
            .collect();
        let (dtype, dense) = if halves {
            (DType::BF16, values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect())
        } else {
            (DType::F32, bytes(&values))
        };
        let format = if two_four { SparseFormat::Bitmask24 } else { SparseFormat::Bitmask };
        let tensor = SparseTensor::from_dense(format, dtype, (rows, cols), &dense).unwrap();
        prop_assert_eq!(tensor.to_dense(), dense);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &tensor, format);
        let found = Checkpoint::open(dir.path()).unwrap();
        prop_assert_eq!(SparseTensor::read(&found, "a.b", format).unwrap(), tensor);
    }
}

/// A file with the parts of one layer of 2 x 10.
fn file(shape: &[i64], bitmask: &[u8], values: &[f32], offsets: &[i64]) -> Result<SparseTensor, DataError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let specs = [
        TensorSpec::new("a.shape", DType::I64, vec![shape.len()]),
        TensorSpec::new("a.compressed", DType::F32, vec![values.len()]),
        TensorSpec::new("a.bitmask", DType::U8, vec![2, bitmask.len() / 2]),
        TensorSpec::new("a.row_offsets", DType::I64, vec![offsets.len()]),
    ];
    let mut writer = TensorWriter::create(&path, &specs, &Default::default()).unwrap();
    writer.write_typed("a.shape", shape).unwrap();
    writer.write_typed("a.compressed", values).unwrap();
    writer.write("a.bitmask", bitmask).unwrap();
    writer.write_typed("a.row_offsets", offsets).unwrap();
    writer.finish().unwrap();
    SparseTensor::read(&TensorFile::open(&path).unwrap(), "a", SparseFormat::Bitmask)
}

#[test]
fn parts_that_contradict_each_other_are_named() {
    let good = file(&[2, 10], &[1, 2, 0, 1], &[1.0, 2.0, 3.0], &[0, 2]).unwrap();
    assert_eq!(good.shape(), (2, 10));
    let bad = [
        (file(&[2], &[1, 2, 0, 1], &[1.0; 3], &[0, 2]), "a.shape"),
        (file(&[-2, 10], &[1, 2, 0, 1], &[1.0; 3], &[0, 2]), "a.shape"),
        (file(&[2, 0], &[], &[], &[0, 0]), "a.shape"),
        (file(&[i64::MAX, 10], &[1, 2, 0, 1], &[1.0; 3], &[0, 2]), "a.bitmask"),
        (file(&[2, 20], &[1, 2, 0, 1], &[1.0; 3], &[0, 2]), "a.bitmask"),
        (file(&[2, 10], &[1, 4, 0, 1], &[1.0; 3], &[0, 2]), "beyond"),
        (file(&[2, 10], &[1, 2, 0, 1], &[1.0; 4], &[0, 2]), "3 bits for 4 values"),
        (file(&[2, 10], &[1, 2, 0, 1], &[1.0; 3], &[0, 1]), "a.row_offsets"),
        (file(&[2, 10], &[1, 2, 0, 1], &[1.0; 3], &[0]), "a.row_offsets"),
    ];
    for (result, word) in bad {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("x.safetensors"), "{word}: {error}");
    }
}

#[test]
fn configurations_are_read_and_refused() {
    let read = |config: serde_json::Value| SparseFormat::read(config.as_object().unwrap());
    assert_eq!(read(json!({})).unwrap(), None);
    let of = |format: &str| json!({ "quantization_config": { "sparsity_config": { "format": format } } });
    assert_eq!(read(of("sparse-24-bitmask")).unwrap(), Some(SparseFormat::Bitmask24));
    assert_eq!(read(of("dense")).unwrap(), None);
    assert!(read(of("marlin-24")).unwrap_err().contains("marlin-24"));
    let mut quantised = of("sparse-bitmask");
    quantised["quantization_config"]["config_groups"] = json!({ "group_0": {} });
    assert!(read(quantised).unwrap_err().contains("config_groups"));
}
