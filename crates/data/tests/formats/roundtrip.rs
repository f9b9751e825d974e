//! What is written is read back, by us and by the reference implementation.

use std::collections::BTreeMap;

use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::SafeTensors;
use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, DType, DataError, TensorFile, TensorSource, TensorSpec,
    TensorWriter, read_typed,
};

use crate::names_in;

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::ALL.to_vec())
}

/// Tensors with unique names (any characters), up to 4 axes, axes of length 0 to 4, and bytes that fit.
fn tensors() -> impl Strategy<Value = Vec<(TensorSpec, Vec<u8>)>> {
    let tensor = (any::<String>(), dtype(), vec(0_usize..5, 0..4), any::<u8>());
    vec(tensor, 0..8).prop_map(|tensors| {
        tensors
            .into_iter()
            .enumerate()
            .map(|(number, (name, dtype, shape, seed))| {
                let len = shape.iter().product::<usize>() * dtype.size();
                let bytes = (0..len).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
                (TensorSpec::new(format!("{number}.{name}"), dtype, shape), bytes)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_tensors_come_back_and_the_reference_reads_them(
        tensors in tensors(),
        metadata in prop::collection::btree_map(any::<String>(), any::<String>(), 0..3),
        reversed in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut writer = TensorWriter::create(&path, &specs, &metadata).unwrap();
        let mut order: Vec<_> = tensors.iter().collect();
        if reversed {
            order.reverse();
        }
        for (spec, bytes) in order {
            writer.write(&spec.name, bytes).unwrap();
        }
        let written = writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        prop_assert_eq!(names_in(dir.path()), ["t.safetensors"]);

        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let sources = [TensorFile::open(&path).unwrap(), TensorFile::from_bytes(bytes.clone()).unwrap()];
        for file in &sources {
            prop_assert_eq!(file.file_bytes(), written);
            prop_assert_eq!(file.metadata(), &metadata);
            prop_assert_eq!(file.tensors().len(), tensors.len());
            let data_start = file.file_bytes() - file.data_bytes();
            prop_assert_eq!(data_start % 8, 0);
            for (spec, bytes) in &tensors {
                let info = file.expect_shape(&spec.name, &spec.shape).unwrap();
                prop_assert_eq!(info.dtype, spec.dtype);
                prop_assert_eq!((data_start + info.offset) % spec.dtype.size() as u64, 0, "aligned");
                prop_assert_eq!(&file.read(&spec.name).unwrap(), bytes);
                let view = reference.tensor(&spec.name).unwrap();
                prop_assert_eq!(view.data(), &bytes[..]);
                prop_assert_eq!(view.shape(), &spec.shape[..]);
                prop_assert_eq!(format!("{:?}", view.dtype()), spec.dtype.name());
                // Rows put together are the tensor.
                if let Some(&rows) = spec.shape.first() {
                    let middle = rows / 2;
                    let mut joined = file.read_rows(&spec.name, 0..middle).unwrap();
                    joined.extend(file.read_rows(&spec.name, middle..rows).unwrap());
                    prop_assert_eq!(&joined, bytes);
                }
            }
        }
    }

    #[test]
    fn any_sharding_gives_the_same_tensors(tensors in tensors(), shard_bytes in 0_u64..200) {
        let dir = tempfile::tempdir().unwrap();
        let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let options = CheckpointOptions { shard_bytes, ..Default::default() };
        let mut writer = CheckpointWriter::create(dir.path(), &specs, &options).unwrap();
        for (spec, bytes) in &tensors {
            writer.write(&spec.name, bytes).unwrap();
        }
        let written = writer.finish(&Default::default()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        prop_assert_eq!(checkpoint.names().len(), tensors.len());
        prop_assert_eq!(checkpoint.file_bytes(), written.file_bytes);
        prop_assert_eq!(checkpoint.shards().len(), written.weight_files.len());
        for (spec, bytes) in &tensors {
            prop_assert_eq!(&checkpoint.read(&spec.name).unwrap(), bytes);
        }
        for shard in checkpoint.shards() {
            prop_assert!(shard.data_bytes() <= shard_bytes || shard.tensors().filter(|(_, t)| t.len > 0).count() == 1);
        }
    }

    #[test]
    fn conversion_to_f32_is_the_number_by_number_one(values in vec(any::<f64>(), 0..70_000 / 16)) {
        let n = values.len();
        let narrow: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        let brain: Vec<bf16> = narrow.iter().map(|&x| bf16::from_f32(x)).collect();
        let half: Vec<f16> = narrow.iter().map(|&x| f16::from_f32(x)).collect();
        let specs = [("d", DType::F64), ("f", DType::F32), ("b", DType::BF16), ("h", DType::F16)]
            .map(|(name, dtype)| TensorSpec::new(name, dtype, [n]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let mut writer = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap();
        writer.write_typed("d", &values).unwrap();
        writer.write_typed("f", &narrow).unwrap();
        writer.write_typed("b", &brain).unwrap();
        writer.write_typed("h", &half).unwrap();
        writer.finish().unwrap();
        let file = TensorFile::open(&path).unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        prop_assert_eq!(bits(file.read_f32("d").unwrap()), bits(narrow.clone()));
        prop_assert_eq!(bits(file.read_f32("f").unwrap()), bits(narrow));
        prop_assert_eq!(bits(file.read_f32("b").unwrap()), bits(brain.iter().map(|x| x.to_f32()).collect()));
        prop_assert_eq!(bits(file.read_f32("h").unwrap()), bits(half.iter().map(|x| x.to_f32()).collect()));
        prop_assert_eq!(file.read_typed::<bf16>("b").unwrap(), brain);
    }
}

/// Longer than one chunk, so that the loop over chunks is walked.
#[test]
fn long_half_precision_tensors_are_converted_chunk_by_chunk() {
    let (rows, cols) = (1_001, 301);
    let values: Vec<bf16> = (0..rows * cols).map(|i| bf16::from_f32((i % 251) as f32)).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let specs = [TensorSpec::new("w", DType::BF16, [rows, cols])];
    let mut writer = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap();
    writer.write_typed("w", &values).unwrap();
    writer.finish().unwrap();
    let file = TensorFile::open(&path).unwrap();
    let wanted: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
    assert_eq!(file.read_f32_finite("w").unwrap(), wanted);
    assert_eq!(file.read_rows_f32("w", 7..1_000).unwrap(), wanted[7 * cols..1_000 * cols]);

    let mut buffer = vec![0.0; rows * cols];
    let source: &dyn TensorSource = &file;
    source.read_f32_into("w", &mut buffer).unwrap();
    assert_eq!(buffer, wanted);
    assert_eq!(read_typed::<bf16>(source, "w").unwrap(), values);

    // A copy goes in chunks too.
    let copy = dir.path().join("copy.safetensors");
    let mut writer = TensorWriter::create(&copy, &specs, &BTreeMap::new()).unwrap();
    writer.copy(source, "w").unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(path).unwrap());
}

#[test]
fn non_finite_values_are_reported_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let specs = [TensorSpec::new("bad", DType::F32, [2, 3]), TensorSpec::new("wide", DType::F64, [2])];
    let mut writer = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap();
    writer.write_typed("bad", &[0.0_f32, 1.0, 2.0, f32::NAN, 4.0, f32::INFINITY]).unwrap();
    writer.write_typed("wide", &[1.0_f64, 1e300]).unwrap();
    writer.finish().unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert!(file.read_f32("bad").unwrap()[3].is_nan());
    let error = file.read_f32_finite("bad").unwrap_err();
    assert!(matches!(error, DataError::NonFinite { index: 3, .. }), "{error}");
    assert!(error.to_string().contains("\"bad\" holds NaN at index 3"), "{error}");
    // Finite in the file, but not as f32.
    let error = file.read_f32_finite("wide").unwrap_err();
    assert!(matches!(error, DataError::NonFinite { index: 1, .. }), "{error}");
}

#[test]
fn misuse_of_reading_and_writing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let specs =
        [TensorSpec::new("layer.weight", DType::I32, [2, 2]), TensorSpec::new("scalar", DType::F32, [])];
    let mut writer = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap();
    assert!(matches!(writer.write("other", &[]), Err(DataError::Unannounced { .. })));
    assert!(matches!(
        writer.write("layer.weight", &[0; 15]),
        Err(DataError::BufferLength { expected: 16, got: 15, .. })
    ));
    assert!(matches!(writer.write_typed("layer.weight", &[0_u32; 4]), Err(DataError::WrongDType { .. })));
    writer.write_typed("layer.weight", &[1_i32, 2, 3, 4]).unwrap();
    assert!(matches!(writer.write("layer.weight", &[0; 16]), Err(DataError::WrittenTwice { .. })));
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, DataError::Unwritten { missing: 1, .. }), "{error}");
    assert!(names_in(dir.path()).is_empty(), "a failed writer leaves nothing");

    for twice in ["x", "__metadata__"] {
        let specs = [TensorSpec::new(twice, DType::I8, [1]), TensorSpec::new(twice, DType::I8, [1])];
        let error = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, DataError::DuplicateTensor { .. }), "{error}");
    }
    let specs_huge = [TensorSpec::new("huge", DType::F32, [usize::MAX, 2])];
    let error = TensorWriter::create(&path, &specs_huge, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, DataError::ShapeOverflow { .. }), "{error}");
    assert!(names_in(dir.path()).is_empty());

    let mut writer = TensorWriter::create(&path, &specs, &BTreeMap::new()).unwrap();
    writer.write_typed("layer.weight", &[1_i32, 2, 3, 4]).unwrap();
    writer.write_typed("scalar", &[1.0_f32]).unwrap();
    writer.finish().unwrap();
    let file = TensorFile::open(&path).unwrap();
    let error = file.read("layer.wieght").unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"layer.weight\"?"), "{error}");
    assert!(matches!(file.read("nothing like it"), Err(DataError::MissingTensor { similar: None, .. })));
    assert!(matches!(file.read_f32("layer.weight"), Err(DataError::WrongDType { got: DType::I32, .. })));
    assert!(matches!(file.read_typed::<u32>("layer.weight"), Err(DataError::WrongDType { .. })));
    assert!(matches!(file.expect_shape("layer.weight", &[4]), Err(DataError::WrongShape { .. })));
    assert!(matches!(file.read_into("scalar", &mut [0; 5]), Err(DataError::BufferLength { .. })));
    let out_of_range = [file.read_rows("layer.weight", 1..3), file.read_rows("scalar", 0..1)];
    for result in out_of_range {
        assert!(matches!(result, Err(DataError::OutOfRange { .. })));
    }
    #[expect(clippy::reversed_empty_ranges)] // a reversed range must not wrap around
    let reversed = file.read_rows("layer.weight", 2..1);
    assert!(matches!(reversed, Err(DataError::OutOfRange { .. })));
    assert!(file.read_at("layer.weight", usize::MAX, &mut [0; 2]).is_err());
}
