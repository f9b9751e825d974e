//! Designs whose solutions have closed forms.

use crate::{Folder, coefficient, csv, json, number, numbers, refused};

pub(crate) fn soft(value: f64, by: f64) -> f64 {
    value.signum() * (value.abs() - by).max(0.0)
}

/// Eight rows of seven orthogonal columns of zero mean and unit mean square (Walsh functions), then targets with mean 3
/// whose products with the columns, divided by 8, are `c`.
pub(crate) fn orthogonal(c: &[[f64; 7]]) -> Vec<Vec<f64>> {
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let row = |i: usize| {
        let x: Vec<f64> = (1..8).map(|j| sign(i, j)).collect();
        let y = c.iter().map(|c| 3.0 + c.iter().zip(&x).map(|(c, x)| c * x).sum::<f64>());
        let y: Vec<f64> = y.collect();
        [x, y].concat()
    };
    (0..8).map(row).collect()
}

pub(crate) const C: [f64; 7] = [2.0, -1.5, 0.1, 0.8, -0.4, 0.3, 1.1];

pub(crate) const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

#[test]
fn orthogonal_designs_have_closed_forms() {
    let folder = Folder::new();
    let table = folder.write("t.csv", csv("a,b,c,d,e,f,g,y", &orthogonal(&[C])));
    let check = |model: &str, options: &[&str], expected: &dyn Fn(usize) -> f64| {
        let report = json(&[&["fit", model, &table, "--tol", "1e-12"], options].concat());
        assert!((number(&report["intercept"]) - 3.0).abs() < 1e-9, "{model}");
        for (j, name) in NAMES.iter().enumerate() {
            let (found, expected) = (coefficient(&report, name), expected(j));
            assert!((found - expected).abs() < 1e-9, "{model} {options:?} {name}: {found} {expected}");
        }
    };
    check("lasso", &["--alpha", "0.35"], &|j| soft(C[j], 0.35));
    check("lasso", &["--alpha", "0.35", "--positive"], &|j| (C[j] - 0.35).max(0.0));
    let l1 = ["--alpha", "0.5", "--l1-ratio", "0.3"];
    check("elastic-net", &l1, &|j| soft(C[j], 0.15) / 1.35);
    // Firm thresholding; SCAD's middle piece joins its two others.
    let mcp = |c: f64| if c.abs() > 1.5 { c } else { soft(c, 0.5) / (1.0 - 1.0 / 3.0) };
    check("mcp", &["--alpha", "0.5"], &|j| mcp(C[j]));
    let scad = |c: f64| match c.abs() {
        s if s <= 1.0 => soft(c, 0.5),
        s if s <= 1.85 => (2.7 * c - c.signum() * 1.85) / 1.7,
        _ => c,
    };
    check("scad", &["--alpha", "0.5"], &|j| scad(C[j]));
    // The loss of residuals below delta is that of squares.
    check("huber", &["--alpha", "0.35", "--delta", "1000"], &|j| soft(C[j], 0.35));
    // Groups of three, three and one; within them the sparse form softens first.
    let norm = |g: usize, by: f64| {
        let members = (3 * g)..(3 * g + 3).min(7);
        members.map(|j| soft(C[j], by).powi(2)).sum::<f64>().sqrt()
    };
    let shrunk = |j: usize, weight: f64, by: f64| {
        let size = norm(j / 3, by);
        soft(C[j], by) * (1.0 - weight / size.max(1e-300)).max(0.0)
    };
    check("group-lasso", &["--alpha", "0.9", "--groups", "3"], &|j| shrunk(j, 0.9, 0.0));
    let root = |j: usize| if j == 6 { 1.0 } else { 3f64.sqrt() };
    let by_size = ["--alpha", "0.7", "--groups", "3", "--weights-by-size"];
    check("group-lasso", &by_size, &|j| shrunk(j, 0.7 * root(j), 0.0));
    let sparse = ["--alpha", "0.5", "--groups", "3", "--tau", "0.4"];
    check("sparse-group-lasso", &sparse, &|j| shrunk(j, 0.3, 0.2));
    // The three largest, not shrunk.
    check("best-subset", &["--alpha", "3"], &|j| if C[j].abs() > 1.05 { C[j] } else { 0.0 });
    // No intercept: the mean stays in the residual, orthogonal to all columns.
    let report = json(&["fit", "lasso", &table, "--alpha", "0.35", "--no-intercept"]);
    assert_eq!(number(&report["intercept"]), 0.0);
    assert!((coefficient(&report, "a") - 1.65).abs() < 1e-6);
}

