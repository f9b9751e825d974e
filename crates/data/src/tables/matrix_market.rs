//! Matrix Market's exchange format: `coordinate` (sparse) and `array` (dense, column after column).
//!
//! Boisvert, Pozo and Remington, "The Matrix Market Exchange Formats", NISTIR 5935, 1996.

use super::numbers::MOST;
use super::{Numbers, Wrong};

const BANNER: &[u8] = b"%%MatrixMarket";

/// Whether the text has the format's banner.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.get(..BANNER.len()).is_some_and(|b| b.eq_ignore_ascii_case(BANNER))
}

/// Which entries stand for two.
#[derive(Clone, Copy, PartialEq)]
enum Symmetry {
    General,
    Symmetric,
    Skew,
}

/// Lines with content and their numbers.
struct Lines<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    last: usize,
}

impl<'a> Lines<'a> {
    fn advance(&mut self) -> Option<(usize, &'a str)> {
        let found = self.lines.find(|(_, line)| !line.trim().is_empty() && !line.starts_with('%'))?;
        self.last = found.0 + 1;
        Some((self.last, found.1))
    }
}

fn at(line: usize) -> String {
    format!("line {line}")
}

pub(super) fn read(bytes: &[u8]) -> Result<Numbers, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        (at(line), "not UTF-8".to_owned())
    })?;
    let banner = text.lines().next().unwrap_or_default().to_lowercase();
    let words: Vec<&str> = banner.split_ascii_whitespace().collect();
    let [_, "matrix", layout, field, symmetry] = words[..] else {
        return Err((at(1), "the banner must be `%%MatrixMarket matrix LAYOUT FIELD SYMMETRY`".into()));
    };
    if !["real", "integer", "pattern", "double"].contains(&field) {
        return Err((
            at(1),
            format!("values of the field {field:?} are not read; real, integer and pattern are"),
        ));
    }
    let symmetry = match symmetry {
        "general" => Symmetry::General,
        "symmetric" => Symmetry::Symmetric,
        "skew-symmetric" => Symmetry::Skew,
        other => return Err((at(1), format!("matrices of the symmetry {other:?} are not read"))),
    };
    let mut lines = Lines { lines: text.lines().enumerate(), last: 1 };
    let (line, sizes) =
        lines.advance().ok_or_else(|| (at(1), "ends before the line of sizes; copy it again".to_owned()))?;
    let sizes: Option<Vec<usize>> = sizes.split_ascii_whitespace().map(|s| s.parse().ok()).collect();
    let sizes = sizes.ok_or_else(|| (at(line), "sizes must be whole numbers".to_owned()))?;
    if sizes.iter().take(2).any(|s| *s > MOST) {
        return Err((at(line), format!("sizes {sizes:?} are above the limit of {MOST}")));
    }
    if symmetry != Symmetry::General && sizes.len() > 1 && sizes[0] != sizes[1] {
        return Err((at(line), format!("a symmetric matrix cannot be {} x {}", sizes[0], sizes[1])));
    }
    match (layout, &sizes[..]) {
        ("coordinate", &[rows, cols, entries]) => {
            coordinate(&mut lines, (rows, cols, entries), field == "pattern", symmetry)
        }
        ("array", &[rows, cols]) if field != "pattern" => array(&mut lines, rows, cols, symmetry),
        ("coordinate", _) => {
            Err((at(line), "a sparse matrix has three sizes: rows, columns, entries".into()))
        }
        ("array", _) => Err((at(line), "a dense matrix has two sizes, rows and columns, and values".into())),
        _ => Err((at(1), format!("the layout {layout:?} is not read; coordinate and array are"))),
    }
}

fn value(word: Option<&str>, line: usize) -> Result<f64, Wrong> {
    let word = word.unwrap_or_default();
    let value = word.parse::<f64>().ok().filter(|v| v.is_finite());
    value.ok_or_else(|| (at(line), format!("{word:?} is no finite number")))
}

fn index(word: Option<&str>, most: usize, what: &str, line: usize) -> Result<u32, Wrong> {
    let word = word.unwrap_or_default();
    let index = word.parse::<usize>().ok().filter(|i| (1..=most).contains(i));
    let index =
        index.ok_or_else(|| (at(line), format!("the {what} {word:?} is no number from 1 to {most}")))?;
    Ok(index as u32 - 1)
}

fn coordinate(
    lines: &mut Lines<'_>,
    (rows, cols, entries): (usize, usize, usize),
    pattern: bool,
    symmetry: Symmetry,
) -> Result<Numbers, Wrong> {
    let (mut row_of, mut column_of, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = 0usize;
    while let Some((line, text)) = lines.advance() {
        read += 1;
        if read > entries {
            return Err((at(line), format!("more than the {entries} entries of the line of sizes")));
        }
        let mut words = text.split_ascii_whitespace();
        let i = index(words.next(), rows, "row", line)?;
        let j = index(words.next(), cols, "column", line)?;
        let v = if pattern { 1.0 } else { value(words.next(), line)? };
        if words.next().is_some() {
            return Err((at(line), format!("{text:?} has too many words")));
        }
        row_of.push(i);
        column_of.push(j);
        values.push(v);
        if symmetry != Symmetry::General && i != j {
            row_of.push(j);
            column_of.push(i);
            values.push(if symmetry == Symmetry::Skew { -v } else { v });
        }
    }
    if read < entries {
        return Err((at(lines.last), format!("ends after {read} of {entries} entries; copy it again")));
    }
    Ok(Numbers::from_entries(rows, cols, &row_of, &column_of, &values))
}

fn array(lines: &mut Lines<'_>, rows: usize, cols: usize, symmetry: Symmetry) -> Result<Numbers, Wrong> {
    let first = |j: usize| match symmetry {
        Symmetry::General => 0,
        Symmetry::Symmetric => j,
        Symmetry::Skew => j + 1,
    };
    let mut given = Vec::new();
    while let Some((line, text)) = lines.advance() {
        for word in text.split_ascii_whitespace() {
            given.push(value(Some(word), line)?);
        }
    }
    let expected = (0..cols).try_fold(0usize, |n, j| n.checked_add(rows.saturating_sub(first(j))));
    if expected != Some(given.len()) {
        let wanted = expected.map_or("too many to address".to_owned(), |n| n.to_string());
        return Err((at(lines.last), format!("{} values, the sizes ask for {wanted}", given.len())));
    }
    if symmetry == Symmetry::General {
        return Ok(Numbers::Dense { rows, cols, values: given });
    }
    let mut values = vec![0.0; rows * cols];
    let mut next = given.into_iter();
    for j in 0..cols {
        for i in first(j)..rows {
            let v = next.next().unwrap_or_default();
            values[j * rows + i] = v;
            if i != j {
                values[i * rows + j] = if symmetry == Symmetry::Skew { -v } else { v };
            }
        }
    }
    Ok(Numbers::Dense { rows, cols, values })
}
