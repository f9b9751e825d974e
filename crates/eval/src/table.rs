//! Plain text tables, and numbers for people.
//!
//! A [`Table`] has titled columns of text or of numbers with fixed decimals; each column is as wide as
//! its widest cell. Widths count characters. There is no colour.
//!
//! # Example
//! ```
//! use sparseland_eval::table::{Column, Table, human_bytes};
//!
//! let mut table = Table::new([Column::text("method"), Column::number("bits/byte", 3), Column::right("size")])
//!     .titled("30 % removed");
//! table.row(["dense".into(), 1.86.into(), human_bytes(1_310_720).into()]);
//! table.rule();
//! table.row(["rocket".into(), 1.8957.into(), human_bytes(917_504).into()]);
//! let expected = "\
//! 30 % removed
//! method  bits/byte      size
//! ---------------------------
//! dense       1.860  1.25 MiB
//! ---------------------------
//! rocket      1.896   896 KiB
//! ";
//! assert_eq!(table.to_string(), expected);
//! ```

use std::fmt;

/// The side of a column on which cells of different width agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Title and shape of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: String,
    align: Align,
    decimals: usize,
}

impl Column {
    /// A column of text, aligned left. Numbers in it show the digits they need.
    pub fn text(title: impl Into<String>) -> Self {
        Self { title: title.into(), align: Align::Left, decimals: 0 }
    }

    /// A column of numbers with fixed `decimals`, aligned right. Counts show none.
    pub fn number(title: impl Into<String>, decimals: usize) -> Self {
        Self { title: title.into(), align: Align::Right, decimals }
    }

    /// A column of text aligned right: sizes, times, numbers with a unit.
    pub fn right(title: impl Into<String>) -> Self {
        Self::number(title, 0)
    }

    fn render(&self, cell: &Cell) -> String {
        match cell {
            Cell::Text(text) => text.lines().collect::<Vec<_>>().join(" "),
            Cell::Count(count) => count.to_string(),
            Cell::Number(value) if !value.is_finite() => value.to_string(),
            Cell::Number(value) if self.align == Align::Left => value.to_string(),
            Cell::Number(value) => {
                let text = format!("{value:.*}", self.decimals);
                // A tiny negative number rounds to zero, not to minus zero.
                let zero = !text.contains(|c: char| ('1'..='9').contains(&c));
                if zero { text.trim_start_matches('-').to_owned() } else { text }
            }
            Cell::Missing => "-".to_owned(),
        }
    }
}

/// One entry of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text; line breaks become spaces.
    Text(String),
    /// A number, shown with the decimals of its column.
    Number(f64),
    /// A whole number, shown without decimals.
    Count(u64),
    /// No value, shown as `-`.
    Missing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::Count(value as u64)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

/// A table; its `Display` is the text, with a line break after each line.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    title: Option<String>,
    columns: Vec<Column>,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
enum Line {
    Cells(Vec<String>),
    Rule,
}

