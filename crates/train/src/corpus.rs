//! Text as one stream of tokens.

use std::path::PathBuf;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_data::read_documents;
use sparseland_nn::Tokenizer;

use crate::TrainError;

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
    pub fn read(paths: &[PathBuf], held_out: f64, tokenizer: &Tokenizer) -> Result<(Self, Self), TrainError> {
        let (mut training, mut validation) = (Vec::new(), Vec::new());
        for path in paths {
            let documents = read_documents(path)?;
            if documents.iter().all(String::is_empty) {
                return Err(TrainError::Data { path: path.clone(), reason: "it holds no text".into() });
            }
            if documents.len() as f64 * held_out >= 2.0 {
                let kept = documents.len() - (documents.len() as f64 * held_out).round() as usize;
                let mut documents = documents;
                validation.extend(documents.split_off(kept));
                training.extend(documents);
            } else {
                for document in documents {
                    let mut cut = (document.len() as f64 * (1.0 - held_out)) as usize;
                    while !document.is_char_boundary(cut) {
                        cut += 1;
                    }
                    if cut < document.len() {
                        validation.push(document[cut..].to_owned());
                    }
                    training.push(document[..cut].to_owned());
                }
            }
        }
        Ok((Self::from_documents(&training, tokenizer)?, Self::from_documents(&validation, tokenizer)?))
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
