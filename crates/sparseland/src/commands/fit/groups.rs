//! Groups of features.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sparseland_data::tables::Table;
use sparseland_estimate::estimators::GroupLasso;

#[derive(Args)]
pub(super) struct Groups {
    /// Groups of that many neighbouring columns; or a file: a table with the columns `feature` and `group`, or one
    /// column with the group of every feature in their order.
    #[arg(long, value_name = "SIZE|FILE")]
    groups: String,
    /// Weigh groups by the root of their size, which makes large ones no likelier to enter by chance.
    #[arg(long)]
    weights_by_size: bool,
}

impl Groups {
    /// The estimator that `make` builds of the groups of features with these names.
    pub(super) fn applied(
        &self,
        names: &[String],
        make: impl FnOnce(Vec<Vec<u32>>) -> GroupLasso,
    ) -> Result<GroupLasso> {
        let groups = match self.groups.parse::<usize>() {
            Ok(size) => {
                ensure!(size > 0, "--groups 0: a group has at least one feature");
                GroupLasso::consecutive(names.len(), size)
            }
            Err(_) => self.listed(names)?,
        };
        let estimator = make(groups);
        Ok(if self.weights_by_size { estimator.weights_by_size() } else { estimator })
    }

    fn listed(&self, names: &[String]) -> Result<Vec<Vec<u32>>> {
        let table = Table::open(&self.groups).with_context(|| {
            format!("--groups {}: neither a number of columns nor a file of groups", self.groups)
        })?;
        let labels = match (table.find("feature"), table.find("group")) {
            (Ok(feature), Ok(group)) => {
                let (features, groups) = (table.cells(feature)?, table.cells(group)?);
                let label = |name: &String| {
                    let at = features.iter().position(|f| f == name);
                    at.map(|at| groups[at].clone())
                        .with_context(|| format!("{}: feature {name:?} has no group", self.groups))
                };
                names.iter().map(label).collect::<Result<Vec<_>>>()?
            }
            _ => {
                ensure!(
                    table.cols() == 1,
                    "{}: {} columns; a file of groups has one, or columns named feature and group",
                    self.groups,
                    table.cols()
                );
                let labels = table.cells(0)?;
                let (got, p) = (labels.len(), names.len());
                ensure!(got == p, "{}: {got} groups for {p} features", self.groups);
                labels
            }
        };
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut place = std::collections::HashMap::new();
        for (j, label) in labels.iter().enumerate() {
            let at = *place.entry(label).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[at].push(j as u32);
        }
        Ok(groups)
    }
}
