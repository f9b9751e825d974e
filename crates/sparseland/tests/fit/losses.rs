//! Losses other than squares, further penalties, refits and resampling.

use crate::closed_forms::{C, NAMES, orthogonal, soft};
use crate::{Folder, coefficient, csv, json, number, numbers, refused, table};

#[test]
fn further_penalties_on_orthogonal_columns() {
    let folder = Folder::new();
    let table = folder.write("t.csv", csv("a,b,c,d,e,f,g,y", &orthogonal(&[C])));
    let fit = |model: &str, options: &[&str]| {
        let report = json(&[&["fit", model, &table, "--tol", "1e-12"], options].concat());
        NAMES.map(|name| coefficient(&report, name))
    };
    let near = |found: [f64; 7], expected: [f64; 7]| {
        found.iter().zip(expected).for_each(|(f, e)| assert!((f - e).abs() < 1e-6, "{found:?} {expected:?}"));
    };
    // The noise level is the root mean square of what the thresholds leave: one equation, by bisection.
    let left = |sigma: f64| C.iter().map(|c| c.abs().min(0.4 * sigma).powi(2)).sum::<f64>().sqrt();
    let (mut low, mut high) = (1e-3, 10.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if left(middle) > middle { low = middle } else { high = middle }
    }
    assert!(low > 0.05, "the floor is not what decides");
    near(fit("sqrt-lasso", &["--alpha", "0.4"]), C.map(|c| soft(c, 0.4 * low)));
    // Sorted factors fall more slowly than the sizes: every size less its own.
    let mut order: Vec<f64> = C.iter().map(|c| c.abs()).collect();
    order.sort_by(|a, b| b.total_cmp(a));
    let factor = |c: f64| 1.0 - 0.5 * order.iter().position(|o| *o == c.abs()).unwrap() as f64 / 6.0;
    near(fit("slope", &["--alpha", "0.3", "--oscar", "0.5"]), C.map(|c| soft(c, 0.3 * factor(c))));
    near(fit("slope", &["--alpha", "0.3", "--oscar", "1"]), C.map(|c| soft(c, 0.3)));
    // Penalties of single coefficients: no number does better.
    let power = |q: f64| move |w: f64| 0.5 * w.abs().powf(q);
    let best = |found: [f64; 7], penalty: &dyn Fn(f64) -> f64| {
        for (w, c) in found.iter().zip(C) {
            let value = |w: f64| 0.5 * (w - c) * (w - c) + penalty(w);
            let least = (-300..=300).map(|k| value(f64::from(k) * 0.01)).fold(f64::INFINITY, f64::min);
            assert!(value(*w) <= least + 1e-9, "{w} for {c}");
        }
    };
    best(fit("bridge", &["--alpha", "0.5"]), &power(0.5));
    best(fit("bridge", &["--alpha", "0.5", "--exponent", "2/3"]), &power(2.0 / 3.0));
    best(fit("log-sum", &["--alpha", "0.5"]), &|w: f64| 0.5 * (1.0 + w.abs()).ln());
    // Refits: the support stays, half or nothing of the shrinkage.
    let kept = |c: f64| if c.abs() > 0.35 { c } else { 0.0 };
    near(fit("lasso", &["--alpha", "0.35", "--relaxed"]), C.map(kept));
    let half = C.map(|c| 0.5 * (kept(c) + soft(c, 0.35)));
    near(fit("lasso", &["--alpha", "0.35", "--relaxed=0.5"]), half);
    // Adaptive weights 1 / |w| of a first lasso of some strength s: C - w = alpha / (C - s), the same s for all.
    let adaptive = fit("lasso", &["--alpha", "0.2", "--adaptive"]);
    let strengths: Vec<f64> = adaptive
        .iter()
        .zip(C)
        .filter(|(w, _)| **w != 0.0)
        .map(|(w, c)| c.abs() - 0.2 / (c - w).abs())
        .collect();
    assert!(strengths.len() >= 3 && strengths[0] >= 0.0, "{strengths:?}");
    assert!(strengths.iter().all(|s| (s - strengths[0]).abs() < 1e-4), "{strengths:?}");
    let both = ["fit", "lasso", &table, "--relaxed", "--adaptive"];
    assert_eq!(crate::sparseland(&both).status.code(), Some(2));
}

