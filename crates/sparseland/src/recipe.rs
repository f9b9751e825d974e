//! Recipes of llm-compressor: the stages of its two pruning modifiers.
//!
//! ```yaml
//! pruning_stage:
//!   pruning_modifiers:
//!     SparseGPTModifier:
//!       sparsity: 0.5
//!       mask_structure: "2:4"
//!       targets: ["Linear"]
//!       ignore: ["re:.*lm_head"]
//! ```
//!
//! In `mask_structure: "N:M"` a recipe's `N` is what is pruned, ours is what is kept. Every key that is not
//! understood is refused by name: a recipe that is half read makes another model than its author meant.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use sparseland_compress::allocation::{OUTLIER, OWL_RANGE};
use sparseland_nn::LinearSite;
use yaml_rust2::{Yaml, YamlLoader};

/// What a recipe asks for, in our terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The method.
    pub method: &'static str,
    /// Its settings.
    pub set: Vec<String>,
    /// The fraction to remove.
    pub remove: f64,
    /// Whether outliers shift the fraction from block to block.
    pub owl: bool,
    /// Which layers are pruned.
    pub targets: Vec<String>,
    /// Which of them are not.
    pub ignore: Vec<String>,
}

/// The keys of a mapping, which must be strings.
fn entries<'a>(yaml: &'a Yaml, place: &str) -> Result<Vec<(&'a str, &'a Yaml)>> {
    let map = yaml.as_hash().with_context(|| format!("{place} must be a mapping"))?;
    let text = |(key, value): (&'a Yaml, &'a Yaml)| {
        Ok((key.as_str().with_context(|| format!("a key of {place} is no text"))?, value))
    };
    map.iter().map(text).collect()
}

fn number(yaml: &Yaml, key: &str) -> Result<f64> {
    let number = yaml.as_f64().or_else(|| yaml.as_i64().map(|n| n as f64));
    number.with_context(|| format!("{key} must be one number"))
}

/// A list of names, or one name.
fn names(yaml: &Yaml, key: &str) -> Result<Vec<String>> {
    let one = |y: &Yaml| y.as_str().map(str::to_owned);
    let list = match yaml {
        Yaml::Array(list) => list.iter().map(one).collect(),
        Yaml::Null => Some(Vec::new()),
        other => one(other).map(|name| vec![name]),
    };
    list.with_context(|| format!("{key} must be a list of names"))
}

