//! The embedded default: a small trained model and original stories, so that every command works on a
//! fresh machine without a download. See `assets/README.md` for where they come from.

use anyhow::Result;
use sparseland_data::Checkpoint;

/// The name that stands for the bundled model in reports.
pub const NAME: &str = "bundled-stories";

/// The text for calibration: stories the model may have seen.
pub const CALIBRATION: &str = include_str!("../assets/stories/calibration.txt");

/// The text for evaluation: stories that were not used for training or calibration.
pub const EVALUATION: &str = include_str!("../assets/stories/evaluation.txt");

/// The bundled model.
pub fn checkpoint() -> Result<Checkpoint> {
    let side_files: [(&str, &'static [u8]); 2] = [
        ("generation_config.json", include_bytes!("../assets/model/generation_config.json")),
        ("tokenizer.json", include_bytes!("../assets/model/tokenizer.json")),
    ];
    let config = include_bytes!("../assets/model/config.json");
    let weights = include_bytes!("../assets/model/model.safetensors");
    Ok(Checkpoint::embedded(config, weights, &side_files)?)
}

/// The stories of a bundled text, one document each.
pub fn stories(text: &str) -> Vec<String> {
    text.split("\n\n* * *\n\n").map(|story| story.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}
