//! Text as one stream of tokens.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_data::read_documents;
use sparseland_nn::Tokenizer;

use crate::{DataRecipe, TrainError};

/// Documents, tokenised and joined, and where each token ends in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corpus {
    ids: Vec<u32>,
    /// Bytes of text up to and with each token.
    ends: Vec<u64>,
}

impl Corpus {
    /// Joins documents; each is followed by the token that ends a text, if there is one.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn from_documents(documents: &[String], tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let mut corpus = Self::default();
        for document in documents {
            let base = corpus.ends.last().copied().unwrap_or(0);
            let encoding = tokenizer.encode(document, false)?;
            corpus.ids.extend(&encoding.ids);
            corpus.ends.extend(encoding.ends.iter().map(|&e| base + e as u64));
            if let Some(&end) = tokenizer.eos().first() {
                corpus.ids.push(end);
                corpus.ends.push(base + document.len() as u64);
            }
        }
        Ok(corpus)
    }

    /// Reads text files and splits off the share `held_out`: whole documents where a file has many, else the tail of
    /// each document.
    ///
    /// # Errors
    /// If a file cannot be read or is empty.
    pub fn read(
        recipe: &DataRecipe,
        paths: &[PathBuf],
        held_out: f64,
        tokenizer: &Tokenizer,
    ) -> Result<(Self, Self), TrainError> {
        let (mut training, mut validation) = (Self::default(), Self::default());
        for (i, path) in paths.iter().enumerate() {
            let (kept, tail) = split(documents(recipe, path)?, held_out);
            let kept = Self::from_documents(&kept, tokenizer)?;
            (0..recipe.repeat.get(i).copied().unwrap_or(1)).for_each(|_| training.append(&kept));
            validation.append(&Self::from_documents(&tail, tokenizer)?);
        }
        Ok((training, validation))
    }

    fn append(&mut self, other: &Self) {
        let base = self.bytes();
        self.ids.extend_from_slice(&other.ids);
        self.ends.extend(other.ends.iter().map(|e| base + e));
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Bytes of text.
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// `count` sequences of `length` tokens and the tokens after them, at places that seed and step decide.
    ///
    /// # Panics
    /// If the corpus is no longer than `length`.
    pub fn batch(&self, seed: u64, step: u64, count: usize, length: usize) -> (Vec<u32>, Vec<u32>) {
        let mut rng = Pcg64::new(u128::from(step), u128::from(seed));
        // The first numbers of neighbouring streams are alike.
        let mut rng = Pcg64::seed_from_u64(rng.random::<u64>() ^ step);
        let (mut inputs, mut targets) =
            (Vec::with_capacity(count * length), Vec::with_capacity(count * length));
        for _ in 0..count {
            let start = rng.random_range(0..self.ids.len() - length);
            inputs.extend_from_slice(&self.ids[start..start + length]);
            targets.extend_from_slice(&self.ids[start + 1..start + length + 1]);
        }
        (inputs, targets)
    }

    /// At most `most` sequences of `length` tokens side by side, evenly spread, with the tokens after them and the
    /// bytes of those.
    pub fn windows(&self, length: usize, most: usize) -> Vec<(&[u32], &[u32], u64)> {
        let all = self.ids.len().saturating_sub(1) / length;
        let count = all.min(most);
        let window = |i: usize| {
            let start = i * all / count.max(1) * length;
            let bytes = self.ends[start + length] - self.ends[start];
            (&self.ids[start..start + length], &self.ids[start + 1..start + length + 1], bytes)
        };
        (0..count).map(window).collect()
    }
}

/// The documents of a file, as the recipe parts and cleans them.
fn documents(recipe: &DataRecipe, path: &Path) -> Result<Vec<String>, TrainError> {
    let mut documents = read_documents(path)?;
    if let Some(separator) = &recipe.separator {
        let part = |text: &String| -> Vec<String> {
            let mut parts = vec![String::new()];
            for line in text.lines() {
                if line.trim() == separator {
                    parts.push(String::new());
                } else {
                    let last = parts.last_mut().expect("at least one");
                    last.push_str(line);
                    last.push('\n');
                }
            }
            parts.iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
        };
        documents = documents.iter().flat_map(part).collect();
    }
    if recipe.plain {
        documents.iter_mut().for_each(|d| *d = plain(d));
    }
    if documents.iter().all(String::is_empty) {
        return Err(TrainError::Data { path: path.into(), reason: "it holds no text".into() });
    }
    Ok(documents)
}

/// Text with ASCII quotes and dashes, one line per paragraph.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut breaks = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            breaks += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if breaks > 0 { "\n\n" } else { " " });
        }
        breaks = 0;
        for c in line.chars() {
            match c {
                '\u{2018}' | '\u{2019}' => out.push('\''),
                '\u{201c}' | '\u{201d}' => out.push('"'),
                '\u{2013}' => out.push('-'),
                '\u{2014}' => out.push_str("--"),
                '\u{2026}' => out.push_str("..."),
                '\u{a0}' => out.push(' '),
                '_' => {}
                other => out.push(other),
            }
        }
    }
    out
}

/// Splits off the share `held_out`: the last documents where there are many, else the tail of each.
fn split(mut documents: Vec<String>, held_out: f64) -> (Vec<String>, Vec<String>) {
    if documents.len() as f64 * held_out >= 2.0 {
        let kept = documents.len() - (documents.len() as f64 * held_out).round() as usize;
        let tail = documents.split_off(kept);
        return (documents, tail);
    }
    let mut tails = Vec::new();
    for document in &mut documents {
        let mut cut = (document.len() as f64 * (1.0 - held_out)) as usize;
        while !document.is_char_boundary(cut) {
            cut += 1;
        }
        if cut < document.len() {
            tails.push(document.split_off(cut));
        }
    }
    (documents, tails)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_keeps_words_and_paragraphs() {
        let text = "\u{201c}Well,\u{201d} said\r\nhe\u{2014}_softly_.\r\n\r\n\r\nIt\u{2019}s late\u{2026}\n";
        assert_eq!(plain(text), "\"Well,\" said he--softly.\n\nIt's late...");
    }

    #[test]
    fn splits_lose_nothing() {
        let documents: Vec<String> = (0..40).map(|i| format!("document {i}")).collect();
        let (kept, tail) = split(documents.clone(), 0.1);
        assert_eq!((kept.len(), tail.len()), (36, 4));
        assert_eq!([kept, tail].concat(), documents);
        let (kept, tail) = split(vec!["na\u{ef}ve caf\u{e9}".repeat(9)], 0.3);
        assert_eq!(format!("{}{}", kept[0], tail[0]), "na\u{ef}ve caf\u{e9}".repeat(9));
        assert_eq!(split(vec!["abc".into()], 0.0), (vec!["abc".to_owned()], vec![]));
    }
}
