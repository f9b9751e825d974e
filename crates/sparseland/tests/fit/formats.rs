//! The same numbers from every format.

use serde_json::Value;

use crate::{Folder, csv, json, npy, npz, number, refused, saved, table};

/// The same table in every format: file, and the arguments that name its target.
fn formats(folder: &Folder, x: &[Vec<f64>], y: &[f64]) -> Vec<(String, Vec<String>)> {
    let (n, p) = (x.len(), x[0].len());
    let with_y: Vec<Vec<f64>> = x.iter().zip(y).map(|(r, y)| [r.clone(), vec![*y]].concat()).collect();
    let names: Vec<String> = (0..p).map(|j| format!("x{j}")).collect();
    let text = csv(&format!("{},y", names.join(",")), &with_y);
    let target = folder.write("y.npy", npy(&[n], false, y.iter().copied()));
    let target_csv = folder.write("y.csv", csv("y", &y.iter().map(|v| vec![*v]).collect::<Vec<_>>()));
    let by_rows = || x.iter().flatten().copied();
    let by_columns = || (0..p).flat_map(|j| x.iter().map(move |r| r[j]));
    npz(
        &folder.path("t.npz"),
        &[("X", npy(&[n, p], true, by_columns())), ("y", npy(&[n], false, y.iter().copied()))],
    );
    let pair = |r: &Vec<f64>| {
        let pairs = r.iter().enumerate().filter(|(_, v)| **v != 0.0);
        pairs.map(|(j, v)| format!(" {}:{v}", j + 1)).collect::<String>()
    };
    let svm: String = x.iter().zip(y).map(|(r, y)| format!("{y}{}\n", pair(r))).collect();
    let entries: Vec<(usize, usize, f64)> = (0..n)
        .flat_map(|i| (0..p).map(move |j| (i, j)))
        .map(|(i, j)| (i, j, x[i][j]))
        .filter(|e| e.2 != 0.0)
        .collect();
    let body: String = entries.iter().map(|(i, j, v)| format!("{} {} {v}\n", i + 1, j + 1)).collect();
    let mtx = format!("%%MatrixMarket matrix coordinate real general\n{n} {p} {}\n{body}", entries.len());
    let given = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    vec![
        (folder.write("t.csv", text), given(&["--target", "y"])),
        (folder.write("t.npy", npy(&[n, p], false, by_rows())), given(&["--target-file", &target])),
        (
            folder.write("f.npy", npy(&[n, p + 1], true, by_columns().chain(y.iter().copied()))),
            given(&["--target", "5"]),
        ),
        (folder.at("t.npz"), vec![]),
        (folder.write("t.svm", &svm), vec![]),
        (folder.write("t.txt", &svm), vec![]),
        (folder.write("t.mtx", mtx), given(&["--target", &target_csv])),
    ]
}

#[test]
fn every_format_gives_the_same_model_and_predictions() {
    let folder = Folder::new();
    let (x, y, classes) = table();
    let out = folder.at("model.json");
    for (model, y) in [("lasso", &y), ("elastic-net", &y), ("mcp", &y), ("logistic", &classes)] {
        let mut first: Option<(Vec<f64>, f64, Value)> = None;
        for (file, target) in formats(&folder, &x, y) {
            let target: Vec<&str> = target.iter().map(String::as_str).collect();
            let fit = ["fit", model, &file, "--cv", "4", "--alphas", "20", "--out", &out];
            let report = json(&[&fit, &target[..]].concat());
            let coef = saved(&folder.path("model.json"));
            let alpha = number(&report["alpha"]);
            // Applied to the table it comes from.
            let scored =
                if target.first() == Some(&"--target") && !file.ends_with("mtx") { vec![] } else { target };
            let scored: Vec<&str> =
                scored.iter().map(|a| if *a == "--target" { "--target-file" } else { a }).collect();
            let predicted = json(&[&["predict", &out, &file], &scored[..]].concat());
            assert!(number(&predicted["score"]) > 0.8, "{model} {file}");
            match &first {
                None => first = Some((coef, alpha, predicted)),
                Some((expected, a, p)) => {
                    assert!((a - alpha).abs() <= 1e-12 * a, "{model} {file}: {a} {alpha}");
                    for (found, expected) in coef.iter().zip(expected) {
                        assert!((found - expected).abs() < 1e-12, "{model} {file}: {found} {expected}");
                    }
                    assert!(
                        (number(&p["score"]) - number(&predicted["score"])).abs() < 1e-12,
                        "{model} {file}"
                    );
                }
            }
        }
        assert!(first.unwrap().0.iter().any(|w| *w != 0.0));
    }
    // Classes are the same in another notation.
    json(&["fit", "logistic", &folder.at("t.npz"), "--alpha", "0.01", "--out", &out]);
    let decimal: Vec<String> = classes.iter().map(|c| format!("{c:.1}")).collect();
    let decimal = folder.write("classes.csv", format!("y\n{}\n", decimal.join("\n")));
    let archive = folder.at("t.npz");
    let score = |options: &[&str]| {
        let arguments: Vec<&str> = [&["predict", &out, &archive][..], options].concat();
        json(&arguments)["score"].clone()
    };
    assert!(number(&score(&[])) > 0.8);
    assert_eq!(score(&["--target-file", &decimal]), score(&[]));
    formats(&folder, &x, &y);
    // The first file's model, which knows names, on files without names; and a LIBSVM file whose last features are 0.
    json(&["fit", "lasso", &folder.at("t.csv"), "--alpha", "0.01", "--out", &out]);
    let by_name = json(&["predict", &out, &folder.at("t.csv")]);
    let by_position = json(&["predict", &out, &folder.at("t.npy")]);
    assert_eq!(by_name["predictions"], by_position["predictions"]);
    let svm = folder.at("t.svm");
    json(&["fit", "lasso", &svm, "--alpha", "0.01", "--out", &out]);
    let narrow = folder.write("narrow.svm", "0 1:1\n0\n");
    let predictions = json(&["predict", &out, &narrow])["predictions"].clone();
    let value = |k: usize| predictions[k].as_str().unwrap().parse::<f64>().unwrap();
    assert!((value(0) - value(1) - saved(&folder.path("model.json"))[0]).abs() < 1e-12);
}

