//! Checkpoint directories: what is opened, what is refused, and what a stopped writer leaves.

use std::path::Path;

use serde_json::{Map, Value, json};
use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, DType, DataError, TensorSource, TensorSpec,
    is_checkpoint, write_atomically,
};

use crate::{names_in, write_counting};

fn config() -> Map<String, Value> {
    let value = json!({ "model_type": "llama", "architectures": ["LlamaForCausalLM"], "a_last": 1e-6 });
    value.as_object().unwrap().clone()
}

fn write_index(dir: &Path, map: &Value) {
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A directory with a config and two shards, `one` with a and b, `two` with c.
fn sharded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    write_counting(&dir.path().join("one.safetensors"), &[("a", &[2]), ("b", &[3, 2])]);
    write_counting(&dir.path().join("two.safetensors"), &[("c", &[4])]);
    write_index(
        dir.path(),
        &json!({ "c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors" }),
    );
    dir
}

macro_rules! assert_open_error {
    ($dir:expr, $pattern:pat, $words:expr) => {{
        let error = Checkpoint::open($dir).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, $pattern), "{error:?}");
        assert!(message.contains($words), "{message}");
        assert!(!message.contains('\n') && !message.contains("  "), "one line: {message}");
    }};
}

#[test]
fn shards_are_read_by_tensor_name() {
    let dir = sharded();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names(), ["c", "a", "b"]);
    assert_eq!(checkpoint.read_f32("b").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(checkpoint.read_rows_f32("c", 3..4).unwrap(), [3.0]);
    assert!(checkpoint.path_of("c").ends_with("two.safetensors"));
    let on_disk: u64 = ["one", "two"]
        .map(|n| dir.path().join(format!("{n}.safetensors")).metadata().unwrap().len())
        .iter()
        .sum();
    assert_eq!(checkpoint.file_bytes(), on_disk);
    assert!(matches!(checkpoint.read("d"), Err(DataError::MissingTensor { .. })));
    assert!(matches!(checkpoint.read_at("d", 0, &mut []), Err(DataError::MissingTensor { .. })));
}

#[test]
fn broken_shards_are_refused() {
    let dir = sharded();
    std::fs::remove_file(dir.path().join("one.safetensors")).unwrap();
    assert_open_error!(dir.path(), DataError::MissingShard { tensors: 2, .. }, "one.safetensors");

    let dir = sharded();
    write_index(dir.path(), &json!({ "a": "one.safetensors", "z": "two.safetensors" }));
    assert_open_error!(dir.path(), DataError::ShardLacksTensor { .. }, "\"z\"");

    let dir = sharded();
    write_counting(&dir.path().join("two.safetensors"), &[("c", &[4]), ("a", &[2])]);
    assert_open_error!(dir.path(), DataError::TensorInTwoShards { .. }, "\"a\" is in two shards");

    let dir = sharded();
    std::fs::write(dir.path().join("two.safetensors"), b"too short").unwrap();
    assert_open_error!(dir.path(), DataError::HeaderLength { .. }, "two.safetensors");

    for name in ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", "", "a\\b", "C:x"] {
        let dir = sharded();
        write_index(dir.path(), &json!({ "a": name }));
        assert_open_error!(dir.path(), DataError::UnsafePath { .. }, "not a plain file name");
    }

    for text in ["", "{", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#] {
        let dir = sharded();
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        assert_open_error!(dir.path(), DataError::JsonFile { .. }, "model.safetensors.index.json:");
    }
    let dir = sharded();
    std::fs::write(dir.path().join("model.safetensors.index.json"), b"{\"weight_map\":\xff").unwrap();
    assert_open_error!(dir.path(), DataError::JsonFile { .. }, "index.json:1:");
}

