//! The estimation systems, whose experiments live in their crate.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_estimate::{
    a_mtrl, bcd, colide, high_dimensional, kron_sbl, ldp_regression, random_supports, stacking,
};

/// The committed experiment of a system, if it is one of these.
pub fn config(slug: &str) -> Option<&'static str> {
    Some(match slug {
        "colide" => include_str!("../../../../../experiments/colide.toml"),
        "kron-sbl" => include_str!("../../../../../experiments/kron-sbl.toml"),
        "ldp-regression" => include_str!("../../../../../experiments/ldp-regression.toml"),
        "high-dimensional" => include_str!("../../../../../experiments/high-dimensional.toml"),
        "random-supports" => include_str!("../../../../../experiments/random-supports.toml"),
        "a-mtrl" => include_str!("../../../../../experiments/a-mtrl.toml"),
        "stacking" => include_str!("../../../../../experiments/stacking.toml"),
        "bcd" => include_str!("../../../../../experiments/bcd.toml"),
        _ => return None,
    })
}

/// Runs a system's experiments.
pub fn run(slug: &str, text: &str, context: &Context) -> Result<Reproduction> {
    let mut notes = Vec::new();
    let mut report = |e: &Experiment| {
        let outcome = if e.passed { "" } else { "  MISSED" };
        context.report(Event::Line(&format!("{}: {:.4} ({}){outcome}", e.name, e.measured, e.claimed)));
    };
    let data = super::data_dir();
    let (slug, paper_claim, experiments) = match slug {
        "colide" => {
            let config: colide::experiment::Config = super::parse(text)?;
            let samples = std::env::var_os("SPARSELAND_COLIDE_SAMPLES").map(std::path::PathBuf::from);
            let sachs = data.join("sachs");
            let sachs = sachs.is_dir().then_some(sachs);
            if sachs.is_none() {
                notes.push("the protein data were left out: set SPARSELAND_DATA".to_owned());
            }
            let found = colide::experiment::run(&config, samples.as_deref(), sachs.as_deref(), context)?;
            found.iter().for_each(&mut report);
            (config.slug, config.paper_claim, found)
        }
        "kron-sbl" => {
            let config: kron_sbl::experiment::Config = super::parse(text)?;
            let found = kron_sbl::experiment::run(&config, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "ldp-regression" => {
            let config: ldp_regression::experiment::Config = super::parse(text)?;
            let found = ldp_regression::experiment::run(&config, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "high-dimensional" => {
            let config: high_dimensional::experiment::Config = super::parse(text)?;
            let found = high_dimensional::experiment::run(&config, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "random-supports" => {
            let config: random_supports::experiment::Config = super::parse(text)?;
            let mnist = data.join("mnist/train-images-idx3-ubyte.gz");
            let mnist = mnist.is_file().then_some(mnist.as_path());
            if mnist.is_none() {
                notes.push("the digits were left out: set SPARSELAND_DATA".to_owned());
            }
            let found = random_supports::experiment::run(&config, mnist, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "a-mtrl" => {
            let config: a_mtrl::experiment::Config = super::parse(text)?;
            let digits = data.join("optdigits/train.csv.gz");
            let digits = digits.is_file().then_some(digits.as_path());
            if digits.is_none() {
                notes.push("the digits were left out: set SPARSELAND_DATA".to_owned());
            }
            let found = a_mtrl::experiment::run(&config, digits, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        "stacking" => {
            let config: stacking::experiment::Config = super::parse(text)?;
            let folder = data.is_dir().then_some(data.as_path());
            if folder.is_none() {
                notes.push("the real data were left out: set SPARSELAND_DATA".to_owned());
            }
            let found = stacking::experiment::run(&config, folder, context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
        _ => {
            let config: bcd::experiment::Config = super::parse(text)?;
            let sentences = sentences(&data.join("sst2/train.tsv.zst"))?;
            if sentences.is_none() {
                notes.push("the sentences were left out: set SPARSELAND_DATA".to_owned());
            }
            let found = bcd::experiment::run(&config, sentences.as_deref(), context, &mut report)?;
            (config.slug, config.paper_claim, found)
        }
    };
    Ok(Reproduction { slug, paper_claim, verdict: Reproduction::judge(&experiments), experiments, notes })
}

/// Labelled sentences: a table with the columns `label` and one of text.
fn sentences(path: &Path) -> Result<Option<Vec<(bool, String)>>> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(None) };
    let mut text = String::new();
    let wrong = || format!("{} is damaged", path.display());
    let mut decoder = zstd::decoding::StreamingDecoder::new(file).with_context(wrong)?;
    decoder.read_to_string(&mut text).with_context(wrong)?;
    let mut lines = text.lines();
    let label = lines.next().and_then(|h| h.split('\t').position(|h| h == "label")).with_context(wrong)?;
    let row = |line: &str| {
        let (first, second) = line.split_once('\t')?;
        let (label, text) = if label == 0 { (first, second) } else { (second, first) };
        Some((label == "1", text.to_owned()))
    };
    Ok(Some(lines.filter_map(row).collect()))
}
