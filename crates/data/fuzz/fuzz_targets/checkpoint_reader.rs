//! Any bytes as a safetensors file: an error or a file whose every tensor can be read; never a panic, never an
//! allocation beyond the input's size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sparseland_data::{DType, TensorFile, TensorSource};

fuzz_target!(|data: &[u8]| {
    let file = match TensorFile::from_bytes(data) {
        Ok(file) => file,
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 4_000, "messages stay short");
            return;
        }
    };
    assert_eq!(file.file_bytes(), data.len() as u64);
    let mut total = 0;
    for (name, info) in file.tensors() {
        let bytes = file.read(name).expect("a checked tensor can be read");
        assert_eq!(bytes.len(), info.shape.iter().product::<usize>() * info.dtype.size());
        total += bytes.len() as u64;
        if let Some(&rows) = info.shape.first() {
            let middle = rows / 2;
            let mut joined = file.read_rows(name, 0..middle).expect("rows can be read");
            joined.extend(file.read_rows(name, middle..rows).expect("rows can be read"));
            assert_eq!(joined, bytes);
        }
        let is_float = matches!(info.dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
        assert_eq!(file.read_f32(name).is_ok(), is_float);
        let _ = file.read_f32_finite(name);
    }
    assert_eq!(total, file.data_bytes());
});
