//! From a name and `--set NAME=VALUE` on the command line to a compression method.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use sparseland_compress::calibrate::Calibration;
use sparseland_compress::dictionary::{Pursuit, Update};
use sparseland_compress::methods::asvd::Asvd;
use sparseland_compress::methods::cospadi::{Cospadi, Init};
use sparseland_compress::methods::dsformer::Dsformer;
use sparseland_compress::methods::dsnot::{self, Dsnot, Start};
use sparseland_compress::methods::fwsvd::{Axis, Fisher, Fwsvd};
use sparseland_compress::methods::magnitude::Magnitude;
use sparseland_compress::methods::mask::Selection;
use sparseland_compress::methods::sparsegpt::SparseGpt;
use sparseland_compress::methods::wanda::Wanda;
use sparseland_compress::methods::welore::{Normalise, Welore};
use sparseland_compress::methods::{rocket::Rocket, svd::PlainSvd, svd_llm, svd_llm::SvdLlm};
use sparseland_compress::pipeline::work_folder;
use sparseland_compress::problem::LayerMethod;
use sparseland_core::{Context, Method, ParameterKind};
use sparseland_data::Checkpoint;

use crate::registry;

/// A method's parameters: defaults of the registry, overridden by settings that lie in its ranges.
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Checks `NAME=VALUE` pairs against the method's parameters.
    ///
    /// # Errors
    /// One line that names the setting and what it may be.
    pub fn new(method: &'static Method, pairs: &[String]) -> Result<Self> {
        let mut values: BTreeMap<_, _> =
            method.parameters.iter().map(|p| (p.name, p.default.to_owned())).collect();
        for pair in pairs {
            let Some((name, value)) = pair.split_once('=') else {
                bail!("--set {pair}: write NAME=VALUE");
            };
            let Some(parameter) = method.parameters.iter().find(|p| p.name == name) else {
                let known: Vec<_> = method.parameters.iter().map(|p| p.name).collect();
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                bail!("--set {pair}: {} knows {known}", method.slug);
            };
            match parameter.kind {
                ParameterKind::Real { min, max } => {
                    let inside = value.parse().is_ok_and(|v: f64| (min..=max).contains(&v));
                    ensure!(inside, "--set {pair}: give a number from {min} to {max}");
                }
                ParameterKind::Integer { min, max } => {
                    let inside = value.parse().is_ok_and(|v: u64| (min..=max).contains(&v));
                    ensure!(inside, "--set {pair}: give a whole number from {min} to {max}");
                }
                ParameterKind::Choice { of } => {
                    ensure!(of.contains(&value), "--set {pair}: choose one of {}", of.join(", "));
                }
                ParameterKind::File => ensure!(!value.is_empty(), "--set {pair}: give the path of a file"),
            }
            values.insert(parameter.name, value.to_owned());
        }
        Ok(Self { values })
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// If the method has no such parameter or the value is of another kind.
    pub fn get<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let value = self.values.get(name).with_context(|| format!("no parameter {name}"))?;
        value.parse().ok().with_context(|| format!("parameter {name} = {value} is not understood"))
    }

    /// All parameters in one line: part of a run's fingerprint.
    pub fn describe(&self) -> String {
        self.values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// The registry's entry of a compression method.
///
/// # Errors
/// If there is none, with the names that there are.
pub fn find(slug: &str) -> Result<&'static Method> {
    match registry::find(slug) {
        Some(method) if method.family == "compress" => Ok(method),
        _ => {
            let names = registry::methods().filter(|m| m.family == "compress").map(|m| m.slug);
            bail!(
                "no compression method is called {slug:?}; there are {}",
                names.collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// Whether `compare` can use a compression method: all but the clustering of layers, whose budget is another.
pub fn is_usable(slug: &str) -> bool {
    slug != "concat-svd"
}

/// What a method may look at besides its parameters.
pub struct Around<'a> {
    /// The model to compress.
    pub checkpoint: &'a Checkpoint,
    /// The calibration text.
    pub calibration: &'a Calibration,
    /// The output directory, whose folder of unfinished work keeps what was expensive.
    pub out: &'a Path,
    /// Progress and cancellation.
    pub context: &'a Context,
}

/// Makes the method; measures what it needs of the whole network first (Fisher information).
///
/// # Errors
/// If the method does not work on single layers, or what it needs cannot be measured.
pub fn make(slug: &str, settings: &Settings, around: &Around<'_>) -> Result<Box<dyn LayerMethod>> {
    let choice = |name: &str| settings.get::<String>(name);
    Ok(match slug {
        "asvd" => Box::new(Asvd { alpha: settings.get("alpha")? }),
        "cospadi" => Box::new(Cospadi {
            rho: settings.get("rho")?,
            iters: settings.get("iters")?,
            profile_iters: settings.get("profile-iters")?,
            update: match choice("update")?.as_str() {
                "power" => Update::Power(settings.get("power-iters")?),
                "exact" => Update::Exact,
                _ => Update::Directions,
            },
            init: match choice("init")?.as_str() {
                "columns" => Init::Columns,
                "rocket" => Init::Rocket,
                _ => Init::Svd,
            },
            pursuit: match choice("pursuit")?.as_str() {
                "matching" => Pursuit::Matching,
                _ => Pursuit::LeastSquares,
            },
            seed: settings.get("seed")?,
            context: Some(around.context.clone()),
            ..Cospadi::default()
        }),
        "fwsvd" => {
            let axis = match choice("axis")?.as_str() {
                "output" => Axis::Output,
                "both" => Axis::Both,
                "kronecker" => Axis::Kronecker,
                _ => Axis::Input,
            };
            let fisher = match choice("fisher")? {
                path if path.is_empty() => {
                    let kept = work_folder(around.out).join("fisher.safetensors");
                    Fisher::cached(around.checkpoint, around.calibration, axis, &kept, around.context)?
                }
                path => Fisher::shared(
                    around.checkpoint,
                    around.calibration,
                    axis,
                    Path::new(&path),
                    around.context,
                )?,
            };
            Box::new(Fwsvd { fisher, axis })
        }
        "dsformer" => Box::new(Dsformer {
            block: settings.get("block")?,
            atoms: settings.get("atoms")?,
            rounds: settings.get("rounds")?,
            whiten: choice("whiten")? == "yes",
            ..Dsformer::default()
        }),
        "welore" => Box::new(Welore {
            normalise: match choice("normalise")?.as_str() {
                "energy" => Normalise::Energy,
                _ => Normalise::MinMax,
            },
            min_ratio: settings.get("min-ratio")?,
        }),
        "rocket" => Box::new(Rocket {
            importance: settings.get("importance")?,
            refill: settings.get("refill")?,
            ridge: settings.get("ridge")?,
            refine_steps: settings.get("refine-steps")?,
            ..Rocket::default()
        }),
        "magnitude" => Box::new(Magnitude { selection: selection(settings)? }),
        "wanda" => Box::new(Wanda { selection: selection(settings)? }),
        "sparsegpt" => Box::new(sparsegpt(settings)?),
        "dsnot" => Box::new(Dsnot {
            start: match settings.get::<String>("start")?.as_str() {
                "magnitude" => Start::Magnitude(Magnitude { selection: selection(settings)? }),
                "sparsegpt" => Start::SparseGpt(sparsegpt(settings)?),
                _ => Start::Wanda(Wanda { selection: selection(settings)? }),
            },
            config: dsnot::Config {
                max_cycles: settings.get("max-cycles")?,
                cycle_share: settings.get("cycle-share")?,
                threshold: settings.get("threshold")?,
                var_power: settings.get("var-power")?,
                sign_stop: settings.get("sign-stop")?,
                guard: match settings.get::<String>("guard")?.as_str() {
                    "off" => None,
                    share => Some(share.parse().context("parameter guard is not understood")?),
                },
            },
            unit: settings.get("unit")?,
            skip: settings.get("skip")?,
        }),
        "svd" => Box::new(PlainSvd),
        "svd-llm" => Box::new(SvdLlm {
            update: match choice("update")?.as_str() {
                "true" => svd_llm::Update::Left,
                "original" => svd_llm::Update::Original,
                _ => svd_llm::Update::None,
            },
        }),
        other => bail!("{other} cannot be used with this command"),
    })
}

fn selection(settings: &Settings) -> Result<Selection> {
    Ok(Selection { pattern: settings.get("pattern")?, scope: settings.get("scope")? })
}

fn sparsegpt(settings: &Settings) -> Result<SparseGpt> {
    Ok(SparseGpt {
        selection: selection(settings)?,
        block: settings.get("block")?,
        dampening: settings.get("dampening")?,
    })
}
