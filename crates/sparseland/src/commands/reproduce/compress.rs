//! The compression systems whose experiments live in their crate.

use std::path::Path;

use anyhow::{Result, bail};
use sparseland_compress::concat_svd;
use sparseland_compress::experiments::{Folders, LanguageModel};
use sparseland_compress::methods::{cospadi, fwsvd, welore};
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_data::tables::Npz;
use sparseland_linalg::Mat;

/// The committed experiment of a system, if it is one of these.
pub fn config(slug: &str) -> Option<&'static str> {
    Some(match slug {
        "cospadi" => include_str!("../../../../../experiments/cospadi.toml"),
        "fwsvd" => include_str!("../../../../../experiments/fwsvd.toml"),
        "welore" => include_str!("../../../../../experiments/welore.toml"),
        "concat-svd" => include_str!("../../../../../experiments/concat-svd.toml"),
        _ => return None,
    })
}

/// Runs a system's experiments.
pub fn run(slug: &str, text: &str, context: &Context) -> Result<Reproduction> {
    let folders = Folders { data: super::data_dir(), scratch: std::env::temp_dir() };
    let mut notes = Vec::new();
    let told = context.clone();
    let mut report = move |e: &Experiment| {
        let outcome = if e.passed { "" } else { "  MISSED" };
        let numbers = format!("{:.4}, baseline {:.4}", e.measured, e.baseline);
        told.report(Event::Line(&format!("{} on {}: {numbers} ({}){outcome}", e.name, e.data, e.claimed)));
    };
    let mut absent = |models: &[LanguageModel]| {
        for model in models.iter().filter(|m| !folders.data.join(&m.dir).is_dir()) {
            notes.push(format!(
                "{} left out: set SPARSELAND_DATA to a folder that holds its files",
                model.name
            ));
        }
    };
    let (slug, paper_claim, experiments) = match slug {
        "cospadi" => {
            let config: cospadi::experiment::Config = super::parse(text)?;
            absent(&config.model);
            let found = cospadi::experiment::run(&config, &folders, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "fwsvd" => {
            let config: fwsvd::experiment::Config = super::parse(text)?;
            absent(&config.model);
            let found = fwsvd::experiment::run(&config, &folders, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "welore" => {
            let config: welore::experiment::Config = super::parse(text)?;
            absent(&config.model);
            let found = welore::experiment::run(&config, &folders, context, &mut report)?;
            if found.iter().any(|e| !e.passed && e.name.starts_with("control")) {
                notes.push(
                    "gaps of the control have either sign: they are the luck of one draw of random weights, larger \
                     the smaller the model and the deeper the cut, and no gain of the threshold"
                        .to_owned(),
                );
            }
            (config.slug, config.paper_claim, found)
        }
        _ => {
            let config: concat_svd::experiment::Config = super::parse(text)?;
            absent(&config.model);
            let mut images = Vec::new();
            for (name, file) in [("ORL faces", "orl-32x32/orl.npz"), ("COIL-20", "coil20-32x32/coil20.npz")] {
                match blocks(&folders.data.join(file))? {
                    Some(blocks) => images.push((name.to_owned(), blocks)),
                    None => notes.push(format!("{name} left out: set SPARSELAND_DATA")),
                }
            }
            let found = concat_svd::experiment::run(&config, &images, &folders, context, &mut report)?;
            if found.iter().any(|e| !e.passed && e.name.contains("into as many groups")) {
                notes.push(
                    "where all images fit one certified group, every grouping into one group keeps the bound: the \
                     comparison with k-means and random groups says nothing there"
                        .to_owned(),
                );
            }
            (config.slug, config.paper_claim, found)
        }
    };
    Ok(Reproduction { slug, paper_claim, verdict: Reproduction::judge(&experiments), experiments, notes })
}

/// Images of 32 x 32 pixels, one block each, from the array `X` of a NumPy archive.
fn blocks(path: &Path) -> Result<Option<Vec<Mat<f64>>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let images = Npz::open(path)?.array("X")?;
    let [count, 1024] = images.shape[..] else {
        bail!("{}: array X has shape {:?}, images of 32 x 32 take (n, 1024)", path.display(), images.shape);
    };
    let (image, pixel) = if images.fortran_order { (1, count) } else { (1024, 1) };
    let value = |i: usize, p: usize| images.values[i * image + p * pixel];
    // Images are stored column after column.
    Ok(Some((0..count).map(|i| Mat::from_fn(32, 32, |r, c| value(i, c * 32 + r))).collect()))
}
