//! Real checkpoints and texts, where they are at hand: `SPARSELAND_DATA`, by default `../shared/data` beside the
//! workspace. Without them these tests say that they skip.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, DType, TensorFile, TensorSource, TensorSpec,
    read_documents,
};

/// The data root's entry of this name, or a line on stderr that says what is skipped.
fn locate(name: &str) -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("SPARSELAND_DATA").map_or_else(default, PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {} (set SPARSELAND_DATA to the directory with the data)", path.display());
    None
}

#[test]
fn language_models_have_the_known_tensors() {
    // name, tensors, parameters, dtype
    let known = [
        ("tinystories-656k", 20, 656_000, DType::BF16),
        ("stories260k", 47, 260_032, DType::F32),
        ("novels-10m", 74, 10_409_280, DType::BF16),
        ("gpt-nano-sort", 38, 85_296, DType::F32),
    ];
    for (name, tensors, parameters, dtype) in known {
        let Some(dir) = locate(&format!("models/{name}")) else { continue };
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let names = checkpoint.names();
        let infos = names.iter().map(|name| checkpoint.info(name).unwrap());
        assert_eq!(infos.clone().map(|info| info.elements()).sum::<usize>(), parameters, "{name}");
        assert!(infos.clone().all(|info| info.dtype == dtype), "{name}");
        assert_eq!(names.len(), tensors, "{name}");
        assert_eq!(checkpoint.data_bytes(), (parameters * dtype.size()) as u64);
        assert_eq!(checkpoint.file_bytes(), dir.join("model.safetensors").metadata().unwrap().len());
        assert!(checkpoint.config().contains_key("architectures"), "{name}");
        for tensor in names {
            checkpoint.read_f32_finite(tensor).unwrap();
        }
    }
}

#[test]
fn other_models_have_the_known_tensors() {
    for (file, parameters) in [
        ("mnist-cnn-burn/model.safetensors", 376_940), // batch counters included
        ("resnet20-cifar10/model.safetensors", 271_098), // 269,722 and the batch statistics
        ("ncf-ml1m/gmf8.safetensors", (6_040 + 3_706) * 8 + 8 + 1),
    ] {
        let Some(path) = locate(&format!("models/{file}")) else { continue };
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.tensors().map(|(_, info)| info.elements()).sum::<usize>(), parameters, "{path:?}");
    }
}

#[test]
fn a_real_checkpoint_copied_into_shards_is_the_same() {
    let Some(dir) = locate("models/tinystories-656k") else { return };
    let source = Checkpoint::open(dir).unwrap();
    let specs: Vec<TensorSpec> = source.shards()[0]
        .tensors()
        .map(|(name, info)| TensorSpec::new(name, info.dtype, info.shape.clone()))
        .collect();
    for shard_bytes in [300_000, u64::MAX] {
        let out = tempfile::tempdir().unwrap();
        let options = CheckpointOptions { shard_bytes, ..Default::default() };
        let mut writer = CheckpointWriter::create(out.path(), &specs, &options).unwrap();
        for spec in &specs {
            writer.copy(&source, &spec.name).unwrap();
        }
        writer.add_files_of(&source).unwrap();
        writer.finish(source.config()).unwrap();
        let copy = Checkpoint::open(out.path()).unwrap();
        assert_eq!(copy.config(), source.config());
        assert!(copy.config().keys().eq(source.config().keys()), "key order");
        assert_eq!(copy.side_files().collect::<Vec<_>>(), source.side_files().collect::<Vec<_>>());
        for name in source.names() {
            assert_eq!(copy.read(name).unwrap(), source.read(name).unwrap());
        }
        if shard_bytes == u64::MAX {
            assert_eq!(copy.file_bytes(), source.file_bytes(), "the same header, too");
        }
        let tokenizer: Value = serde_json::from_slice(&copy.read_file("tokenizer.json").unwrap()).unwrap();
        assert!(tokenizer.is_object());
    }
}

#[test]
fn real_texts_have_the_known_sizes() {
    for (name, documents, characters) in [
        ("tinystories-sample/stories.jsonl.zst", 1_000, Some(949_013)),
        ("gutenberg-novels/books.jsonl.zst", 10, None),
        ("wikitext-2/wiki.test.raw.zst", 1, None),
    ] {
        let Some(path) = locate(name) else { continue };
        let texts = read_documents(path).unwrap();
        assert_eq!(texts.len(), documents, "{name}");
        let total: usize = texts.iter().map(|text| text.chars().count()).sum();
        assert!(characters.is_none_or(|wanted| wanted == total), "{name}: {total}");
    }
}
