//! The commands as a user runs them, on the bundled model.

use assert_cmd::Command;
use serde_json::Value;

fn sparseland(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("sparseland").unwrap();
    command.args(arguments).arg("--quiet");
    command
}

fn json(arguments: &[&str]) -> Value {
    let output = sparseland(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 2 and one line; returns the line.
fn refused(arguments: &[&str]) -> String {
    let output = sparseland(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

#[test]
fn compress_writes_what_it_reports_and_the_result_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("small");
    let out = out.to_str().unwrap();
    let few = ["--calibration-samples", "16", "--calibration-length", "128"];
    let mut arguments = vec!["compress", "--remove", "0.4", "--export", "dense", "--out", out, "--json"];
    arguments.extend(few);
    let report = json(&arguments);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} is missing"));
    assert!(number("achieved_removed_params") >= 0.4);
    assert!(number("lower_bound") <= number("objective") * (1.0 + 1e-9));
    assert!(number("file_bytes_after") < number("file_bytes_before"));
    assert!((number("file_bytes_after") / number("stored_bytes_after") - 1.0).abs() < 0.01);
    assert!(number("bits_per_byte_after") > number("bits_per_byte_before"));
    for key in
        ["decode_tokens_per_second_before", "decode_tokens_per_second_after", "peak_rss_bytes", "seconds"]
    {
        assert!(number(key) > 0.0, "{key}");
    }
    let on_disk = std::fs::metadata(dir.path().join("small/model.safetensors")).unwrap().len();
    assert_eq!(on_disk as f64, number("file_bytes_after"));
    assert!(!dir.path().join("small/.unfinished").exists());

    // Read back by other processes: the same quality, for the structured and the dense form.
    let again = json(&["eval", out, "--json"])["bits_per_byte"].as_f64().unwrap();
    assert!((again - number("bits_per_byte_after")).abs() < 1e-6);
    let dense = dir.path().join("small/dense");
    let exported = json(&["eval", dense.to_str().unwrap(), "--json"])["bits_per_byte"].as_f64().unwrap();
    assert!((exported - again).abs() < 5e-3, "{exported} {again}");

    let inspected = json(&["inspect", out, "--json"]);
    assert_eq!(inspected["stored_bytes"].as_f64().unwrap(), number("stored_bytes_after"));
    let sum: f64 =
        inspected["layers"].as_array().unwrap().iter().map(|l| l["stored_bytes"].as_f64().unwrap()).sum();
    assert_eq!(sum, number("stored_bytes_after"));
    let text = json(&["generate", out, "--prompt", "The boat", "--tokens", "5", "--json"]);
    assert!(text["text"].as_str().unwrap().starts_with("The boat"));

    // A compressed model is not compressed again.
    assert!(
        refused(&["compress", out, "--out", dir.path().join("twice").to_str().unwrap()]).contains("already")
    );
}

#[test]
fn a_stopped_run_goes_on_and_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, stop: bool| {
        let out = dir.path().join(name);
        let arguments =
            ["compress", "--no-eval", "--json", "--calibration-samples", "8", "--calibration-length", "64"];
        let mut command = sparseland(&arguments);
        command.arg("--out").arg(&out);
        if stop {
            // Killed at an arbitrary moment: whatever was finished by then is reused.
            command.timeout(std::time::Duration::from_millis(1500));
            let _ = command.output();
            let mut command = sparseland(&arguments);
            command.arg("--out").arg(&out);
            assert!(command.output().unwrap().status.success());
        } else {
            assert!(command.output().unwrap().status.success());
        }
        std::fs::read(out.join("model.safetensors")).unwrap()
    };
    assert!(run("whole", false) == run("stopped", true), "the resumed file differs");
}

#[test]
fn nothing_removed_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("same");
    let few = ["--calibration-samples", "4", "--calibration-length", "64"];
    let mut command = sparseland(&["compress", "--remove", "0", "--no-eval", "--json"]);
    assert!(command.args(few).arg("--out").arg(&out).output().unwrap().status.success());
    let original = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model/model.safetensors");
    use sparseland_data::{TensorFile, TensorSource};
    let (a, b) =
        (TensorFile::open(original).unwrap(), TensorFile::open(out.join("model.safetensors")).unwrap());
    assert_eq!(a.names().len(), b.names().len());
    for name in a.names() {
        assert!(a.read(name).unwrap() == b.read(name).unwrap(), "{name}");
    }
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("empty.txt"), "").unwrap();
    std::fs::write(path("tiny.txt"), "Hi.").unwrap();
    let out = path("out");
    assert!(refused(&["compress", "--remove", "1.5", "--out", &out]).contains("fraction"));
    assert!(
        refused(&[
            "compress",
            "--remove",
            "0.9999",
            "--no-eval",
            "--calibration-samples",
            "2",
            "--out",
            &path("far")
        ])
        .contains("between")
    );
    assert!(refused(&["compress", "--calibration", &path("empty.txt"), "--out", &out]).contains("empty.txt"));
    assert!(refused(&["compress", "--calibration", &path("tiny.txt"), "--out", &out]).contains("tokens"));
    assert!(refused(&["compress", "--calibration", &path("none.txt"), "--out", &out]).contains("none.txt"));
    assert!(refused(&["compress", "--out", &path("tiny.txt")]).contains("is a file"));
    assert!(refused(&["compress", &path("no-such-model"), "--out", &out]).contains("no-such-model"));
    assert!(refused(&["eval", dir.path().to_str().unwrap()]).contains("config.json"));
    assert!(refused(&["methods", "nothing"]).contains("nothing"));
    assert!(!dir.path().join("out").exists(), "a refused run left something behind");
}

