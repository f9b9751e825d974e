//! The pictures are well-formed XML, stay inside their frame, and keep the order of the data.

use super::*;
use proptest::prelude::*;

/// An element: its name, its attributes and the text directly after its start tag.
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
}

impl Element {
    fn get(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("<{}> lacks {name}", self.name)).1
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name).parse().unwrap()
    }
}

/// A strict reader of the subset of XML in use: start, end and empty tags, quoted attributes, text.
fn parse(svg: &str) -> Vec<Element> {
    let (mut elements, mut open): (Vec<Element>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = svg.trim_end();
    while !rest.is_empty() {
        rest = rest.strip_prefix('<').expect("a tag");
        let (tag, after) = rest.split_once('>').expect("the end of a tag");
        assert!(!tag.contains('<'));
        let (text, next) = after.split_at(after.find('<').unwrap_or(after.len()));
        rest = next;
        for reference in text.split('&').skip(1) {
            let (name, _) = reference.split_once(';').expect("the end of a reference");
            assert!(["amp", "lt", "gt", "quot"].contains(&name), "&{name};");
        }
        assert!(text.chars().all(|c| c == '\n' || (c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}')));
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut list) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes: Vec<(String, String)> = Vec::new();
        while !list.is_empty() {
            let (key, after) = list.split_once("=\"").expect("an attribute");
            let (value, after) = after.split_once('"').expect("the end of a value");
            assert!(attributes.iter().all(|(other, _)| other != key), "{key} twice");
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{key:?}");
            attributes.push((key.to_owned(), value.to_owned()));
            list = after.strip_prefix(' ').unwrap_or(after);
        }
        elements.push(Element { name: name.to_owned(), attributes, text: text.to_owned() });
        if !empty {
            open.push(name.to_owned());
        }
        assert!(!open.is_empty() || rest.is_empty(), "two roots");
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    elements
}

/// Places of the markers, without those of the legend.
fn markers(elements: &[Element]) -> Vec<(f64, f64)> {
    let paths = elements.iter().filter(|element| element.name == "path");
    let place = |element: &Element| {
        let inner = element.get("transform").strip_prefix("translate(").unwrap().strip_suffix(')').unwrap();
        let (x, y) = inner.split_once(' ').unwrap();
        (x.parse::<f64>().unwrap(), y.parse::<f64>().unwrap())
    };
    paths.map(place).filter(|&(_, y)| y < HEIGHT - BOTTOM + 1.0).collect()
}

fn check_inside(elements: &[Element]) {
    let height = elements[0].number("height");
    let inside = |x: f64, y: f64| {
        assert!((0.0..=WIDTH).contains(&x) && (0.0..=height).contains(&y), "({x}, {y}) outside {height}");
    };
    for element in elements {
        match element.name.as_str() {
            "line" => {
                inside(element.number("x1"), element.number("y1"));
                inside(element.number("x2"), element.number("y2"));
            }
            "text" => inside(element.number("x"), element.number("y")),
            "polyline" => element.get("points").split(' ').for_each(|point| {
                let (x, y) = point.split_once(',').unwrap();
                inside(x.parse().unwrap(), y.parse().unwrap());
            }),
            _ => {}
        }
    }
    for (x, y) in markers(elements) {
        assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "({x}, {y})");
    }
}

fn has_text(elements: &[Element], wanted: &str) -> bool {
    elements.iter().any(|element| element.name == "text" && element.text.contains(wanted))
}

#[test]
fn nothing_to_show_says_so() {
    for plot in [Plot::new("", "", ""), Plot::new("t", "x", "y").series("none", []).log_x().log_y()] {
        let elements = parse(&plot.to_svg());
        check_inside(&elements);
        assert!(has_text(&elements, "no points to show"));
    }
}

#[test]
fn one_point_stands_in_the_middle() {
    for value in [0.0, -3.0, 5.0, 1e-300, 1e300] {
        let elements = parse(&Plot::new("t", "x", "y").series("one", [(value, value)]).to_svg());
        let [(x, y)] = markers(&elements)[..] else { panic!("one marker") };
        assert!((x - (LEFT + WIDTH - RIGHT) / 2.0).abs() < 1.0, "{value}: {x}");
        assert!((y - (TOP + HEIGHT - BOTTOM) / 2.0).abs() < 1.0, "{value}: {y}");
    }
}

#[test]
fn points_that_cannot_be_drawn_are_counted_and_break_the_line() {
    let points = [(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 0.0), (5.0, 3.0), (6.0, 4.0)];
    let plot = Plot::new("t", "x", "y").series("loss", points);
    assert_eq!(plot.skipped(), 1);
    let plot = plot.log_y();
    assert_eq!(plot.skipped(), 2);
    let elements = parse(&plot.to_svg());
    assert!(has_text(&elements, "loss (2 of 6 points not shown)"));
    assert_eq!(markers(&elements).len(), 4);
    // Two pieces and the legend.
    assert_eq!(elements.iter().filter(|element| element.name == "polyline").count(), 3);
}

#[test]
fn series_differ_by_more_than_colour() {
    let plot = (0..30).fold(Plot::new("t", "x", "y"), |plot, index| {
        plot.series(format!("s{index}"), [(0.0, f64::from(index)), (1.0, 0.0)])
    });
    let elements = parse(&plot.to_svg());
    let of = |name: &str, attribute: &str| -> Vec<String> {
        let found = elements.iter().filter(|element| element.name == name);
        found.map(|element| element.get(attribute).to_owned()).collect()
    };
    let (dashes, shapes) = (of("polyline", "stroke-dasharray"), of("path", "d"));
    // Per series a line and its legend, two markers and the legend's.
    let mut looks: Vec<(String, String)> =
        (0..30).map(|index| (dashes[2 * index].clone(), shapes[3 * index].clone())).collect();
    looks.sort();
    looks.dedup();
    assert_eq!(looks.len(), 30);
}

#[test]
fn ticks_are_round_and_logarithmic_where_asked() {
    let labels = |values: &[f64], log| -> Vec<String> {
        Axis::new(values, log, 0.0, 1.0).ticks().into_iter().map(|tick| tick.1).collect()
    };
    assert_eq!(labels(&[0.0, 1.0], false), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(labels(&[100.0, 350.0], false), ["100", "150", "200", "250", "300", "350"]);
    assert_eq!(labels(&[0.01, 1000.0], true), ["0.01", "0.1", "1", "10", "100", "1000"]);
    assert_eq!(labels(&[1.0, 5.0], true), ["1", "2", "3", "4", "5"]);
    assert_eq!(labels(&[0.0, 2e9], false), ["0", "5e8", "1.0e9", "1.5e9", "2.0e9"]);
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -100.0..100.0_f64,
        1 => 1e-9..1e9_f64,
        1 => any::<f64>(),
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::MAX),
        1 => Just(f64::from_bits(1)),
    ]
}

proptest! {
    #[test]
    fn any_plot_is_well_formed_and_inside_its_frame(
        title in any::<String>(),
        name in "\\PC{0,20}|[<>&\"'\u{0}-\u{20}\u{fffe}]{0,9}",
        first in prop::collection::vec((value(), value()), 0..20),
        second in prop::collection::vec((value(), value()), 0..20),
        log_x: bool,
        log_y: bool,
    ) {
        let count = first.len() + second.len();
        let mut plot = Plot::new(title, &name, &name).series(&name, first).scatter("dots", second);
        if log_x { plot = plot.log_x() }
        if log_y { plot = plot.log_y() }
        let elements = parse(&plot.to_svg());
        check_inside(&elements);
        prop_assert_eq!(markers(&elements).len(), count - plot.skipped());
    }

    #[test]
    fn places_keep_the_order_of_the_data(
        mut values in prop::collection::vec(1e-3..1e3_f64, 2..20), log: bool,
    ) {
        values.sort_by(f64::total_cmp);
        let points: Vec<(f64, f64)> = values.iter().map(|&value| (value, value)).collect();
        let mut plot = Plot::new("t", "x", "y").series("s", points);
        if log { plot = plot.log_x().log_y() }
        let places = markers(&parse(&plot.to_svg()));
        prop_assert!(places.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1));
        // The data fill the frame but for the margin.
        prop_assert!(places[places.len() - 1].0 - places[0].0 > 0.8 * (WIDTH - LEFT - RIGHT) || values[0] == values[values.len() - 1]);
    }

    #[test]
    fn a_few_ticks_lie_inside_every_ordinary_axis(low in -1e6..1e6_f64, span in 1e-3..1e6_f64, log: bool) {
        let low = if log { low.abs() + 1e-6 } else { low };
        let axis = Axis::new(&[low, low + span], log, 0.0, 1.0);
        let ticks = axis.ticks();
        prop_assert!((2..=14).contains(&ticks.len()), "{:?}", ticks);
        prop_assert!(ticks.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "{:?}", ticks);
        for (value, label) in &ticks {
            let shown: f64 = label.parse().unwrap();
            prop_assert!((shown - value).abs() <= 1e-9 * value.abs().max(span), "{} {}", value, label);
            prop_assert!((0.0..=1.0).contains(&axis.place(*value)));
        }
    }
}

#[test]
fn stacked_plots_stand_below_each_other_unchanged() {
    let first = Plot::new("first", "x", "y").series("a", [(1.0, 2.0), (3.0, 4.0)]).series("b", [(1.0, 1.0)]);
    let second = Plot::new("second", "x", "y").series("c", [(1.0, 2.0)]);
    let svg = stacked(&[first.clone(), second.clone()]);
    assert!(svg.contains(&first.to_svg()) && svg.contains(&second.to_svg()));
    let (one, two) = (HEIGHT + 2.0 * LEGEND_LINE, HEIGHT + LEGEND_LINE);
    assert!(svg.starts_with("<svg") && svg.contains(&format!("height=\"{}\"", one + two)));
    assert!(svg.contains(&format!("translate(0 {one})")));
}
