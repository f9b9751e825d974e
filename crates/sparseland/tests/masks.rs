//! Mask methods, compressed-tensors and recipes as a user runs them, on the bundled model.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn sparseland(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("sparseland").unwrap().args(arguments).arg("--quiet").output().unwrap()
}

fn done(arguments: &[&str]) -> String {
    let output = sparseland(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 2 and one line; returns the line.
fn refused(arguments: &[&str]) -> String {
    let output = sparseland(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

fn bits_per_byte(dir: &Path) -> f64 {
    let text = tempfile::tempdir().unwrap();
    let text = text.path().join("story.txt");
    std::fs::write(&text, "Tom had a red boat. He put it on the pond and it went far away.").unwrap();
    let arguments = ["eval", dir.to_str().unwrap(), "--text", text.to_str().unwrap(), "--json"];
    let report: Value = serde_json::from_str(&done(&arguments)).unwrap();
    report["bits_per_byte"].as_f64().unwrap()
}

const SMALL: [&str; 5] = ["--calibration-samples", "8", "--calibration-length", "64", "--no-eval"];

#[test]
fn masks_travel_through_compressed_tensors_and_back() {
    let dir = tempfile::tempdir().unwrap();
    for (name, pattern, format) in
        [("free", "unstructured", "sparse-bitmask"), ("half", "2:4", "sparse-24-bitmask")]
    {
        let (out, back) = (dir.path().join(name), dir.path().join(format!("{name}-back")));
        let set = format!("pattern={pattern}");
        let mut arguments = vec!["compress", "--method", "sparsegpt", "--set", &set, "--remove", "0.5"];
        arguments.extend(["--allocation", "uniform", "--export", "compressed-tensors"]);
        arguments.extend(["--out", out.to_str().unwrap()]);
        arguments.extend(SMALL);
        done(&arguments);
        let exported = out.join("compressed-tensors");
        let exported = exported.to_str().unwrap();
        let hint = refused(&["eval", exported]);
        assert!(hint.contains(format) && hint.contains("sparseland import"), "{hint}");
        let told = done(&["import", exported, "--out", back.to_str().unwrap()]);
        assert!(told.contains(format), "{told}");
        assert_eq!(bits_per_byte(&back), bits_per_byte(&out), "{name}");
        let sizes = [&back, &out].map(|d| std::fs::metadata(d.join("model.safetensors")).unwrap().len());
        assert!(sizes[0].abs_diff(sizes[1]) < 8192, "{sizes:?}");
    }
    let low_rank = dir.path().join("svd");
    let mut arguments = vec!["compress", "--method", "svd", "--allocation", "uniform"];
    arguments.extend(["--export", "compressed-tensors"]);
    arguments.extend(["--out", low_rank.to_str().unwrap()]);
    arguments.extend(SMALL);
    let error = refused(&arguments);
    assert!(error.contains("masks only") && error.contains("low-rank"), "{error}");
}

#[test]
fn a_pattern_and_a_budget_that_contradict_each_other_are_one_line() {
    for (pattern, remove, right) in [("2:4", "0.6", "0.5"), ("1:4", "0.9", "0.75")] {
        let set = format!("pattern={pattern}");
        let error = refused(&["compress", "--method", "wanda", "--set", &set, "--remove", remove]);
        assert!(error.contains(pattern) && error.contains(&format!("give --remove {right}")), "{error}");
    }
    let error = refused(&["compress", "--method", "wanda", "--set", "pattern=4:2"]);
    assert!(error.contains("2:4"), "{error}");
}

#[test]
fn a_recipe_chooses_method_pattern_and_layers() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe.yaml");
    let write = |key: &str| {
        let text = format!(
            "pruning_stage:\n  pruning_modifiers:\n    WandaPruningModifier:\n      sparsity: 0.5\n      \
             mask_structure: '2:4'\n      {key}\n"
        );
        std::fs::write(&recipe, text).unwrap();
    };
    let out = dir.path().join("out");
    let mut arguments =
        vec!["compress", "--recipe", recipe.to_str().unwrap(), "--out", out.to_str().unwrap()];
    arguments.extend(SMALL);
    write("ignore: ['re:.*self_attn']");
    done(&arguments);
    let report: Value = serde_json::from_str(&done(&["inspect", out.to_str().unwrap(), "--json"])).unwrap();
    let layers = report["layers"].as_array().unwrap();
    let kind = |part: &str| -> Vec<&str> {
        let named = layers.iter().filter(|l| l["name"].as_str().unwrap().contains(part));
        named.map(|l| l["kind"].as_str().unwrap()).collect()
    };
    assert!(!kind(".mlp.").is_empty() && kind(".mlp.").iter().all(|&k| k == "n-of-m"));
    assert!(kind(".self_attn.").iter().all(|&k| k == "dense"));
    write("calibrate: true");
    let error = refused(&arguments);
    assert!(error.contains("calibrate") && error.contains("recipe.yaml"), "{error}");
}