/// Copies a checkpoint's directory and lets `damage` change it.
fn damaged(dir: &std::path::Path, from: &str, damage: impl FnOnce(&std::path::Path)) -> String {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
    let to = dir.join("damaged");
    let _ = std::fs::remove_dir_all(&to);
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    damage(&to);
    to.to_str().unwrap().to_owned()
}

#[test]
fn damaged_checkpoints_are_refused_with_place_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let compress = |model: &str| refused(&["compress", model, "--no-eval", "--out", out.to_str().unwrap()]);
    let weights = |dir: &std::path::Path| dir.join("model.safetensors");
    let edit = |dir: &std::path::Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(weights(dir)).unwrap();
        change(&mut bytes);
        std::fs::write(weights(dir), bytes).unwrap();
    };
    let bundled = "assets/model";
    // A bf16 NaN in the middle of the weights.
    let model = damaged(dir.path(), bundled, |dir| {
        edit(dir, &|bytes| {
            let at = (bytes.len() / 2) & !1;
            bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        });
    });
    let error = compress(&model);
    assert!(error.contains("NaN") && error.contains("model.layers."), "{error}");
    let model = damaged(dir.path(), bundled, |dir| edit(dir, &|bytes| bytes.truncate(bytes.len() - 100)));
    assert!(compress(&model).contains("model.safetensors"));
    let model = damaged(dir.path(), bundled, |dir| {
        edit(dir, &|bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()))
    });
    assert!(compress(&model).contains("header"));
    // The header's first pair of offsets moved onto another tensor.
    let model = damaged(dir.path(), bundled, |dir| {
        edit(dir, &|bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let text = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
            let changed = text.replacen("BF16", "F16 ", 1).replacen("\"F16 \"", "\"F64\" ", 1);
            bytes[8..8 + length].copy_from_slice(changed.as_bytes());
        });
    });
    assert!(compress(&model).contains("model.safetensors"));
    let model = damaged(dir.path(), bundled, |dir| {
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        std::fs::write(
            dir.join("config.json"),
            config.replace("\"hidden_size\": 192", "\"hidden_size\": 193"),
        )
        .unwrap();
    });
    assert!(compress(&model).contains("193"));
    let model = damaged(dir.path(), "../nn/tests/fixtures/llama-llama3", |dir| {
        std::fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap();
    });
    let error = refused(&["inspect", &model]);
    assert!(error.contains("model-00002-of-00003.safetensors"), "{error}");
    assert!(!out.exists(), "a refused run left something behind");
    // A directory that cannot be made: its parent is a file.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refused(&["compress", "--no-eval", "--out", file.join("out").to_str().unwrap()]);
    assert!(error.contains("file"), "{error}");
}

