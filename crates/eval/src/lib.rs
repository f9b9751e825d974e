//! Measuring and reporting: the numbers that commands print, and how they print them.
//!
//! - [`lm`]: scores of a language model, for any tokeniser.
//! - [`statistics`]: the few figures that summarise repeated runs.
//! - [`table`]: plain text tables, and sizes and times for people.
//! - [`plot`]: line and scatter plots as SVG text.

pub mod lm;
pub mod plot;
pub mod statistics;
pub mod table;