#[test]
fn units_do_not_matter_to_standardised_columns() {
    let folder = Folder::new();
    let scale = |j: usize| [1.0, 10.0, 0.1, 3.0, 0.5, 7.0, 100.0, 1.0][j];
    let rows = orthogonal(&[C]);
    let scaled: Vec<Vec<f64>> =
        rows.iter().map(|r| r.iter().enumerate().map(|(j, v)| v * scale(j)).collect()).collect();
    let table = folder.write("t.csv", csv("a,b,c,d,e,f,g,y", &scaled));
    for model in ["lasso", "elastic-net", "huber"] {
        let delta: &[&str] = if model == "huber" { &["--delta", "1000"] } else { &[] };
        let arguments = ["fit", model, &table, "--alpha", "0.35", "--standardize", "--tol", "1e-12"];
        let report = json(&[&arguments, delta].concat());
        for (j, name) in NAMES.iter().enumerate() {
            let expected = match model {
                "elastic-net" => soft(C[j], 0.175) / 1.175,
                _ => soft(C[j], 0.35),
            };
            assert!((coefficient(&report, name) * scale(j) - expected).abs() < 1e-9, "{model} {name}");
        }
    }
    // And mcp can be told not to standardise: then they do.
    let mcp = json(&["fit", "mcp", &table, "--alpha", "0.5", "--standardize=false"]);
    assert!((coefficient(&mcp, "g") * 100.0 - C[6]).abs() < 0.1);
    assert!((coefficient(&mcp, "c")).abs() < 1e-12);
}

#[test]
fn tasks_share_their_features() {
    let folder = Folder::new();
    let second = [0.5, 2.0, 0.2, -0.8, 0.3, 0.4, -1.1];
    let table = folder.write("t.csv", csv("a,b,c,d,e,f,g,y,z", &orthogonal(&[C, second])));
    let model = folder.at("model.json");
    let fit = ["fit", "multitask-lasso", &table, "--target", "y,z", "--tol", "1e-12"];
    let report = json(&[&fit[..], &["--alpha", "0.9", "--out", &model]].concat());
    assert_eq!(report["targets"], serde_json::json!(["y", "z"]));
    let mut expected = Vec::new();
    for (j, name) in NAMES.iter().enumerate() {
        let norm = C[j].hypot(second[j]);
        let factor = (1.0 - 0.9 / norm).max(0.0);
        expected.push([factor * C[j], factor * second[j]]);
        let listed = report["coefficients"].as_array().unwrap().iter().find(|pair| pair[0] == *name);
        let found = listed.map_or(vec![0.0, 0.0], |pair| numbers(&pair[1]));
        assert!(
            (found[0] - expected[j][0]).abs() < 1e-9 && (found[1] - expected[j][1]).abs() < 1e-9,
            "{name}"
        );
    }
    // Predictions: both targets of the first row, which is all ones, and R² of each.
    let predicted = json(&["predict", &model, &table]);
    let first = numbers(&predicted["predictions"][0]);
    for t in 0..2 {
        let sum = 3.0 + expected.iter().map(|w| w[t]).sum::<f64>();
        assert!((first[t] - sum).abs() < 1e-8);
        let all = [C, second][t];
        let rest: f64 = (0..7).map(|j| (all[j] - expected[j][t]).powi(2)).sum();
        let r2 = 1.0 - rest / all.iter().map(|c| c * c).sum::<f64>();
        assert!((number(&predicted["scores"][t][1]) - r2).abs() < 1e-8);
    }
    // By cross-validation, a target and its double: coefficients are doubled too.
    let (x, y, _) = crate::table();
    let rows: Vec<Vec<f64>> =
        x.iter().zip(&y).map(|(r, y)| [r.clone(), vec![*y, 2.0 * y]].concat()).collect();
    let double = folder.write("d.csv", csv("a,b,c,d,e,y,z", &rows));
    let report = json(&["fit", "multitask-lasso", &double, "--target", "y,z", "--cv", "4", "--tol", "1e-10"]);
    assert!(number(&report["explained"]) > 0.9 && number(&report["cv_loss"]) > 0.0);
    for pair in report["coefficients"].as_array().unwrap() {
        let w = numbers(&pair[1]);
        assert!((w[1] - 2.0 * w[0]).abs() < 1e-7, "{pair}");
    }
    assert!(refused(&["fit", "lasso", &table, "--target", "y,z"]).contains("multitask-lasso"));
    assert!(refused(&[&fit[..], &["--select", "bic"]].concat()).contains("--alpha"));
}