impl Table {
    /// An empty table.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { title: None, columns: columns.into_iter().collect(), lines: Vec::new() }
    }

    /// The same table with a line of text above it.
    #[must_use]
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Adds a row; missing cells at its end show as `-`.
    ///
    /// # Panics
    /// If there are more cells than columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) -> &mut Self {
        let mut cells = cells.into_iter();
        let row =
            self.columns.iter().map(|column| column.render(&cells.next().unwrap_or(Cell::Missing))).collect();
        assert!(cells.next().is_none(), "a row has more cells than the table's {}", self.columns.len());
        self.lines.push(Line::Cells(row));
        self
    }

    /// Adds a line across the table.
    pub fn rule(&mut self) -> &mut Self {
        self.lines.push(Line::Rule);
        self
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.title.chars().count()).collect();
        for line in &self.lines {
            if let Line::Cells(cells) = line {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GAP: &str = "  ";
        let widths = self.widths();
        let total = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        let line = |cells: Vec<&str>| {
            let padded: Vec<String> = cells
                .into_iter()
                .zip(&self.columns)
                .zip(&widths)
                .map(|((cell, column), &width)| match column.align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            padded.join(GAP).trim_end().to_owned()
        };
        let rule = "-".repeat(total);
        if let Some(title) = &self.title {
            writeln!(f, "{title}")?;
        }
        writeln!(f, "{}", line(self.columns.iter().map(|column| column.title.as_str()).collect()))?;
        writeln!(f, "{rule}")?;
        for entry in &self.lines {
            match entry {
                Line::Cells(cells) => writeln!(f, "{}", line(cells.iter().map(String::as_str).collect()))?,
                Line::Rule => writeln!(f, "{rule}")?,
            }
        }
        Ok(())
    }
}

/// A size in binary units with three significant digits: `312 B`, `1.25 MiB`, `1023 KiB`.
///
/// ```
/// use sparseland_eval::table::human_bytes;
/// assert_eq!(human_bytes(1_310_720), "1.25 MiB");
/// assert_eq!(human_bytes(312), "312 B");
/// ```
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// A count in decimal units with three significant digits: `950`, `1.24 M`, `7.00 B`.
///
/// ```
/// use sparseland_eval::table::human_count;
/// assert_eq!(human_count(1_235_814_400), "1.24 B");
/// assert_eq!(human_count(950), "950");
/// ```
pub fn human_count(count: u64) -> String {
    scaled(count, 1000, &["", " K", " M", " B", " T", " Q", " E"])
}

fn scaled(value: u64, base: u64, units: &[&str]) -> String {
    if value < base {
        return format!("{value}{}", units[0]);
    }
    let mut scaled = value as f64;
    for (power, unit) in units.iter().enumerate() {
        let decimals = if power == 0 { 0 } else { decimals(scaled) };
        let text = format!("{scaled:.decimals$}");
        // Rounding may have carried into the next unit: 1023.99 KiB is 1.00 MiB.
        let carried = text.parse::<f64>().is_ok_and(|shown| shown >= base as f64);
        if !carried || power + 1 == units.len() {
            return text + unit;
        }
        scaled /= base as f64;
    }
    value.to_string()
}

/// Decimals that give three significant digits.
fn decimals(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// A duration with three significant digits, or in mixed units from a minute up: `870 ns`,
/// `12.3 ms`, `4.56 s`, `3 min 07 s`, `2 h 05 min`, `4 d 03 h`. Not a number and infinity stay words.
///
/// ```
/// use sparseland_eval::table::human_seconds;
/// assert_eq!(human_seconds(0.0123), "12.3 ms");
/// assert_eq!(human_seconds(187.2), "3 min 07 s");
/// ```
pub fn human_seconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return seconds.to_string();
    }
    if seconds < 0.0 {
        return format!("-{}", human_seconds(-seconds));
    }
    if seconds == 0.0 {
        return "0 s".to_owned();
    }
    for (unit, factor) in [("ns", 1e9), ("us", 1e6), ("ms", 1e3)] {
        let scaled = seconds * factor;
        if scaled < 999.5 {
            return format!("{scaled:.*} {unit}", decimals(scaled));
        }
    }
    if seconds < 59.95 {
        return format!("{seconds:.*} s", decimals(seconds));
    }
    let mixed = |small: f64, ratio: u64, large_unit: &str, small_unit: &str| {
        let count = (seconds / small).round() as u64;
        format!("{} {large_unit} {:02} {small_unit}", count / ratio, count % ratio)
    };
    match seconds {
        s if s < 3599.5 => mixed(1.0, 60, "min", "s"),
        s if s < 86_370.0 => mixed(60.0, 60, "h", "min"),
        _ => mixed(3600.0, 24, "d", "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_follow_their_column() {
        let mut table = Table::new([Column::text("a"), Column::number("b", 2), Column::number("c", 0)]);
        table.row(["two\nlines".into(), (-0.001).into(), 12_usize.into()]);
        table.row([0.125.into(), f64::NAN.into(), None::<f64>.into()]);
        table.row(["short".into()]);
        let expected = "a             b   c\n-------------------\ntwo lines  0.00  12\n\
                        0.125       NaN   -\nshort         -   -\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    #[should_panic(expected = "more cells")]
    fn a_row_that_is_too_long_is_refused() {
        Table::new([Column::text("a")]).row(["x".into(), "y".into()]);
    }

    #[test]
    fn an_empty_table_is_its_head() {
        assert_eq!(Table::new([Column::text("name")]).to_string(), "name\n----\n");
        assert_eq!(Table::new([]).to_string(), "\n\n");
    }

    #[test]
    fn sizes_carry_into_the_next_unit() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (1000 * 1024, "1000 KiB"),
            (10 * 1024 * 1024, "10.0 MiB"),
            (1 << 30, "1.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(human_bytes(bytes), text);
        }
        let counts = [(999, "999"), (1000, "1.00 K"), (999_999, "1.00 M"), (7_000_000_000, "7.00 B")];
        for (count, text) in counts {
            assert_eq!(human_count(count), text);
        }
    }

    #[test]
    fn times_carry_into_the_next_unit() {
        let times = [
            (0.0, "0 s"),
            (8.7e-7, "870 ns"),
            (0.000_999_9, "1.00 ms"),
            (0.9999, "1.00 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min 00 s"),
            (3599.6, "1 h 00 min"),
            (7500.0, "2 h 05 min"),
            (86_380.0, "1 d 00 h"),
            (356_400.0, "4 d 03 h"),
            (-1.5, "-1.50 s"),
            (f64::INFINITY, "inf"),
        ];
        for (seconds, text) in times {
            assert_eq!(human_seconds(seconds), text, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_within_half_a_percent(bytes: u64, shift in 0_u32..64) {
            let bytes = bytes >> shift;
            let text = human_bytes(bytes);
            let (number, unit) = text.split_once(' ').unwrap();
            let power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|u| *u == unit).unwrap();
            let back = number.parse::<f64>().unwrap() * 1024_f64.powi(power as i32);
            prop_assert!((back - bytes as f64).abs() <= 0.0051 * bytes as f64, "{} {}", bytes, text);
        }

        #[test]
        fn every_line_is_as_wide_as_the_rule(
            rows in prop::collection::vec(("[a-zäß ]{0,12}", -1e6..1e6_f64, any::<u64>()), 0..10),
            decimals in 0_usize..6,
        ) {
            let mut table = Table::new([
                Column::text("name"), Column::number("value", decimals), Column::number("count", 0),
            ]);
            for (text, value, count) in &rows {
                table.row([text.as_str().into(), (*value).into(), (*count).into()]);
            }
            let text = table.to_string();
            let mut widths = text.lines().map(|line| line.chars().count());
            let first = widths.next().unwrap();
            prop_assert!(widths.all(|width| width == first));
            prop_assert_eq!(text.lines().count(), rows.len() + 2);
        }
    }
}