/// A feature that is 1 in the second half of `2 n` rows and 0 in the first, with targets of both halves.
fn halves(first: &[f64], second: &[f64]) -> String {
    let rows = first.iter().map(|y| vec![0.0, *y]).chain(second.iter().map(|y| vec![1.0, *y]));
    csv("late,y", &rows.collect::<Vec<_>>())
}

#[test]
fn two_groups_get_their_means_and_shares() {
    let folder = Folder::new();
    let model = folder.at("model.json");
    let fit = |name: &str, table: &str| {
        let options = ["--alpha", "1e-9", "--tol", "1e-10", "--out", &model];
        json(&[&["fit", name, table], &options[..]].concat())
    };
    // Amounts and counts: means 2 and 5, log links.
    let amounts = folder.write("amounts.csv", halves(&[1.0, 3.0, 2.0, 2.0], &[4.0, 6.0, 5.0, 5.0]));
    for name in ["gamma", "poisson"] {
        let report = fit(name, &amounts);
        assert!((coefficient(&report, "late") - 2.5f64.ln()).abs() < 1e-5, "{name}");
        assert!((number(&report["intercept"]) - 2f64.ln()).abs() < 1e-5, "{name}");
        let predicted = json(&["predict", &model, &amounts]);
        let last = predicted["predictions"][7].as_str().unwrap().parse::<f64>().unwrap();
        assert!((last - 5.0).abs() < 1e-4);
    }
    let zero = folder.write("zero.csv", halves(&[0.0, 1.0], &[1.0, 2.0]));
    assert!(refused(&["fit", "gamma", &zero, "--alpha", "1"]).contains("y[0] is 0"));
    // Classes: shares 1/4 and 3/4. Log odds, and the squared hinge's 2 p - 1.
    let classes = folder.write("classes.csv", halves(&[0.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 1.0, 1.0]));
    let report = fit("logistic", &classes);
    assert!((coefficient(&report, "late") - 2.0 * 3f64.ln()).abs() < 1e-4);
    let report = fit("svc", &classes);
    assert!((coefficient(&report, "late") - 1.0).abs() < 1e-5);
    assert!((number(&report["intercept"]) + 0.5).abs() < 1e-5);
    let predicted = json(&["predict", &model, &classes]);
    assert_eq!(number(&predicted["score"]), 0.75);
    assert!(predicted.get("probabilities").is_none(), "the hinge has none");
    // Three classes: their shares.
    let text = "late,who\n0,b\n0,a\n0,a\n0,c\n1,c\n1,c\n1,b\n1,a\n";
    let three = folder.write("three.csv", text);
    let report = fit("multinomial", &three);
    assert_eq!(report["columns"], serde_json::json!(["a", "b", "c"]));
    let predicted = json(&["predict", &model, &three]);
    for (row, shares) in [(0, [0.5, 0.25, 0.25]), (7, [0.25, 0.25, 0.5])] {
        let p = numbers(&predicted["probabilities"][row]);
        assert!(p.iter().zip(shares).all(|(p, s)| (p - s).abs() < 1e-3), "{p:?}");
    }
    assert_eq!((&predicted["predictions"][1], &predicted["predictions"][4]), (&"a".into(), &"c".into()));
    assert_eq!(number(&predicted["score"]), 0.5);
    let printed = crate::sparseland(&["predict", &model, &three]).stdout;
    assert!(
        String::from_utf8(printed)
            .unwrap()
            .starts_with("who,probability of a,probability of b,probability of c\n")
    );
    // Cross-validation: a strength at which the feature tells nothing about the class of left-out rows is not kept.
    let many: String = (0..60).map(|i| format!("{},{}\n", i % 3, ["x", "y", "z"][i % 3])).collect();
    let many = folder.write("many.csv", format!("a,who\n{many}"));
    let report = json(&["fit", "multinomial", &many, "--cv", "3", "--grouped"]);
    assert!(number(&report["explained"]) > 0.9 && number(&report["cv_loss"]) < 0.2 * 3f64.ln());
}