#[test]
fn directories_that_are_no_checkpoints_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert_open_error!(path, DataError::MissingFile { .. }, "is empty");
    assert_open_error!(path.join("nowhere"), DataError::Io { .. }, "nowhere");
    std::fs::write(path.join("notes.txt"), "x").unwrap();
    assert_open_error!(path, DataError::MissingFile { .. }, "not a model directory");
    assert_open_error!(path.join("notes.txt"), DataError::MissingFile { .. }, "it is a file");
    std::fs::write(path.join("model-q4.gguf"), "x").unwrap();
    assert_open_error!(path, DataError::ForeignWeights { .. }, "GGUF");
    std::fs::remove_file(path.join("model-q4.gguf")).unwrap();
    std::fs::write(path.join("pytorch_model.bin"), "x").unwrap();
    assert_open_error!(path, DataError::ForeignWeights { .. }, "save_pretrained");
    std::fs::write(path.join("config.json"), "{}").unwrap();
    assert_open_error!(path, DataError::ForeignWeights { .. }, "pytorch_model.bin");
    std::fs::remove_file(path.join("pytorch_model.bin")).unwrap();
    assert_open_error!(path, DataError::MissingFile { .. }, "download the weights");
    std::fs::write(path.join("weights.safetensors"), "x").unwrap();
    assert_open_error!(path, DataError::MissingFile { .. }, "weights.safetensors is here: rename it");
    std::fs::remove_file(path.join("config.json")).unwrap();
    assert_open_error!(path, DataError::MissingFile { .. }, "not complete");
    write_counting(&path.join("model.safetensors"), &[("a", &[1])]);
    std::fs::write(path.join("config.json"), "{\n  \"a\": NaN\n}").unwrap();
    assert_open_error!(path, DataError::JsonFile { line: 2, .. }, "config.json:2:");
    std::fs::write(path.join("config.json"), "[1]").unwrap();
    assert_open_error!(path, DataError::JsonFile { .. }, "config.json:1:");
    std::fs::write(path.join("config.json"), "{}").unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().names(), ["a"]);
}

#[test]
fn a_written_checkpoint_has_the_hugging_face_layout() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deep/out");
    let source = sharded();
    std::fs::write(source.path().join("tokenizer.json"), "{\"t\":1}").unwrap();
    std::fs::write(source.path().join("LICENSE"), "free").unwrap();
    std::fs::write(source.path().join("README.md"), "about the dense model").unwrap();
    let source = Checkpoint::open(source.path()).unwrap();
    assert_eq!(source.side_files().collect::<Vec<_>>(), ["LICENSE", "tokenizer.json"]);

    let specs = ["a", "b", "c"]
        .map(|name| TensorSpec::new(name, DType::F32, source.info(name).unwrap().shape.clone()));
    let options = CheckpointOptions { shard_bytes: 32, ..Default::default() };
    let mut writer = CheckpointWriter::create(&out, &specs, &options).unwrap();
    assert!(!is_checkpoint(&out));
    for name in ["c", "b", "a"] {
        writer.copy(&source, name).unwrap();
    }
    writer.add_files_of(&source).unwrap();
    for bad in ["config.json", "../x", "a/b", "x.safetensors", ""] {
        assert!(matches!(writer.add_file(bad, ""), Err(DataError::UnsafePath { .. })), "{bad}");
    }
    let written = writer.finish(&config()).unwrap();
    assert!(is_checkpoint(&out));
    assert_eq!(
        names_in(&out),
        [
            "LICENSE",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    let text = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert_eq!(
        text,
        "{\n  \"model_type\": \"llama\",\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ],\n  \"a_last\": 1e-6\n}\n"
    );
    let index: Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], (2 + 6 + 4) * 4);
    assert_eq!(index["weight_map"]["b"], "model-00001-of-00002.safetensors");
    let checkpoint = Checkpoint::open(&out).unwrap();
    assert_eq!(checkpoint.config(), &config());
    assert_eq!(checkpoint.file_bytes(), written.file_bytes);
    assert_eq!(checkpoint.shards()[0].metadata()["format"], "pt");
    assert_eq!(&*checkpoint.read_file("tokenizer.json").unwrap(), b"{\"t\":1}");
    assert!(matches!(checkpoint.read_file("vocab.json"), Err(DataError::MissingFile { .. })));
    for name in ["a", "b", "c"] {
        assert_eq!(checkpoint.read(name).unwrap(), source.read(name).unwrap());
    }
}

