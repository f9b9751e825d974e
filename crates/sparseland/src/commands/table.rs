//! Tables as `fit`, `predict` and `screen` see them: features, targets and weights of rows.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sparseland_core::{Context, Event};
use sparseland_data::tables::{Numbers, Table};
use sparseland_linalg::Mat;
use sparseland_optim::design::{Dense, Design, Sparse};

/// Where a model's data come from.
#[derive(Args)]
pub struct Source {
    /// The table: CSV with a header, .npy, .npz (arrays X and y, or scipy.sparse), LIBSVM, Matrix Market or, if this
    /// program was built so, Parquet; text also as .gz.
    pub data: PathBuf,
    /// The column to predict, by name or number (several: a,b,c), or a file that holds it; else the target that the
    /// file keeps apart (y, labels), or the last column of a table with names.
    #[arg(long, value_name = "COLUMN|FILE")]
    pub target: Option<String>,
    /// The file of the target: a table of one column, or as many as there are targets.
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub target_file: Option<PathBuf>,
    /// Columns to leave out.
    #[arg(long, value_name = "COLUMN")]
    pub drop: Vec<String>,
    /// The column of row weights (sample_weight): 2 counts as two equal rows.
    #[arg(long, visible_alias = "weights", value_name = "COLUMN")]
    pub sample_weight: Option<String>,
}

/// One column of a target.
pub struct Target {
    /// Its name, for reports and saved models.
    pub name: String,
    /// File and column, for errors.
    place: String,
    cells: Cells,
}

enum Cells {
    Text(Vec<String>),
    Numbers(Vec<f64>),
}

/// What a model is fitted to.
pub struct Dataset {
    /// Names of the features.
    pub names: Vec<String>,
    /// The features, `n x p`.
    pub x: Numbers,
    /// The targets, `n` cells each.
    pub targets: Vec<Target>,
    /// One weight per row.
    pub sample_weight: Option<Vec<f64>>,
}

/// Opens a table and tells what in it is ignored.
pub fn open(path: &Path, context: &Context) -> Result<Table> {
    let table = Table::open(path)?;
    for note in table.notes() {
        context.report(Event::Warning(&format!("{}: {note}", path.display())));
    }
    Ok(table)
}

