//! What can be wrong with data and parameters.

/// Why an estimator refuses to fit, predict, save or load.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    /// A design without rows or columns.
    #[error("X is {rows} x {cols}; an estimator needs at least one row and one column")]
    Empty {
        /// Rows of X.
        rows: usize,
        /// Columns of X.
        cols: usize,
    },
    /// A vector whose length does not fit.
    #[error("{what} has {got} entries where {expected} are needed ({why})")]
    Length {
        /// The vector.
        what: &'static str,
        /// What it must match.
        why: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length found.
        got: usize,
    },
    /// NaN or infinity in the design.
    #[error("X[{row}, {column}] is {value}; remove the row or fill the value in")]
    NonFiniteDesign {
        /// Row of the first such entry, column by column.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f64,
    },
    /// A target or weight that is not possible.
    #[error("{what}[{row}] is {value}; it must be {domain}")]
    Value {
        /// The vector.
        what: &'static str,
        /// The first row at fault.
        row: usize,
        /// The value.
        value: f64,
        /// What it must be.
        domain: &'static str,
    },
    /// All sample weights are zero.
    #[error("all sample weights are 0; give at least one row a positive weight")]
    NoWeight,
    /// A parameter outside its range.
    #[error("{name} is {value}; it must be {domain}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// The value found.
        value: f64,
        /// Its range.
        domain: &'static str,
    },
    /// A grid of strengths cannot be derived.
    #[error(
        "no finite alpha gives zeros (l1_ratio is 0, or every feature is unpenalised or excluded); give the alphas"
    )]
    NoGrid,
    /// Groups that do not partition the features.
    #[error("feature {feature} is in {count} groups; every feature of X belongs to exactly one")]
    Groups {
        /// The feature.
        feature: usize,
        /// Groups that list it.
        count: usize,
    },
    /// A model of one number of features was asked about another.
    #[error("the model was fitted on {expected} features and X has {got}")]
    Features {
        /// Features of the fit.
        expected: usize,
        /// Columns of X.
        got: usize,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold a model.
    #[error("{path} does not hold a fitted model: {source}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// `Err(Parameter)` unless `fits`.
pub(crate) fn ensure(
    fits: bool,
    name: &'static str,
    value: f64,
    domain: &'static str,
) -> Result<(), EstimateError> {
    if fits { Ok(()) } else { Err(EstimateError::Parameter { name, value, domain }) }
}