impl Recipe {
    /// Reads a file.
    ///
    /// # Errors
    /// One line with the file and the key that is not understood.
    pub fn read(path: &Path) -> Result<Self> {
        let place = || format!("the recipe {}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", place()))?;
        Self::parse(&text).with_context(place)
    }

    fn parse(text: &str) -> Result<Self> {
        let documents = YamlLoader::load_from_str(text)?;
        let [document] = documents.as_slice() else { bail!("{} documents, expected one", documents.len()) };
        let mut found = Vec::new();
        for (stage, content) in entries(document, "the recipe")? {
            for (group, content) in entries(content, stage)? {
                match group {
                    "run_type" => {
                        ensure!(
                            content.as_str() == Some("oneshot"),
                            "{stage}: only run_type: oneshot is understood"
                        );
                    }
                    _ if group == "modifiers" || group.ends_with("_modifiers") => {
                        found.extend(entries(content, group)?);
                    }
                    _ => bail!("{stage}: the key {group} is not understood; write GROUP_modifiers"),
                }
            }
        }
        match found.as_slice() {
            [] => bail!("no modifier; give a SparseGPTModifier or a WandaPruningModifier"),
            &[(name, content)] => Self::modifier(name, content).context(name.to_owned()),
            [_, (second, _), ..] => bail!("{second} is a second modifier; run one after the other"),
        }
    }

    fn modifier(name: &str, content: &Yaml) -> Result<Self> {
        let method = match name {
            "SparseGPTModifier" => "sparsegpt",
            "WandaPruningModifier" => "wanda",
            _ => bail!("not understood; SparseGPTModifier and WandaPruningModifier are"),
        };
        let mut recipe = Self {
            method,
            set: Vec::new(),
            remove: f64::NAN,
            owl: false,
            targets: vec!["Linear".to_owned()],
            ignore: Vec::new(),
        };
        let mut structure = "0:0".to_owned();
        for (key, value) in entries(content, name)? {
            let fixed = |ours: f64| -> Result<()> {
                let theirs = number(value, key)?;
                ensure!(theirs == ours, "{key}: {theirs} is not supported, only {ours}");
                Ok(())
            };
            match key {
                "sparsity" => recipe.remove = number(value, key)?,
                "mask_structure" => {
                    structure =
                        value.as_str().context("mask_structure must be text like \"2:4\"")?.to_owned();
                }
                "targets" => recipe.targets = names(value, key)?,
                "ignore" => recipe.ignore = names(value, key)?,
                "block_size" if method == "sparsegpt" => {
                    let block = value.as_i64().context("block_size must be a whole number")?;
                    recipe.set.push(format!("block={block}"));
                }
                "dampening_frac" if method == "sparsegpt" => {
                    recipe.set.push(format!("dampening={}", number(value, key)?));
                }
                "sparsity_profile" => match value.as_str() {
                    Some("owl") => recipe.owl = true,
                    None if value.is_null() => {}
                    _ => bail!("sparsity_profile: only owl is understood"),
                },
                "owl_m" => fixed(OUTLIER)?,
                "owl_lmbda" => fixed(OWL_RANGE)?,
                "preserve_sparsity_mask" => {
                    ensure!(
                        value.as_bool() == Some(false),
                        "preserve_sparsity_mask: only false is supported"
                    );
                }
                _ => bail!("the key {key} is not understood; remove it if the result may do without"),
            }
        }
        ensure!(!recipe.remove.is_nan(), "sparsity is missing");
        if structure != "0:0" && structure != "unstructured" {
            let sides = structure.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
            let (pruned, of): (u32, u32) = sides
                .filter(|&(n, m)| 0 < n && n < m)
                .with_context(|| format!("mask_structure: {structure} is no N:M with 0 < N < M"))?;
            let share = f64::from(pruned) / f64::from(of);
            ensure!(
                (share - recipe.remove).abs() < 1e-9,
                "sparsity: {} contradicts mask_structure: {structure}, which prunes {share}; write sparsity: {share}",
                recipe.remove
            );
            recipe.set.push(format!("pattern={}:{of}", of - pruned));
        }
        Ok(recipe)
    }
}

