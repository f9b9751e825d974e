//! Renders the events of a run on stderr: one line that updates on a terminal, plain lines every few
//! seconds otherwise, nothing when quiet.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sparseland_core::{Event, Progress};

/// Between two plain progress lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Progress on stderr.
pub struct Stderr {
    state: Mutex<State>,
    quiet: bool,
    terminal: bool,
}

struct State {
    bar: Option<ProgressBar>,
    stage: String,
    total: usize,
    began: Instant,
    printed: Instant,
}

impl Stderr {
    /// A renderer; `quiet` keeps only warnings.
    pub fn new(quiet: bool) -> Self {
        let now = Instant::now();
        let state = State { bar: None, stage: String::new(), total: 0, began: now, printed: now };
        Self { state: Mutex::new(state), quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Removes the updating line.
    pub fn clear(&self) {
        if let Some(bar) = self.state.lock().expect("no panic while rendering").bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Stderr {
    fn event(&self, event: Event<'_>) {
        let mut state = self.state.lock().expect("no panic while rendering");
        let line = |state: &State, text: &str| match &state.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        };
        match event {
            Event::Warning(text) => line(&state, &format!("warning: {text}")),
            _ if self.quiet => {}
            Event::Line(text) => line(&state, text),
            Event::Stage { name, total } => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
                state.stage = name.to_owned();
                state.total = total;
                state.began = Instant::now();
                state.printed = state.began;
                if self.terminal {
                    let target = ProgressDrawTarget::stderr_with_hz(10);
                    let bar = ProgressBar::with_draw_target((total > 0).then_some(total as u64), target);
                    let form = "{prefix}  {pos}/{len}  {wide_bar}  {elapsed} elapsed, {eta} left  {msg}";
                    bar.set_style(ProgressStyle::with_template(form).expect("the template is valid"));
                    bar.set_prefix(name.to_owned());
                    state.bar = Some(bar);
                } else {
                    eprintln!("{name} ...");
                }
            }
            Event::Step { done, message } => match &state.bar {
                Some(bar) => {
                    bar.set_position(done as u64);
                    bar.set_message(message.to_owned());
                }
                None if state.printed.elapsed() > PLAIN_INTERVAL => {
                    let elapsed = state.began.elapsed().as_secs_f64();
                    let left = elapsed / done.max(1) as f64 * state.total.saturating_sub(done) as f64;
                    eprintln!(
                        "{} {done}/{}  {elapsed:.0} s elapsed, {left:.0} s left  {message}",
                        state.stage, state.total
                    );
                    state.printed = Instant::now();
                }
                None => {}
            },
        }
    }
}
