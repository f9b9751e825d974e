//! Line and scatter plots as SVG text.
//!
//! Hand-written because a report needs one kind of figure: a few series over one pair of axes. The
//! text needs no fonts, scripts or style sheets. Series differ in colour (the Okabe-Ito palette,
//! chosen for colour-blind readers), in marker and in dash pattern, so the plot survives printing in
//! grey. Points that cannot be drawn (NaN, infinite, subnormal, not positive on a logarithmic axis) are skipped,
//! break the line, and are counted in the legend and by [`Plot::skipped`].
//!
//! # Example
//! ```
//! use sparseland_eval::plot::Plot;
//!
//! let svg = Plot::new("Quality against size", "size in MiB", "bits per byte")
//!     .series("dense", [(1.25, 1.860)])
//!     .series("rocket", [(0.6, 2.030), (0.9, 1.896), (1.0, 1.875)])
//!     .to_svg();
//! assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
//! assert!(svg.contains("bits per byte"));
//! ```

use std::fmt::Write as _;

/// Size of the picture and its margins, in SVG user units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Height of a line of the legend, which stands below the axes.
const LEGEND_LINE: f64 = 20.0;

/// Okabe and Ito, "Color universal design", 2008, without yellow (faint on white).
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Stroke dash patterns; 5 of them against 7 colours and 6 markers repeat together only after 210 series.
const DASHES: [&str; 5] = ["none", "6 3", "2 3", "8 3 2 3", "12 4"];
/// Marker outlines around the origin, as SVG path data: circle, square, triangle, diamond, plus, cross.
const MARKERS: [&str; 6] = [
    "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0z",
    "M-3,-3h6v6h-6z",
    "M0,-4l4,7h-8z",
    "M0,-4.5l4.5,4.5l-4.5,4.5l-4.5,-4.5z",
    "M-4,0h8M0,-4v8",
    "M-3,-3l6,6M-3,3l6,-6",
];

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    line: bool,
}

/// A figure under construction; [`Plot::to_svg`] draws it.
#[derive(Clone, Debug)]
pub struct Plot {
    title: String,
    x_label: String,
    y_label: String,
    log_x: bool,
    log_y: bool,
    series: Vec<Series>,
}