/// The linear layers of a model with `blocks` blocks that stay dense: those that no target names, and those to
/// ignore. A name is a layer's full name, `re:` before a regular expression that must match from the name's start,
/// or (for targets) the class `Linear` or a block that contains the layer.
///
/// # Errors
/// For a regular expression that is none, and where no layer is left.
pub fn left_dense(blocks: usize, targets: &[String], ignore: &[String]) -> Result<Vec<String>> {
    type Test = Box<dyn Fn(&str) -> bool>;
    let tests = |patterns: &[String]| -> Result<Vec<Test>> {
        let test = |pattern: &String| -> Result<Test> {
            let Some(expression) = pattern.strip_prefix("re:") else {
                let pattern = pattern.clone();
                return Ok(Box::new(move |name| name == pattern));
            };
            let expression = Regex::new(&format!("^(?:{expression})"))
                .ok()
                .with_context(|| format!("{pattern} is no regular expression"))?;
            Ok(Box::new(move |name| expression.is_match(name)))
        };
        patterns.iter().map(test).collect()
    };
    let all_linear = targets.is_empty() || targets.iter().any(|t| t == "Linear");
    let (targets, ignore) = (tests(targets)?, tests(ignore)?);
    let layers = (0..blocks).flat_map(|i| LinearSite::ALL.into_iter().map(move |site| site.full_name(i)));
    let targeted = |name: &str| {
        let parents = name.match_indices('.').map(|(at, _)| &name[..at]).chain([name]);
        all_linear || parents.into_iter().any(|part| targets.iter().any(|test| test(part)))
    };
    let dense = |name: &String| !targeted(name) || ignore.iter().any(|test| test(name));
    let found: Vec<String> = layers.filter(dense).collect();
    ensure!(
        found.len() < blocks * LinearSite::ALL.len(),
        "no linear layer is left to compress; look at targets and --ignore"
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(modifier: &str, keys: &[&str]) -> Result<Recipe> {
        let keys: String = keys.iter().map(|key| format!("      {key}\n")).collect();
        Recipe::parse(&format!("s_stage:\n  run_type: oneshot\n  p_modifiers:\n    {modifier}:\n{keys}"))
    }

    fn line(result: Result<Recipe>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn both_modifiers_are_read() {
        let found = recipe(
            "SparseGPTModifier",
            &[
                "sparsity: 0.5",
                "mask_structure: 2:4",
                "targets: [Linear]",
                "ignore: ['re:.*lm_head']",
                "block_size: 64",
                "dampening_frac: 0.1",
                "preserve_sparsity_mask: false",
            ],
        )
        .unwrap();
        assert_eq!((found.method, found.remove, found.owl), ("sparsegpt", 0.5, false));
        assert_eq!(found.set, ["block=64", "dampening=0.1", "pattern=2:4"]);
        assert_eq!(found.ignore, ["re:.*lm_head"]);
        let keys = [
            "sparsity: 0.7",
            "mask_structure: '0:0'",
            "sparsity_profile: owl",
            "owl_m: 5",
            "owl_lmbda: 0.08",
        ];
        let found = recipe("WandaPruningModifier", &keys).unwrap();
        assert_eq!((found.method, found.remove, found.owl), ("wanda", 0.7, true));
        assert!(found.set.is_empty());
    }

    #[test]
    fn a_recipes_n_is_pruned_and_ours_is_kept() {
        let keys = |sparsity| [sparsity, "mask_structure: '1:4'"];
        assert_eq!(recipe("WandaPruningModifier", &keys("sparsity: 0.25")).unwrap().set, ["pattern=3:4"]);
        let error = line(recipe("WandaPruningModifier", &keys("sparsity: 0.5")));
        assert!(error.contains("1:4") && error.contains("write sparsity: 0.25"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (modifier, key, word) in [
            ("SparseGPTModifier", "sequential_targets: x", "sequential_targets"),
            ("WandaPruningModifier", "block_size: 128", "block_size"),
            ("SparseGPTModifier", "sparsity_profile: flat", "sparsity_profile"),
            ("SparseGPTModifier", "owl_m: 7", "owl_m: 7"),
            ("SparseGPTModifier", "preserve_sparsity_mask: true", "preserve_sparsity_mask"),
            ("SparseGPTModifier", "mask_structure: '4:2'", "4:2"),
            ("GPTQModifier", "bits: 4", "GPTQModifier"),
        ] {
            let error = line(recipe(modifier, &["sparsity: 0.5", key]));
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
        assert!(line(recipe("SparseGPTModifier", &["sparsity: [0.5, 0.6]"])).contains("one number"));
        assert!(line(recipe("SparseGPTModifier", &["block_size: 128"])).contains("sparsity is missing"));
        assert!(line(Recipe::parse("a: [")).len() > 5);
        assert!(line(Recipe::parse("s:\n  other: 1")).contains("other"));
        assert!(line(Recipe::parse("")).contains("0 documents"));
    }

    #[test]
    fn targets_and_ignore_choose_layers() {
        let own = |s: &str| s.to_owned();
        let left = |targets: &[&str], ignore: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|&s| own(s)).collect::<Vec<_>>();
            left_dense(3, &own(targets), &own(ignore))
        };
        assert!(left(&["Linear"], &["re:.*lm_head", "lm_head"]).unwrap().is_empty());
        assert_eq!(left(&[], &["re:.*down_proj"]).unwrap().len(), 3);
        // From the start of the name, as Python's match.
        assert_eq!(left(&[], &["re:down_proj"]).unwrap().len(), 0);
        assert_eq!(left(&[], &["model.layers.1.mlp.up_proj"]).unwrap(), ["model.layers.1.mlp.up_proj"]);
        // A block as target means the layers inside.
        assert_eq!(left(&[r"re:model.layers.[01]$"], &[]).unwrap().len(), 7);
        assert!(left(&["Linear"], &["re:.*"]).unwrap_err().to_string().contains("no linear layer"));
        assert!(left(&["Linear"], &["re:("]).unwrap_err().to_string().contains("re:("));
    }
}