#[test]
fn a_new_checkpoint_replaces_an_old_one_without_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    let specs = [TensorSpec::new("a", DType::U8, [4]), TensorSpec::new("b", DType::U8, [4])];
    for shard_bytes in [4, 100, 4] {
        let options = CheckpointOptions { shard_bytes, ..Default::default() };
        let mut writer = CheckpointWriter::create(dir.path(), &specs, &options).unwrap();
        writer.write("a", b"1234").unwrap();
        writer.write("b", b"5678").unwrap();
        writer.finish(&config()).unwrap();
        let wanted: &[&str] = if shard_bytes == 100 {
            &["config.json", "model.safetensors"]
        } else {
            &[
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ]
        };
        assert_eq!(names_in(dir.path()), wanted);
        assert_eq!(Checkpoint::open(dir.path()).unwrap().read("b").unwrap(), b"5678");
    }
    // A run that stops half way leaves the old one as it was.
    let mut writer = CheckpointWriter::create(dir.path(), &specs, &CheckpointOptions::default()).unwrap();
    writer.write("a", b"xxxx").unwrap();
    assert!(matches!(writer.finish(&config()), Err(DataError::Unwritten { .. })));
    assert_eq!(names_in(dir.path()).len(), 4);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().read("a").unwrap(), b"1234");

    // The source may be the directory written to.
    let source = Checkpoint::open(dir.path()).unwrap();
    let mut writer = CheckpointWriter::create(dir.path(), &specs, &CheckpointOptions::default()).unwrap();
    writer.copy(&source, "b").unwrap();
    writer.copy(&source, "a").unwrap();
    writer.finish(source.config()).unwrap();
    assert_eq!(names_in(dir.path()), ["config.json", "model.safetensors"]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().read("a").unwrap(), b"1234");
}

/// A killed process cannot clean up: the next one to finish does.
#[test]
fn leftovers_of_a_killed_run_are_explained_and_later_removed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "model-00001-of-00002.safetensors"] {
        std::fs::write(dir.path().join(format!("{name}.partial-1-0")), "half").unwrap();
    }
    assert_open_error!(dir.path(), DataError::MissingFile { .. }, "was stopped before its end: run it again");
    let specs = [TensorSpec::new("a", DType::U8, [4])];
    let mut writer = CheckpointWriter::create(dir.path(), &specs, &CheckpointOptions::default()).unwrap();
    writer.write("a", b"1234").unwrap();
    writer.finish(&config()).unwrap();
    assert_eq!(names_in(dir.path()), ["config.json", "model.safetensors"]);
}

#[test]
fn a_stopped_writer_leaves_no_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let specs = [TensorSpec::new("a", DType::U8, [4])];
    let writer = CheckpointWriter::create(&out, &specs, &CheckpointOptions::default()).unwrap();
    assert_eq!(names_in(&out).len(), 1);
    assert!(names_in(&out)[0].starts_with("model.safetensors.partial-"));
    drop(writer);
    assert!(!out.exists());
    let bad = [TensorSpec::new("a", DType::U8, [4]), TensorSpec::new("a", DType::U8, [4])];
    CheckpointWriter::create(&out, &bad, &CheckpointOptions { shard_bytes: 1, ..Default::default() })
        .unwrap_err();
    assert!(!out.exists());
}

#[test]
fn an_embedded_checkpoint_reads_like_one_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    write_counting(&dir.path().join("w"), &[("a", &[2, 2])]);
    let weights: &'static [u8] = Box::leak(std::fs::read(dir.path().join("w")).unwrap().into_boxed_slice());
    let files: [(&str, &'static [u8]); 1] = [("tokenizer.json", b"{}")];
    let checkpoint = Checkpoint::embedded(b"{\"x\":1}", weights, &files).unwrap();
    assert_eq!(checkpoint.config()["x"], 1);
    assert_eq!(checkpoint.read_rows_f32("a", 1..2).unwrap(), [2.0, 3.0]);
    assert_eq!(&*checkpoint.read_file("tokenizer.json").unwrap(), b"{}");
    assert!(matches!(Checkpoint::embedded(b"{", weights, &[]), Err(DataError::JsonFile { .. })));
}

#[test]
#[cfg(unix)]
fn an_unwritable_directory_is_reported_with_path_and_system_words() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let specs = [TensorSpec::new("a", DType::U8, [4])];

    // Below a file there can be no directory, whoever asks.
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let below = dir.path().join("file/out");
    let error = CheckpointWriter::create(&below, &specs, &CheckpointOptions::default()).unwrap_err();
    assert!(matches!(error, DataError::Io { action: "create", .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("file/out") && message.contains("Not a directory"), "{message}");
    assert!(write_atomically(dir.path().join("no/dir/x"), b"").unwrap_err().to_string().contains("no/dir/x"));

    let locked = dir.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    match CheckpointWriter::create(&locked, &specs, &CheckpointOptions::default()) {
        Ok(_) => eprintln!("skipped: this user may write to read-only directories (root)"),
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("locked") && message.contains("Permission denied"), "{message}");
            assert!(message.ends_with("check the owner and mode of the path"), "{message}");
        }
    }
}
