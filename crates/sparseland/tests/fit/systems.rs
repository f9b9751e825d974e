//! Graphs and stacks.

use crate::{Folder, csv, json, number, numbers, refused};

/// Numbers that look random: a linear congruential generator's upper bits, roughly normal as sums of twelve.
fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

#[test]
fn colide_finds_a_chain_writes_it_and_predicts_from_parents() {
    let folder = Folder::new();
    let z = noise(1500, 3);
    // first -> second -> third, noise of scale 1 each.
    let rows: Vec<Vec<f64>> = (0..500)
        .map(|i| {
            let a = 5.0 + z[3 * i];
            let b = 1.5 * a + z[3 * i + 1];
            vec![a, b, -1.2 * b + z[3 * i + 2]]
        })
        .collect();
    let table = folder.write("t.csv", csv("first,\"sec,ond\",third", &rows));
    let truth = folder.write("truth.csv", "cause,effect\nfirst,\"sec,ond\"\n\"sec,ond\",third\n");
    let (model, dot) = (folder.at("graph.json"), folder.at("graph.dot"));
    for variance in ["--equal-variance", "--nonequal-variance"] {
        let report = json(&[
            "fit",
            "colide",
            &table,
            variance,
            "--optimizer",
            "fast",
            "--truth",
            &truth,
            "--out",
            &model,
            "--dot",
            &dot,
        ]);
        assert_eq!(report["against_truth"]["shd"], 0, "{variance}");
        assert_eq!(report["order"], serde_json::json!(["first", "sec,ond", "third"]));
        for pair in report["noise"].as_array().unwrap() {
            assert!((number(&pair[1]) - 1.0).abs() < 0.15, "{variance} {pair}");
        }
        let edges = report["edges"].as_array().unwrap();
        assert!((number(&edges[0]["weight"]) - 1.5).abs() < 0.15);
        let dot = std::fs::read_to_string(&dot).unwrap();
        let drawn = format!("\"first\" -> \"sec,ond\" [label=\"{:.3}\"", number(&edges[0]["weight"]));
        assert!(dot.starts_with("digraph") && dot.contains(&drawn) && dot.contains("style=dashed"), "{dot}");
        // A node's prediction is linear in its parents; roots have their mean.
        let predicted = json(&["predict", &model, &table]);
        let rows_of = |k: usize| numbers(&predicted["predictions"][k]);
        let slope = (rows_of(1)[1] - rows_of(0)[1]) / (rows[1][0] - rows[0][0]);
        assert!((slope - number(&edges[0]["weight"])).abs() < 1e-9);
        let mean = rows.iter().map(|r| r[0]).sum::<f64>() / 500.0;
        assert!((rows_of(0)[0] - mean).abs() < 1e-9);
        assert!(number(&predicted["scores"][2][1]) > 0.7 && number(&predicted["scores"][0][1]).abs() < 1e-9);
    }
    // A threshold above all weights leaves no edge.
    let report = json(&["fit", "colide", &table, "--optimizer", "fast", "--threshold", "9"]);
    assert!(
        report["edges"].as_array().unwrap().is_empty() && report["warnings"].as_array().unwrap().len() == 1
    );
    assert!(refused(&["fit", "colide", &table, "--lambda", "-1"]).contains("lambda"));
    assert!(refused(&["fit", "colide", &table, "--lambda", "much"]).contains("much"));
    let wrong = folder.write("wrong.csv", "cause,effect\nfirst,nobody\n");
    assert!(refused(&["fit", "colide", &table, "--truth", &wrong]).contains("row 1: \"nobody\""));
}

#[test]
fn stacking_drops_copies_beats_single_models_and_predicts() {
    let folder = Folder::new();
    let z = noise(5 * 300, 8);
    // Three models that miss different things, and an exact copy of the first.
    let rows: Vec<Vec<f64>> = (0..300)
        .map(|i| {
            let z = &z[5 * i..5 * i + 5];
            let truth = 2.0 * z[0] + z[1];
            let first = truth + 0.8 * z[2];
            vec![first, truth + 0.9 * z[3], truth + z[4], first, truth]
        })
        .collect();
    let table = folder.write("p.csv", csv("one,two,three,copy,y", &rows));
    let model = folder.at("stack.json");
    let report = json(&["fit", "stack", &table, "--folds", "5", "--out", &model]);
    assert_eq!(report["kept"], serde_json::json!(["one", "two", "three"]));
    assert_eq!((report["rows"].as_u64(), report["held_out_rows"].as_u64()), (Some(300), Some(60)));
    let ablation = report["ablation"].as_array().unwrap();
    let held_out = |name: &str| {
        number(&ablation.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("{name}"))["held_out"])
    };
    assert!((held_out("all stages") - number(&report["held_out"]["rmse"])).abs() < 1e-12);
    // Noises of 0.8, 0.9 and 1 combine to (1/0.64 + 1/0.81 + 1)^-1/2 = 0.513 at best.
    assert!(held_out("all stages") < 0.62 && held_out("best single model") > 0.65);
    assert_eq!(ablation.iter().find(|v| v["name"] == "without redundancy").unwrap()["models"], 4);
    // The saved model, with the infinite condition number of a copy in it, gives the same on the table itself.
    let predicted = json(&["predict", &model, &table]);
    assert!(number(&predicted["score"]) > 0.93);
    // The copy is not looked at.
    let shuffled: Vec<Vec<f64>> = rows.iter().map(|r| vec![r[4], 7.0, r[2], r[1], r[0]]).collect();
    let shuffled = folder.write("q.csv", csv("y,copy,three,two,one", &shuffled));
    assert_eq!(json(&["predict", &model, &shuffled])["predictions"], predicted["predictions"]);
    // Without held-out rows nothing is scored on them.
    let report = json(&["fit", "stack", &table, "--folds", "5", "--held-out", "0"]);
    assert!(report.get("held_out").is_none());
    assert!(refused(&["fit", "stack", &table, "--held-out", "1"]).contains("--held-out"));
}