#[test]
fn hazards_are_stationary_and_score_by_concordance() {
    let folder = Folder::new();
    let (x, y, _) = table();
    // Times fall with the first feature; every fourth row is censored.
    let rows: Vec<Vec<f64>> = (0..40)
        .map(|i| {
            [
                x[i].clone(),
                vec![(-0.3 * y[i] + (7.0 * i as f64).sin()).exp(), f64::from(u8::from(i % 4 != 0))],
            ]
            .concat()
        })
        .collect();
    let table = folder.write("t.csv", csv("a,b,c,d,e,days,dead", &rows));
    let model = folder.at("cox.json");
    let alpha = 0.02;
    let fit = ["fit", "cox", &table, "--target", "days,dead", "--tol", "1e-10"];
    let report = json(&[&fit[..], &["--alpha", "0.02", "--out", &model]].concat());
    let listed = report["coefficients"].as_array().unwrap();
    let w = ["a", "b", "c", "d", "e"]
        .map(|name| listed.iter().find(|pair| pair[0] == name).map_or(0.0, |pair| numbers(&pair[1])[0]));
    assert!(w[0] > 0.5 && w[2] < -0.5, "{w:?}");
    let risk: Vec<f64> = rows.iter().map(|r| (0..5).map(|j| r[j] * w[j]).sum::<f64>()).collect();
    // The score of the partial likelihood, event by event, balances the penalty.
    for j in 0..5 {
        let mut score = 0.0;
        for i in (0..40).filter(|&i| rows[i][6] == 1.0) {
            let at_risk = (0..40).filter(|&l| rows[l][5] >= rows[i][5]);
            let (mut above, mut below) = (0.0, 0.0);
            for l in at_risk {
                above += rows[l][j] * risk[l].exp();
                below += risk[l].exp();
            }
            score += rows[i][j] - above / below;
        }
        let score = score / 40.0;
        if w[j] != 0.0 {
            assert!((score - alpha * w[j].signum()).abs() < 1e-6, "{j}: {score}");
        } else {
            assert!(score.abs() <= alpha + 1e-6);
        }
    }
    // Harrell's index, pair by pair.
    let (mut right, mut pairs) = (0.0, 0.0);
    for i in (0..40).filter(|&i| rows[i][6] == 1.0) {
        for l in (0..40).filter(|&l| rows[l][5] > rows[i][5]) {
            pairs += 1.0;
            right += if risk[i] > risk[l] { 1.0 } else { 0.0 };
        }
    }
    let predicted = json(&["predict", &model, &table]);
    assert!((number(&predicted["score"]) - right / pairs).abs() < 1e-12);
    let first = predicted["predictions"][0].as_str().unwrap().parse::<f64>().unwrap();
    assert!((first - risk[0]).abs() < 1e-10);
    // By cross-validation the two true features are used.
    let report = json(&[&fit[..], &["--cv", "4"]].concat());
    assert!(report["nonzeros"].as_u64().unwrap() >= 2);
    assert!(refused(&["fit", "cox", &table, "--target", "days"]).contains("TIME,EVENT"));
    assert!(refused(&["fit", "cox", &table, "--target", "dead,days"]).contains("neither 1 nor 0"));
}

#[test]
fn stable_features_are_the_true_ones() {
    let folder = Folder::new();
    let (x, y, _) = table();
    let rows: Vec<Vec<f64>> = x.iter().zip(&y).map(|(r, y)| [r.clone(), vec![*y]].concat()).collect();
    let table = folder.write("t.csv", csv("a,b,c,d,e,y", &rows));
    let options = ["--stability=0.9", "--stability-features", "2", "--pairs", "20"];
    let report = json(&[&["fit", "lasso", &table], &options[..]].concat());
    let mut selected: Vec<&str> =
        report["selected"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    selected.sort_unstable();
    assert_eq!(selected, ["a", "c"]);
    let shares = report["probabilities"].as_array().unwrap().iter().map(|pair| number(&pair[1]));
    assert!((shares.sum::<f64>() - number(&report["chosen"])).abs() < 1e-12);
    assert!(number(&report["chosen"]) <= 2.0 && number(&report["error_bound"]) > 0.0);
    assert!(refused(&["fit", "lasso", &table, "--stability=0.4"]).contains("above 0.5"));
    assert!(refused(&["fit", "multitask-lasso", &table, "--stability"]).contains("--stability"));
}