/// The targets of a file of their own.
pub fn target_file(path: &Path) -> Result<Vec<Target>> {
    let table = Table::open(path)?;
    if let Some(apart) = apart(&table)? {
        return Ok(apart);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = |j: usize| match table.names() {
        None if table.cols() == 1 => stem.clone(),
        None => format!("{stem}{j}"),
        Some(names) => names[j].clone(),
    };
    (0..table.cols()).map(|j| column(&table, j, name(j))).collect()
}

/// The target that a format keeps apart from its columns.
pub fn apart(table: &Table) -> Result<Option<Vec<Target>>> {
    let Some(array) = table.target() else { return Ok(None) };
    let place = format!("{}, target", table.path().display());
    let columns = array.columns().map_err(|problem| anyhow::anyhow!("{place}: {problem}"))?;
    let single = columns.len() == 1;
    let targets = columns.into_iter().enumerate().map(|(j, values)| Target {
        name: if single { "y".into() } else { format!("y{j}") },
        place: place.clone(),
        cells: Cells::Numbers(values),
    });
    Ok(Some(targets.collect()))
}

fn column(table: &Table, j: usize, name: String) -> Result<Target> {
    let place = format!("{}, column {:?}", table.path().display(), table.name(j));
    let cells = match table.names() {
        Some(_) => Cells::Text(table.cells(j)?),
        None => Cells::Numbers(table.numbers(&[j])?.column(0)),
    };
    Ok(Target { name, place, cells })
}

impl Source {
    /// Reads features, targets and weights.
    ///
    /// # Errors
    /// One line with the place of what cannot be used.
    pub fn read(&self, context: &Context) -> Result<Dataset> {
        let table = open(&self.data, context)?;
        let place = self.data.display();
        let mut used = Vec::new();
        let targets = match (&self.target_file, &self.target) {
            (Some(file), _) => target_file(file)?,
            (None, Some(name)) => self.named(&table, name, &mut used)?,
            (None, None) => match (apart(&table)?, table.names()) {
                (Some(targets), _) => targets,
                (None, Some(names)) => {
                    let last = names.len() - 1;
                    used.push(last);
                    vec![column(&table, last, names[last].clone())?]
                }
                (None, None) => bail!(
                    "{place} has no target; give --target COLUMN (a number from 0) or --target-file FILE"
                ),
            },
        };
        let sample_weight = match &self.sample_weight {
            Some(name) => {
                let j = table.find(name)?;
                used.push(j);
                Some(table.numbers(&[j])?.column(0))
            }
            None => None,
        };
        for name in &self.drop {
            used.push(table.find(name)?);
        }
        let kept: Vec<usize> = (0..table.cols()).filter(|j| !used.contains(j)).collect();
        ensure!(!kept.is_empty(), "{place} has no column to predict from");
        let names = kept.iter().map(|&j| table.name(j)).collect();
        let data = Dataset { names, x: table.numbers(&kept)?, targets, sample_weight };
        data.check(&self.data)?;
        Ok(data)
    }

    /// `--target`: a column, a file, or several columns.
    fn named(&self, table: &Table, name: &str, used: &mut Vec<usize>) -> Result<Vec<Target>> {
        let whole = table.find(name);
        if whole.is_err() && Path::new(name).is_file() {
            return target_file(Path::new(name));
        }
        let parts: Vec<usize> = match whole {
            Ok(j) => vec![j],
            Err(e) if !name.contains(',') => return Err(e.into()),
            Err(_) => name.split(',').map(|part| table.find(part.trim())).collect::<Result<_, _>>()?,
        };
        used.extend(&parts);
        parts.into_iter().map(|j| column(table, j, table.name(j))).collect()
    }
}

impl Dataset {
    /// The columns of a saved model in another table: by name or number, by position where a table without names has
    /// as many columns as the model. Targets are read where the table has them all.
    ///
    /// # Errors
    /// One line that names the first missing column.
    pub fn like(
        path: &Path,
        features: &[String],
        targets: &[String],
        file: Option<&Path>,
        context: &Context,
    ) -> Result<Self> {
        let mut table = open(path, context)?;
        // Trailing zeros are not stored in LIBSVM files.
        let numbers = features.iter().filter_map(|name| name.parse().ok());
        table.widen(numbers.max().unwrap_or(0));
        let found: Result<Vec<usize>, _> = features.iter().map(|name| table.find(name)).collect();
        let columns = match found {
            Ok(columns) => columns,
            Err(_) if table.names().is_none() && table.cols() == features.len() => {
                (0..features.len()).collect()
            }
            Err(e) => return Err(e.into()),
        };
        let found: Option<Vec<usize>> =
            targets.iter().map(|name| table.find(name).ok().filter(|j| !columns.contains(j))).collect();
        let targets = match (file, found) {
            (Some(file), _) => target_file(file)?,
            (None, Some(found)) => {
                found.into_iter().map(|j| column(&table, j, table.name(j))).collect::<Result<_>>()?
            }
            (None, None) => apart(&table)?.unwrap_or_default(),
        };
        let data =
            Self { names: features.to_vec(), x: table.numbers(&columns)?, targets, sample_weight: None };
        data.check(path)?;
        Ok(data)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let rows = self.x.rows();
        for target in &self.targets {
            let got = target.len();
            ensure!(got == rows, "{}: {got} values for the {rows} rows of {}", target.place, path.display());
        }
        Ok(())
    }

    /// The features as a design; sparse ones stay sparse.
    ///
    /// # Errors
    /// None for numbers that [`Table`] has read.
    pub fn design(self) -> Result<Box<dyn Design>> {
        design(self.x)
    }

    /// The only target.
    ///
    /// # Errors
    /// If there are several.
    pub fn target(&self) -> Result<&Target> {
        match &self.targets[..] {
            [target] => Ok(target),
            [] => bail!("there is no target"),
            several => {
                bail!("{} targets, this model takes one; `fit multitask-lasso` takes several", several.len())
            }
        }
    }
}

/// Numbers as a design.
///
/// # Errors
/// None for numbers that [`Table`] has read.
pub fn design(x: Numbers) -> Result<Box<dyn Design>> {
    Ok(match x {
        Numbers::Dense { rows, cols, values } => Box::new(Dense::from_columns(rows, cols, values)?),
        Numbers::Sparse { rows, offsets, row_of, values } => {
            Box::new(Sparse::from_csc(rows, offsets, row_of, values)?)
        }
    })
}

/// Numbers as a dense matrix, row after row.
pub fn matrix(x: &Numbers) -> Mat<f64> {
    let mut out = Mat::zeros(x.rows(), x.cols());
    for j in 0..x.cols() {
        x.column(j).iter().enumerate().for_each(|(i, v)| out.row_mut(i)[j] = *v);
    }
    out
}

impl Target {
    fn len(&self) -> usize {
        match &self.cells {
            Cells::Text(cells) => cells.len(),
            Cells::Numbers(values) => values.len(),
        }
    }

    /// The cells as numbers.
    ///
    /// # Errors
    /// One line that names the first row that is no finite number.
    pub fn numbers(&self) -> Result<Vec<f64>> {
        let wrong =
            |row: usize, cell: &str| format!("{}, row {}: {cell:?} is no finite number", self.place, row + 1);
        match &self.cells {
            Cells::Numbers(values) => match values.iter().position(|v| !v.is_finite()) {
                Some(row) => bail!(wrong(row, &values[row].to_string())),
                None => Ok(values.clone()),
            },
            Cells::Text(cells) => {
                let number = |(row, cell): (usize, &String)| {
                    let value = cell.parse::<f64>().ok().filter(|v| v.is_finite());
                    value.with_context(|| wrong(row, cell))
                };
                cells.iter().enumerate().map(number).collect()
            }
        }
    }

    /// The classes in their order (numbers by size, names by letters), and the class of every row.
    ///
    /// # Errors
    /// A row without a class; fewer than two classes, or more than `most`.
    pub fn classes(&self, most: usize) -> Result<(Vec<String>, Vec<f64>)> {
        let cells = self.labels();
        if let Some(row) = cells.iter().position(|c| c.is_empty() || c == "NaN") {
            bail!("{}, row {}: no class", self.place, row + 1);
        }
        let mut names = cells.clone();
        names.sort_unstable();
        names.dedup();
        let numbers: Option<Vec<f64>> = names.iter().map(|name| name.parse().ok()).collect();
        if numbers.is_some() {
            let value = |name: &String| name.parse::<f64>().unwrap_or_default();
            names.sort_by(|a, b| value(a).total_cmp(&value(b)));
        }
        let count = names.len();
        ensure!(
            (2..=most).contains(&count),
            "{}: {count} classes; this model takes {}",
            self.place,
            if most == 2 { "exactly 2".to_owned() } else { format!("2 to {most}") }
        );
        let class = |cell: &String| names.iter().position(|name| name == cell).unwrap_or_default() as f64;
        let y = cells.iter().map(class).collect();
        Ok((names, y))
    }

    /// The cells as yes (1, true) or no (0, false).
    ///
    /// # Errors
    /// One line that names the first row that is neither.
    pub fn truths(&self) -> Result<Vec<bool>> {
        let truth = |(row, cell): (usize, String)| match cell.to_lowercase().as_str() {
            "1" | "1.0" | "true" => Ok(true),
            "0" | "0.0" | "false" => Ok(false),
            _ => bail!("{}, row {}: {cell:?} is neither 1 nor 0", self.place, row + 1),
        };
        self.labels().into_iter().enumerate().map(truth).collect()
    }

    /// The cells as text.
    pub fn labels(&self) -> Vec<String> {
        match &self.cells {
            Cells::Text(cells) => cells.clone(),
            Cells::Numbers(values) => values.iter().map(f64::to_string).collect(),
        }
    }
}
