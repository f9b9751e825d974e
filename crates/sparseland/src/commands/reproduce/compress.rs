//! The compression systems whose experiments live in their crate.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sparseland_compress::concat_svd;
use sparseland_compress::experiments::{Folders, LanguageModel};
use sparseland_compress::methods::{cospadi, fwsvd, welore};
use sparseland_core::{Context, Event, Experiment, Reproduction};
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
    let Ok(archive) = std::fs::read(path) else { return Ok(None) };
    let wrong = || format!("{} is damaged or not a NumPy archive of images", path.display());
    let (kind, by_columns, values) = array(&archive, "X.npy").with_context(wrong)?;
    let pixels: Vec<f64> = match kind.as_str() {
        "|u1" => values.iter().map(|&b| f64::from(b)).collect(),
        "<f4" => {
            values.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        _ => Err(anyhow::anyhow!("values of type {kind}")).with_context(wrong)?,
    };
    ensure!(!pixels.is_empty() && pixels.len().is_multiple_of(1024), wrong());
    let count = pixels.len() / 1024;
    let pixel =
        |image: usize, p: usize| pixels[if by_columns { p * count + image } else { image * 1024 + p }];
    // Images are stored column after column.
    Ok(Some((0..count).map(|i| Mat::from_fn(32, 32, |r, c| pixel(i, c * 32 + r))).collect()))
}

/// Type, whether column after column, and bytes of one array of a NumPy archive (zip, stored or deflated).
fn array(archive: &[u8], name: &str) -> Option<(String, bool, Vec<u8>)> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = archive.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
    };
    let end = archive.windows(4).rposition(|w| w == b"PK\x05\x06")?;
    let (count, mut at) = (number(end + 10, 2)?, number(end + 16, 4)?);
    for _ in 0..count {
        let (method, packed) = (number(at + 10, 2)?, number(at + 20, 4)?);
        let (name_len, extra, comment) = (number(at + 28, 2)?, number(at + 30, 2)?, number(at + 32, 2)?);
        let local = number(at + 42, 4)?;
        if archive.get(at + 46..at + 46 + name_len)? == name.as_bytes() {
            let start = local + 30 + number(local + 26, 2)? + number(local + 28, 2)?;
            let data = archive.get(start..start.checked_add(packed)?)?;
            let mut npy = Vec::new();
            match method {
                0 => npy.extend_from_slice(data),
                _ => drop(flate2::read::DeflateDecoder::new(data).read_to_end(&mut npy).ok()?),
            }
            let header = usize::from(*npy.get(8)?) | usize::from(*npy.get(9)?) << 8;
            let text = std::str::from_utf8(npy.get(10..10 + header)?).ok()?;
            let kind = text.split("'descr': '").nth(1)?.split('\'').next()?.to_owned();
            let by_columns = text.contains("'fortran_order': True");
            return Some((kind, by_columns, npy.split_off(10 + header)));
        }
        at += 46 + name_len + extra + comment;
    }
    None
}
