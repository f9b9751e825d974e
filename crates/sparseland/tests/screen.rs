//! `sparseland screen` on small tables.

use assert_cmd::Command;

fn sparseland() -> Command {
    let mut command = Command::cargo_bin("sparseland").expect("the binary is built");
    command.args(["--threads", "1", "-q"]);
    command
}

/// 60 rows: `y = wave²`, a column of zeros, and `other`, which has nothing to do with it.
fn table() -> String {
    let row = |i: u32| {
        let wave = (f64::from(i) * 0.7).sin();
        format!("{wave},0,{},{}\n", (f64::from(i * i) * 1.3).cos(), wave * wave)
    };
    "wave,zero,other,y\n".to_owned() + &(0..60).map(row).collect::<String>()
}

#[test]
fn a_square_is_found_by_information_and_not_by_correlation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, table()).unwrap();
    let run = |method: &str| -> serde_json::Value {
        let mut command = sparseland();
        command.arg("screen").arg(&path).args(["--target", "y", "--method", method, "--json"]);
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    };
    for method in ["mi-kde", "mi-fft", "mi-bin"] {
        let report = run(method);
        assert_eq!(report["top"][0]["column"], "wave", "{method}");
        assert_eq!((report["columns"].as_u64(), report["constant"].as_u64()), (Some(3), Some(1)));
        assert!(report["top"].as_array().unwrap().iter().all(|f| f["column"] != "y"));
    }
    assert!(run("pearson")["top"][0]["correlation"].as_f64().unwrap() < 0.4);
}

#[test]
fn errors_name_the_place_and_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    let said = |text: &str, target: &str| {
        std::fs::write(&path, text).unwrap();
        let output = sparseland().arg("screen").arg(&path).args(["--target", target]).assert().code(2);
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    assert!(said(&table(), "no-such").contains("no-such"));
    let text = said(&table().replacen("0.", "x.", 1), "y");
    assert!(text.contains("line 3") && text.lines().count() == 1, "{text}");
    let missing = table().replacen(",0,", ",,", 1);
    assert!(said(&missing, "y").contains("\"zero\", row 0 is NaN"));
    sparseland().arg("screen").arg(&path).args(["--target", "y", "--drop-missing"]).assert().success();
}
