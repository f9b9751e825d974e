//! From names to directories.

use std::path::Path;

use sparseland_data::{DataError, resolve_model};

fn not_found(name: &str, cache: Option<&Path>) -> String {
    let error = resolve_model(name, cache).unwrap_err();
    assert!(matches!(error, DataError::ModelNotFound { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn directories_come_first() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(resolve_model(dir.path().to_str().unwrap(), None).unwrap(), dir.path());
    let file = dir.path().join("model.safetensors");
    std::fs::write(&file, "x").unwrap();
    let error = resolve_model(file.to_str().unwrap(), None).unwrap_err();
    assert!(error.to_string().contains("this is a file"), "{error}");
}

#[test]
fn the_cache_is_searched_by_name_and_revision() {
    let cache = tempfile::tempdir().unwrap();
    let entry = cache.path().join("models--Qwen--Qwen3-0.6B");
    let message = not_found("Qwen/Qwen3-0.6B", Some(cache.path()));
    assert!(message.contains(cache.path().to_str().unwrap()), "{message}");
    assert!(message.contains("`hf download Qwen/Qwen3-0.6B`"), "{message}");
    assert!(not_found("gpt2", None).contains("no cache is known"));

    std::fs::create_dir_all(entry.join("refs")).unwrap();
    assert!(not_found("Qwen/Qwen3-0.6B", Some(cache.path())).contains("no snapshot"));
    for commit in ["aaa111", "bbb222"] {
        std::fs::create_dir_all(entry.join("snapshots").join(commit)).unwrap();
    }
    let message = not_found("Qwen/Qwen3-0.6B", Some(cache.path()));
    assert!(message.contains("aaa111, bbb222"), "{message}");
    std::fs::write(entry.join("refs/main"), "bbb222\n").unwrap();
    let found = |name: &str, cache: &Path| resolve_model(name, Some(cache)).unwrap();
    assert_eq!(found("Qwen/Qwen3-0.6B", cache.path()), entry.join("snapshots/bbb222"));
    assert_eq!(found("Qwen/Qwen3-0.6B@aaa111", cache.path()), entry.join("snapshots/aaa111"));
    let message = not_found("Qwen/Qwen3-0.6B@v2", Some(cache.path()));
    assert!(message.contains("hf download Qwen/Qwen3-0.6B --revision v2"), "{message}");

    // One snapshot and no refs; and a cache given by its parent.
    let parent = tempfile::tempdir().unwrap();
    let only = parent.path().join("hub/models--gpt2/snapshots/ccc");
    std::fs::create_dir_all(&only).unwrap();
    assert_eq!(found("gpt2", parent.path()), only);
    // A commit out of a damaged refs file cannot leave the cache.
    std::fs::create_dir_all(parent.path().join("hub/models--gpt2/refs")).unwrap();
    std::fs::write(parent.path().join("hub/models--gpt2/refs/main"), "../..").unwrap();
    assert_eq!(found("gpt2", parent.path()), only);
}

#[test]
fn other_words_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    for name in ["./none", "/none", "~/none", "a/b/c", "a\\b", "../x/y", ""] {
        let error = resolve_model(name, Some(cache.path())).unwrap_err();
        assert!(matches!(error, DataError::ModelName { .. }), "{name}: {error:?}");
    }
    for name in ["a b", "a/", "a/..", "a/.b", "ü/x", "a@", "a@../x", "a\u{1b}"] {
        let error = resolve_model(name, Some(cache.path())).unwrap_err();
        assert!(matches!(error, DataError::ModelName { .. }), "{name}: {error:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