impl Plot {
    /// A plot without series.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            log_x: false,
            log_y: false,
            series: Vec::new(),
        }
    }

    /// Adds points joined by a line in the given order.
    #[must_use]
    pub fn series(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name.into(), points.into_iter().collect(), true)
    }

    /// Adds points without a line.
    #[must_use]
    pub fn scatter(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name.into(), points.into_iter().collect(), false)
    }

    fn with(mut self, name: String, points: Vec<(f64, f64)>, line: bool) -> Self {
        self.series.push(Series { name, points, line });
        self
    }

    /// Makes the horizontal axis logarithmic.
    #[must_use]
    pub fn log_x(mut self) -> Self {
        self.log_x = true;
        self
    }

    /// Makes the vertical axis logarithmic.
    #[must_use]
    pub fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// Number of points that the axes cannot show.
    pub fn skipped(&self) -> usize {
        self.series.iter().map(|series| self.skipped_of(series)).sum()
    }

    fn skipped_of(&self, series: &Series) -> usize {
        series.points.iter().filter(|&&point| !self.shows(point)).count()
    }

    fn shows(&self, (x, y): (f64, f64)) -> bool {
        // Axes cannot be divided among subnormal numbers.
        let fits = |value: f64, log: bool| (value == 0.0 || value.is_normal()) && (!log || value > 0.0);
        fits(x, self.log_x) && fits(y, self.log_y)
    }

    /// The picture: an SVG document of 720 units width.
    pub fn to_svg(&self) -> String {
        let shown = |pick: fn((f64, f64)) -> f64| {
            let points = self.series.iter().flat_map(|series| series.points.iter().copied());
            points.filter(|&point| self.shows(point)).map(pick).collect::<Vec<_>>()
        };
        let x_axis = Axis::new(&shown(|point| point.0), self.log_x, LEFT, WIDTH - RIGHT);
        let y_axis = Axis::new(&shown(|point| point.1), self.log_y, HEIGHT - BOTTOM, TOP);
        let height = self.height();
        let mut svg = String::new();
        // Writing to a String cannot fail, so the results are dropped.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>"
        );
        text(&mut svg, WIDTH / 2.0, 24.0, "middle", "font-size=\"16\"", &self.title);
        self.draw_axes(&mut svg, &x_axis, &y_axis);
        for (index, series) in self.series.iter().enumerate() {
            self.draw_series(&mut svg, index, series, &x_axis, &y_axis);
        }
        if shown(|point| point.0).is_empty() {
            let middle = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
            text(&mut svg, middle.0, middle.1, "middle", "fill=\"#777777\"", "no points to show");
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Height of the picture with its legend.
    fn height(&self) -> f64 {
        HEIGHT + LEGEND_LINE * self.series.len() as f64
    }

    fn draw_axes(&self, svg: &mut String, x_axis: &Axis, y_axis: &Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, label) in x_axis.ticks() {
            let x = x_axis.place(value);
            line(svg, (x, TOP), (x, bottom), "#dddddd");
            text(svg, x, bottom + 18.0, "middle", "", &label);
        }
        for (value, label) in y_axis.ticks() {
            let y = y_axis.place(value);
            line(svg, (LEFT, y), (right, y), "#dddddd");
            text(svg, LEFT - 6.0, y + 4.0, "end", "", &label);
        }
        line(svg, (LEFT, bottom), (right, bottom), "#333333");
        line(svg, (LEFT, TOP), (LEFT, bottom), "#333333");
        text(svg, (LEFT + right) / 2.0, bottom + 42.0, "middle", "", &self.x_label);
        let (x, y) = (16.0, (TOP + bottom) / 2.0);
        text(svg, x, y, "middle", &format!("transform=\"rotate(-90 {x} {y})\""), &self.y_label);
    }

    fn draw_series(&self, svg: &mut String, index: usize, series: &Series, x_axis: &Axis, y_axis: &Axis) {
        let color = COLORS[index % COLORS.len()];
        let dash = DASHES[index % DASHES.len()];
        let polyline = |svg: &mut String, points: &[(f64, f64)]| {
            let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" \
                 stroke-dasharray=\"{dash}\" points=\"{}\"/>",
                places.join(" ")
            );
        };
        let marker = |svg: &mut String, (x, y): (f64, f64)| {
            let _ = writeln!(
                svg,
                "<path transform=\"translate({x:.2} {y:.2})\" d=\"{}\" fill=\"{color}\" \
                 stroke=\"{color}\" stroke-width=\"1.2\"/>",
                MARKERS[index % MARKERS.len()]
            );
        };
        for run in series.points.split(|&point| !self.shows(point)) {
            let places: Vec<(f64, f64)> =
                run.iter().map(|&(x, y)| (x_axis.place(x), y_axis.place(y))).collect();
            if series.line && places.len() > 1 {
                polyline(svg, &places);
            }
            places.iter().for_each(|&place| marker(svg, place));
        }

        let y = HEIGHT + LEGEND_LINE * index as f64;
        if series.line {
            polyline(svg, &[(LEFT, y), (LEFT + 40.0, y)]);
        }
        marker(svg, (LEFT + 20.0, y));
        let name = match self.skipped_of(series) {
            0 => series.name.clone(),
            skipped => format!("{} ({skipped} of {} points not shown)", series.name, series.points.len()),
        };
        text(svg, LEFT + 50.0, y + 4.0, "start", "", &name);
    }
}