#[test]
fn the_figure_shows_path_and_cross_validation() {
    let folder = Folder::new();
    let (x, y, _) = table();
    let (file, _) = formats(&folder, &x, &y).swap_remove(0);
    let svg = folder.at("path.svg");
    let report = json(&["fit", "lasso", &file, "--select", "1se", "--plot", &svg]);
    let text = std::fs::read_to_string(&svg).unwrap();
    assert!(text.contains("Path of coefficients") && text.contains("Cross-validation"));
    assert!(text.contains(&format!("one standard error rule: alpha = {:.6}", number(&report["alpha"]))));
    assert!(text.contains("least loss: alpha = "));
    assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
    json(&["fit", "lasso", &file, "--select", "bic", "--plot", &svg]);
    assert!(!std::fs::read_to_string(&svg).unwrap().contains("Cross-validation"));
}

#[test]
fn screening_reads_every_format() {
    let folder = Folder::new();
    let (x, y, _) = table();
    let mut first: Option<Vec<(u64, f64)>> = None;
    for (file, target) in formats(&folder, &x, &y) {
        let target: Vec<&str> =
            target.iter().map(|a| if a == "--target-file" { "--target" } else { a.as_str() }).collect();
        let report = json(&[&["screen", &file, "--method", "pearson"], &target[..]].concat());
        assert_eq!((&report["columns"], &report["rows"]), (&5.into(), &40.into()), "{file}");
        let top = report["top"].as_array().unwrap();
        let found: Vec<(u64, f64)> =
            top.iter().map(|f| (f["index"].as_u64().unwrap(), number(&f["score"]))).collect();
        match &first {
            None => {
                assert_eq!(found[0].0, 0);
                first = Some(found);
            }
            Some(expected) => assert_eq!(&found, expected, "{file}"),
        }
    }
    assert!(refused(&["screen", &folder.at("t.mtx")]).contains("no column"));
}

#[test]
fn bad_tables_are_refused_in_one_line_with_their_place() {
    let folder = Folder::new();
    let (x, y, _) = table();
    formats(&folder, &x, &y);
    let fit = |file: &str, options: &[&str]| refused(&[&["fit", "lasso", file], options].concat());
    assert!(fit(&folder.at("t.npy"), &[]).contains("--target-file"));
    assert!(fit(&folder.at("t.npy"), &["--target", "9"]).contains("its columns are 0 to 4"));
    assert!(fit(&folder.at("t.csv"), &["--target", "nothing"]).contains("no column \"nothing\"; it has x0"));
    let short = folder.write("short.npy", npy(&[3], false, [1.0; 3].into_iter()));
    assert!(fit(&folder.at("t.npy"), &["--target-file", &short]).contains("3 values for the 40 rows"));
    let nan =
        folder.write("nan.npy", npy(&[40], false, (0..40).map(|i| if i == 7 { f64::NAN } else { 0.0 })));
    assert!(fit(&folder.at("t.npy"), &["--target-file", &nan]).contains("[7, 0]: NaN"));
    let text = folder.write("bad.csv", "a,y\n1,2\nx,3\n");
    assert!(fit(&text, &[]).contains("bad.csv, line 3, column \"a\": \"x\" is no finite number"));
    assert!(fit(&folder.write("one.csv", "y\n1\n2\n"), &[]).contains("no column to predict from"));
    assert!(fit(&folder.at("t.csv"), &["--cv", "1"]).contains("at least 2 folds"));
    let classes = ["fit", "logistic", &folder.at("t.csv")].map(str::to_owned);
    assert!(refused(&classes.each_ref().map(String::as_str)).contains("exactly 2"));
    for (name, shape) in [("rows.npz", [0, 3]), ("columns.npz", [3, 0])] {
        npz(
            &folder.path(name),
            &[
                ("X", npy(&shape, false, [].into_iter())),
                ("y", npy(&shape[..1], false, [1.0, 2.0, 3.0].into_iter().take(shape[0]))),
            ],
        );
        fit(&folder.at(name), &["--alpha", "1"]);
        assert!(refused(&["screen", &folder.at(name)]).contains("nothing to read"));
    }
    let old = folder.write("old.json", "{\"version\": 1, \"model\": \"lasso\"}");
    assert!(refused(&["predict", &old, &folder.at("t.csv")]).contains("version 1"));
}
