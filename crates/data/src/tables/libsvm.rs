//! LIBSVM and svmlight: `label [qid:n] number:value ...` a line, numbers of features from 1, zeros left out.

use super::npy::Array;
use super::numbers::MOST;
use super::{Numbers, Wrong};

/// A file's content.
pub(super) struct Read {
    pub(super) x: Numbers,
    /// `n` labels, or `n x t` of them.
    pub(super) labels: Array,
    pub(super) notes: Vec<String>,
}

/// The line without comment and blanks around it.
fn content(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// Whether the first line with content is a label and pairs.
pub(super) fn looks_like_one(bytes: &[u8]) -> bool {
    // The line may be cut off: its first pairs decide.
    const ENOUGH: usize = 20;
    let lines = bytes.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let Some(first) = lines.map(content).find(|line| !line.is_empty()) else { return false };
    let mut words = first.split_ascii_whitespace();
    let label = words.next().is_some_and(|w| w.split(',').all(|part| part.parse::<f64>().is_ok()));
    let pair = |word: &str| {
        word.split_once(':')
            .is_some_and(|(n, v)| n == "qid" || (n.parse::<u64>().is_ok() && v.parse::<f64>().is_ok()))
    };
    let mut pairs = words.take(ENOUGH).peekable();
    label && pairs.peek().is_some() && pairs.all(pair)
}

pub(super) fn read(bytes: &[u8]) -> Result<Read, Wrong> {
    let (mut row_of, mut column_of, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (mut labels, mut targets, mut rows, mut cols, mut queries) = (Vec::new(), 0, 0, 0, 0usize);
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let place = || format!("line {}", number + 1);
        let line = std::str::from_utf8(line).map_err(|_| (place(), "not UTF-8".into()))?;
        let mut words = content(line).split_ascii_whitespace();
        let Some(label) = words.next() else { continue };
        let before = labels.len();
        for part in label.split(',') {
            let value = part.parse::<f64>().ok().filter(|v| v.is_finite());
            labels.push(value.ok_or_else(|| (place(), format!("the label {part:?} is no finite number")))?);
        }
        let count = labels.len() - before;
        if rows > 0 && count != targets {
            return Err((place(), format!("{count} labels, the lines before have {targets}")));
        }
        targets = count;
        let mut last = 0;
        for word in words {
            let pair = word.split_once(':');
            let (feature, value) =
                pair.ok_or_else(|| (place(), format!("{word:?} is no pair number:value")))?;
            if feature == "qid" {
                queries += 1;
                continue;
            }
            let there = || format!("line {}, feature {feature}", number + 1);
            let index: usize =
                feature.parse().map_err(|_| (place(), format!("{word:?} is no pair number:value")))?;
            if index == 0 {
                return Err((there(), "numbers of features start at 1 in this format; add 1 to all".into()));
            }
            if index > MOST {
                return Err((there(), format!("the number is above the limit of {MOST}")));
            }
            if index <= last {
                let text = format!("stands behind feature {last}; numbers rise strictly within a line");
                return Err((there(), text));
            }
            let value = value.parse::<f64>().ok().filter(|v| v.is_finite());
            let value = value.ok_or_else(|| (there(), format!("{word:?} has no finite value")))?;
            last = index;
            if value != 0.0 {
                row_of.push(rows as u32);
                column_of.push(index as u32 - 1);
                values.push(value);
            }
        }
        cols = cols.max(last);
        rows += 1;
    }
    if rows == 0 {
        return Err((String::new(), "no line with a label".into()));
    }
    let notes = match queries {
        0 => vec![],
        _ => {
            vec![format!("the query numbers (qid) of {queries} rows are ignored: rows are taken one by one")]
        }
    };
    let shape = if targets == 1 { vec![rows] } else { vec![rows, targets] };
    let x = Numbers::from_entries(rows, cols, &row_of, &column_of, &values);
    Ok(Read { x, labels: Array { shape, fortran_order: false, values: labels }, notes })
}