#[test]
fn a_weight_of_two_is_a_row_twice() {
    let folder = Folder::new();
    let (x, y, _) = crate::table();
    let row = |i: usize, w: f64| [x[i].clone(), vec![w, y[i]]].concat();
    let weighted: Vec<Vec<f64>> = (0..40).map(|i| row(i, 1.0 + f64::from(u8::from(i % 3 == 0)))).collect();
    let twice: Vec<Vec<f64>> = (0..40).flat_map(|i| vec![row(i, 1.0); 1 + usize::from(i % 3 == 0)]).collect();
    let names = "a,b,c,d,e,w,y";
    let weighted = folder.write("w.csv", csv(names, &weighted));
    let twice = folder.write("t.csv", csv(names, &twice));
    for flag in ["--sample-weight", "--weights"] {
        let one = json(&["fit", "lasso", &weighted, "--alpha", "0.05", "--tol", "1e-12", flag, "w"]);
        let two = json(&["fit", "lasso", &twice, "--alpha", "0.05", "--tol", "1e-12", "--drop", "w"]);
        assert_eq!(one["features"], 5);
        for name in ["a", "b", "c", "d", "e"] {
            assert!((coefficient(&one, name) - coefficient(&two, name)).abs() < 1e-10, "{name}");
        }
    }
}

#[test]
fn groups_come_from_files_too() {
    let folder = Folder::new();
    let table = folder.write("t.csv", csv("a,b,c,d,e,f,g,y", &orthogonal(&[C])));
    let named =
        folder.write("named.csv", "group,feature\nlate,g\nlate,f\nearly,a\nearly,b\nmid,c\nmid,d\nmid,e\n");
    let listed = folder.write("listed.csv", "label\nearly\nearly\nmid\nmid\nmid\nlate\nlate\n");
    let fit = |groups: &str| {
        json(&["fit", "group-lasso", &table, "--alpha", "0.8", "--groups", groups, "--tol", "1e-12"])
    };
    let (one, two) = (fit(&named), fit(&listed));
    assert_eq!(one["coefficients"], two["coefficients"]);
    let norm = C[0].hypot(C[1]);
    assert!((coefficient(&one, "b") - C[1] * (1.0 - 0.8 / norm)).abs() < 1e-9);
    let missing = folder.write("missing.csv", "group,feature\n1,a\n");
    let asked = |groups: &str| refused(&["fit", "group-lasso", &table, "--groups", groups]);
    assert!(asked(&missing).contains("feature \"b\" has no group"));
    assert!(asked("0").contains("at least one"));
    assert!(asked(&folder.at("none.csv")).contains("none.csv"));
    assert!(asked(&folder.write("short.csv", "g\n1\n2\n")).contains("2 groups for 7 features"));
}