#[test]
fn training_refuses_before_it_works_and_healing_keeps_the_structure() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let recipe = |text: &str| {
        std::fs::write(path("recipe.toml"), text).unwrap();
        refused(&["train", "lm", &path("recipe.toml"), "--out", &path("run")])
    };
    let training = "[training]\nsteps = 2\nbatch = 2\nlearning_rate = 0.001\n";
    assert!(recipe(&format!("[data]\n{training}wamrup = 3\n")).contains("wamrup"));
    assert!(
        recipe(&format!("[data]\ntext = [\"none.txt\"]\n{training}")).contains("none.txt does not exist")
    );
    let bad = format!("[data]\n{training}[method]\nname = \"sr-ste\"\nn = 4\nm = 2\n");
    assert!(recipe(&bad).contains("4:2"));
    assert!(!dir.path().join("run").exists(), "a refused run left something behind");
    assert!(
        refused(&[
            "train",
            "heal",
            concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model"),
            "--text",
            concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories/calibration.txt"),
            "--out",
            &path("healed")
        ])
        .contains("no structured layer")
    );

    let small = path("small");
    json(&[
        "compress",
        "--remove",
        "0.5",
        "--no-eval",
        "--calibration-samples",
        "8",
        "--calibration-length",
        "64",
        "--out",
        &small,
        "--json",
    ]);
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories/calibration.txt");
    let record = json(&[
        "train",
        "heal",
        &small,
        "--text",
        text,
        "--steps",
        "6",
        "--batch",
        "4",
        "--sequence",
        "64",
        "--out",
        &path("healed"),
        "--json",
    ]);
    assert!(record["trained_parameters"].as_u64().unwrap() < record["parameters"].as_u64().unwrap());
    let structure = |dir: &str| {
        let config = std::fs::read_to_string(format!("{dir}/config.json")).unwrap();
        serde_json::from_str::<Value>(&config).unwrap()["sparseland"].clone()
    };
    assert_eq!(structure(&small), structure(&path("healed")));
    // Masks and codes are the same bytes; values have moved.
    use sparseland_data::{TensorFile, TensorSource};
    let open = |dir: &str| TensorFile::open(format!("{dir}/model.safetensors")).unwrap();
    let (before, after) = (open(&small), open(&path("healed")));
    let (mut masks, mut moved) = (0, 0);
    for (name, info) in before.tensors() {
        let same = before.read(name).unwrap() == after.read(name).unwrap();
        if matches!(
            info.dtype,
            sparseland_data::DType::U8 | sparseland_data::DType::U16 | sparseland_data::DType::U32
        ) {
            assert!(same, "{name}");
            masks += 1;
        } else {
            moved += usize::from(!same);
        }
    }
    assert!(masks > 0 && moved > 0);
    assert!(json(&["eval", &path("healed"), "--json"])["bits_per_byte"].as_f64().unwrap() > 0.0);
}

#[test]
fn machine_readable_lists_parse() {
    let methods = json(&["methods", "--json"]);
    for method in methods.as_array().unwrap() {
        for key in ["slug", "family", "title", "year", "arxiv", "status", "card", "parameters"] {
            assert!(method.get(key).is_some(), "{key}");
        }
    }
    assert!(json(&["doctor", "--json"])["threads"].as_u64().unwrap() >= 1);
}

#[test]
fn a_fitted_model_predicts_another_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // y = 3 a - 2 c + 1, classes by its sign; the columns of the second table stand in another order.
    let rows: Vec<[f64; 4]> = (0..60)
        .map(|i| {
            let v = |k: usize| ((i * (2 * k + 3) * 7919 + k * 101) % 997) as f64 / 498.5 - 1.0;
            [v(0), v(1), v(2), 3.0 * v(0) - 2.0 * v(2) + 1.0]
        })
        .collect();
    let class = |y: f64| if y > 1.0 { "warm" } else { "cold" };
    let mut first = "a,b,c,y\n".to_owned();
    let mut second = "y,c,b,a\n".to_owned();
    let mut classes = "a,b,c,y\n".to_owned();
    for [a, b, c, y] in &rows {
        first += &format!("{a},{b},{c},{y}\n");
        second += &format!("{y},{c},{b},{a}\n");
        classes += &format!("{a},{b},{c},{}\n", class(*y));
    }
    for (name, text) in [("first.csv", &first), ("second.csv", &second), ("classes.csv", &classes)] {
        std::fs::write(path(name), text).unwrap();
    }
    let at = |name: &str| path(name).to_str().unwrap().to_owned();
    let fit = |model: &str, table: &str, alpha: &str, out: &str| {
        json(&["fit", model, &at(table), "--alpha", alpha, "--out", &at(out), "--json"])
    };
    let predict = |model: &str, table: &str| json(&["predict", &at(model), &at(table), "--json"]);
    fit("lasso", "first.csv", "0.001", "lasso.json");
    let report = predict("lasso.json", "second.csv");
    assert!(report["score"].as_f64().unwrap() > 0.999);
    for (row, prediction) in rows.iter().zip(report["predictions"].as_array().unwrap()) {
        let prediction: f64 = prediction.as_str().unwrap().parse().unwrap();
        assert!((prediction - row[3]).abs() < 0.05);
    }
    fit("logistic", "classes.csv", "0.01", "logistic.json");
    let report = predict("logistic.json", "classes.csv");
    let right = rows.iter().zip(report["predictions"].as_array().unwrap());
    let right = right.filter(|(row, p)| p.as_str() == Some(class(row[3]))).count();
    assert_eq!(report["score"].as_f64().unwrap(), right as f64 / 60.0);
    assert!(right >= 54);
    std::fs::write(path("narrow.csv"), "a,b\n1,2\n").unwrap();
    assert!(refused(&["predict", &at("lasso.json"), &at("narrow.csv")]).contains("has no column \"c\""));
}