/// Plots one below the other in one SVG document.
pub fn stacked(plots: &[Plot]) -> String {
    let height: f64 = plots.iter().map(Plot::height).sum();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n"
    );
    let mut top = 0.0;
    for plot in plots {
        let _ = writeln!(svg, "<g transform=\"translate(0 {top})\">");
        svg.push_str(&plot.to_svg());
        svg.push_str("</g>\n");
        top += plot.height();
    }
    svg.push_str("</svg>\n");
    svg
}

/// A map from values to places on the page.
struct Axis {
    /// Range of values that covers the data; of their logarithms to base 10 on a logarithmic axis.
    low: f64,
    high: f64,
    log: bool,
    /// Places of the two ends.
    start: f64,
    end: f64,
}

impl Axis {
    fn new(values: &[f64], log: bool, start: f64, end: f64) -> Self {
        let scaled = |value: &f64| if log { value.log10() } else { *value };
        let low = values.iter().map(scaled).fold(f64::INFINITY, f64::min);
        let high = values.iter().map(scaled).fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        // A margin around the data, also around a single value. Halves keep the span finite.
        let half_span = high / 2.0 - low / 2.0;
        let widest = low.abs().max(high.abs());
        let margin = if half_span > widest * 1e-12 {
            half_span * 0.08
        } else if log || widest == 0.0 {
            0.5
        } else {
            widest * 0.05
        };
        let (low, high) = ((low - margin).max(f64::MIN), (high + margin).min(f64::MAX));
        Self { low, high, log, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let scaled = if self.log { value.log10() } else { value };
        let share = (scaled / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Round values within the range and their labels: multiples of 1, 2 or 5 times a power of ten;
    /// on a logarithmic axis powers of ten, or the multiples again if it spans less than two of them.
    fn ticks(&self) -> Vec<(f64, String)> {
        if self.log && self.high - self.low >= 2.0 {
            let (first, last) = (self.low.ceil() as i32, self.high.floor() as i32);
            let step = ((last - first) / 8 + 1) as usize;
            let powers = (first..=last).step_by(step).map(|power| 10_f64.powi(power));
            // At the far end of f64 a power of ten may leave its range.
            return powers
                .filter(|value| value.is_normal())
                .map(|value| (value, label(value, 0.0)))
                .collect();
        }
        let (low, high) = if self.log {
            (10_f64.powf(self.low).max(f64::MIN_POSITIVE), 10_f64.powf(self.high).min(f64::MAX))
        } else {
            (self.low, self.high)
        };
        let rough = high / 6.0 - low / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|&step| step >= rough * 0.9999);
        let Some(step) = step.filter(|step| step.is_normal()) else { return Vec::new() };
        let (first, last) = ((low / step).ceil(), (high / step).floor());
        let count = (last - first).clamp(0.0, 20.0) as usize;
        let values = (0..=count).map(|index| (first + index as f64) * step + 0.0);
        values.filter(|value| (low..=high).contains(value)).map(|value| (value, label(value, step))).collect()
    }
}

/// The value with the digits that `step` needs (0: as short as possible), in scientific notation if
/// it is far from 1.
fn label(value: f64, step: f64) -> String {
    let size = value.abs().max(step);
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&size) {
        let digits = (size.log10().floor() - step.log10().floor()).clamp(0.0, 15.0) as usize;
        return if step == 0.0 { format!("{value:e}") } else { format!("{value:.digits$e}") };
    }
    if step == 0.0 {
        return value.to_string();
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 17.0) as usize;
    format!("{value:.decimals$}")
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.2}\" y1=\"{:.2}\" x2=\"{:.2}\" y2=\"{:.2}\" stroke=\"{color}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, attributes: &str, content: &str) {
    let space = if attributes.is_empty() { "" } else { " " };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\"{space}{attributes}>{}</text>",
        escape(content)
    );
}

/// XML text: markup escaped, characters that XML forbids replaced.
fn escape(content: &str) -> String {
    let mut escaped = String::with_capacity(content.len());
    for character in content.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
