//! Plots as inline SVG: bars with their range, and curves over logarithmic axes. Text in, text out.
//!
//! Colours come from the style sheet of the page ([`STYLE`]), so that one drawing is readable on light and dark ground.
//! Left out: linear curves, legends outside the drawing, anything interactive.

use std::fmt::Write as _;

/// Style sheet of every plot; the page that holds one includes it once.
pub const STYLE: &str = "\
.plot{max-width:720px;width:100%;height:auto;font:13px system-ui,sans-serif;fill:currentColor}\
.plot .grid{stroke:currentColor;stroke-opacity:.18}\
.plot .range{stroke:currentColor;stroke-width:1.5}\
.plot .s0{fill:var(--s0);stroke:var(--s0)}.plot .s1{fill:var(--s1);stroke:var(--s1)}.plot .s2{fill:var(--s2);stroke:var(--s2)}\
.plot .s3{fill:var(--s3);stroke:var(--s3)}.plot .s4{fill:var(--s4);stroke:var(--s4)}\
.plot polyline{fill:none!important;stroke-width:2}\
:root{--s0:#0b6e99;--s1:#c2571a;--s2:#5b8c2a;--s3:#8a4fa3;--s4:#777}\
@media(prefers-color-scheme:dark){:root{--s0:#5cc0ec;--s1:#f0975c;--s2:#9ccc65;--s3:#c79bdc;--s4:#aaa}}";

/// Number of colours in [`STYLE`]; a later series takes the first colour again.
const COLOURS: usize = 5;
/// Labels that begin with the same of these have the same colour in every drawing.
const MAKES: [&str; COLOURS] = ["headwater", "nats-server", "mosquitto", "rumqttd", "nanomq"];
/// A bar this much longer than all others is cut, so that those can be read.
const FAR: f64 = 6.0;
const WIDTH: f64 = 720.0;

/// One bar: what was measured, its middle and its range, in the unit of the plot.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Left of the bar.
    pub label: String,
    /// Length of the bar.
    pub median: f64,
    /// Left end of the range mark.
    pub min: f64,
    /// Right end of the range mark.
    pub max: f64,
}

/// One curve: points of finite coordinates above zero, in ascending order of the first.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Beside its last point.
    pub label: String,
    /// Horizontal and vertical value.
    pub points: Vec<(f64, f64)>,
}

fn colour(label: &str, index: usize) -> usize {
    MAKES.iter().position(|make| label.starts_with(make)).unwrap_or(index % COLOURS)
}

/// Horizontal bars from zero, the longest range filling the drawing; the range of the runs is a thin line over each bar. One that is
/// six times longer than all others is cut, and says so.
#[must_use]
pub fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 230.0;
    const ROW: f64 = 34.0;
    let room = WIDTH - LEFT - 110.0;
    let mut lengths: Vec<f64> = bars.iter().map(|bar| bar.max.max(bar.median)).filter(|length| *length > 0.0).collect();
    lengths.sort_by(|a, b| b.total_cmp(a));
    let longest = match lengths.as_slice() {
        [first, second, ..] if *first > FAR * second => 1.3 * second,
        [first, ..] => *first,
        [] => f64::INFINITY,
    };
    let at = |value: f64| (value / longest).min(1.0) * room;
    let height = 34.0 + ROW * bars.len() as f64;
    let mut svg = begin(title, height);
    text(&mut svg, 0.0, 16.0, "start", &format!("{title} ({unit})"));
    for (index, bar) in bars.iter().enumerate() {
        let top = 30.0 + ROW * index as f64;
        let middle = top + 11.0;
        text(&mut svg, LEFT - 8.0, middle + 4.0, "end", &bar.label);
        let colour = colour(&bar.label, index);
        let end = bar.max.max(bar.median);
        put(
            &mut svg,
            format_args!(
                r#"<rect class="s{colour}" x="{LEFT}" y="{top:.1}" width="{:.1}" height="22" fill-opacity=".75"/>"#,
                at(bar.median)
            ),
        );
        put(
            &mut svg,
            format_args!(
                r#"<line class="range" x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}"/>"#,
                LEFT + at(bar.min),
                LEFT + at(bar.max)
            ),
        );
        let cut = if end > longest { " (cut)" } else { "" };
        text(&mut svg, LEFT + at(end) + 6.0, middle + 4.0, "start", &format!("{}{cut}", number(bar.median)));
    }
    svg.push_str("</svg>");
    svg
}

/// Curves over two logarithmic axes that end at whole powers of ten. Points that are not above zero are left out: they
/// have no place on such an axis.
#[must_use]
pub fn curves(title: &str, across: &str, up: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 360.0;
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = WIDTH - 170.0;
    const TOP: f64 = 34.0;
    const BOTTOM: f64 = HEIGHT - 46.0;
    let drawable = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0 && point.0.is_finite() && point.1.is_finite();
    let points: Vec<(f64, f64)> =
        curves.iter().flat_map(|curve| curve.points.iter().filter(drawable)).copied().collect();
    let horizontal = decades(points.iter().map(|point| point.0));
    let vertical = decades(points.iter().map(|point| point.1));
    let x = |value: f64| LEFT + (value.log10() - f64::from(horizontal.0)) * (RIGHT - LEFT) / span(horizontal);
    let y = |value: f64| BOTTOM - (value.log10() - f64::from(vertical.0)) * (BOTTOM - TOP) / span(vertical);
    let mut svg = begin(title, HEIGHT);
    text(&mut svg, 0.0, 16.0, "start", &format!("{title} ({up})"));
    text(&mut svg, (LEFT + RIGHT) / 2.0, HEIGHT - 8.0, "middle", across);
    for decade in horizontal.0..=horizontal.1 {
        let at = x(10_f64.powi(decade));
        put(&mut svg, format_args!(r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{BOTTOM}"/>"#));
        text(&mut svg, at, BOTTOM + 18.0, "middle", &number(10_f64.powi(decade)));
    }
    for decade in vertical.0..=vertical.1 {
        let at = y(10_f64.powi(decade));
        put(&mut svg, format_args!(r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/>"#));
        text(&mut svg, LEFT - 8.0, at + 4.0, "end", &number(10_f64.powi(decade)));
    }
    for (index, curve) in curves.iter().enumerate() {
        let colour = colour(&curve.label, index);
        let line: Vec<(f64, f64)> =
            curve.points.iter().filter(drawable).map(|point| (x(point.0), y(point.1))).collect();
        let path: Vec<String> = line.iter().map(|point| format!("{:.1},{:.1}", point.0, point.1)).collect();
        put(&mut svg, format_args!(r#"<polyline class="s{colour}" points="{}"/>"#, path.join(" ")));
        for point in &line {
            put(
                &mut svg,
                format_args!(r#"<circle class="s{colour}" cx="{:.1}" cy="{:.1}" r="3.5"/>"#, point.0, point.1),
            );
        }
        if let Some(last) = line.last() {
            text(&mut svg, last.0 + 9.0, last.1 + 4.0, "start", &curve.label);
        }
    }
    svg.push_str("</svg>");
    svg
}

/// The exponent `b` of the power law `cost = a * size^b` that fits the points best (least squares over the logarithms).
/// `None` with fewer than two different sizes above zero.
#[must_use]
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points
        .iter()
        .filter(|point| point.0 > 0.0 && point.1 > 0.0)
        .map(|point| (point.0.ln(), point.1.ln()))
        .collect();
    let count = logs.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| logs.iter().map(pick).sum::<f64>() / count;
    let (mean_size, mean_cost) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = logs.iter().map(|point| (point.0 - mean_size).powi(2)).sum();
    let both: f64 = logs.iter().map(|point| (point.0 - mean_size) * (point.1 - mean_cost)).sum();
    (spread > 1e-9).then(|| both / spread)
}

/// A drawing as a file of its own, with its style sheet. It has a ground of its own, so that it can be read wherever it is shown.
#[must_use]
pub fn standalone(svg: &str) -> String {
    let Some((begin, rest)) = svg.split_once('>') else { return svg.to_owned() };
    format!(
        "{begin} color=\"#1b1f23\" style=\"background:#fff\"><style>{}</style>{rest}\n",
        // An image knows nothing of the page around it: it stays light.
        STYLE.split("@media").next().unwrap_or(STYLE)
    )
}

/// The name of a file for what is called `title`: small letters, digits and dashes.
#[must_use]
pub fn file_name(title: &str) -> String {
    let words: Vec<String> = title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

/// The file of drawing `number`, from 1, to what is called `title`.
#[must_use]
pub fn numbered(title: &str, number: usize) -> String {
    let number = if number == 1 { String::new() } else { format!("-{number}") };
    format!("{}{number}.svg", file_name(title))
}

/// `value` with `digits` behind the point and commas between thousands.
#[must_use]
pub fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or(&text);
    let (sign, figures) = whole.strip_prefix('-').map_or(("", whole), |figures| ("-", figures));
    let mut grouped = sign.to_owned();
    for (index, digit) in figures.chars().enumerate() {
        if index > 0 && (figures.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &text[whole.len()..]
}

/// `text` with the characters replaced that have a meaning in HTML and SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole powers of ten around `values`, at least one decade apart.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0, 1);
    }
    #[expect(clippy::cast_possible_truncation)] // the logarithm of a double is between -324 and 309
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (low, high.max(low + 1))
}

fn span(decades: (i32, i32)) -> f64 {
    f64::from(decades.1 - decades.0)
}

/// Three significant digits, thousands with a comma.
fn number(value: f64) -> String {
    if value >= 1_000.0 {
        return grouped(value, 0);
    }
    let decimals = if value >= 100.0 || value == 0.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = if value >= 0.01 || value == 0.0 { format!("{value:.decimals$}") } else { format!("{value:e}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn begin(title: &str, height: f64) -> String {
    format!(
        r#"<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {WIDTH} {height:.0}" xmlns="http://www.w3.org/2000/svg">"#,
        escape(title)
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    put(svg, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text)));
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponent_of_a_power_law_is_found() {
        let square: Vec<(f64, f64)> = [1.0, 4.0, 16.0].map(|size: f64| (size, 3.0 * size * size)).to_vec();
        assert!((exponent(&square).expect("three sizes") - 2.0).abs() < 1e-9);
        let flat = [(1.0, 7.0), (4.0, 7.0), (16.0, 7.0)];
        assert!(exponent(&flat).expect("three sizes").abs() < 1e-9);
        assert_eq!(exponent(&[(4.0, 1.0), (4.0, 2.0)]), None);
        assert_eq!(exponent(&[]), None);
    }

    #[test]
    fn text_from_outside_cannot_end_the_drawing() {
        let bar = Bar { label: "</svg><script>".to_owned(), median: 1.0, min: 1.0, max: 1.0 };
        let svg = bars("a \"b\" & c", "ms", &[bar]);
        assert_eq!(svg.matches("</svg>").count(), 1);
        assert!(!svg.contains("<script>") && svg.contains("a &quot;b&quot; &amp; c"));
    }

    #[test]
    fn a_bar_far_longer_than_the_others_is_cut_and_says_so() {
        let bar = |label: &str, value| Bar { label: label.to_owned(), median: value, min: value, max: value };
        let svg = bars("t", "u", &[bar("mosquitto", 2.0), bar("headwater", 1.0), bar("nats-server", 100.0)]);
        assert_eq!(svg.matches("(cut)").count(), 1, "{svg}");
        assert!(svg.contains(">100 (cut)<") && svg.contains(r#"class="s2" x="230" y="30.0" width="292.3""#), "{svg}");
    }

    #[test]
    fn every_drawing_has_finite_coordinates() {
        let nothing = Bar { label: "none".to_owned(), median: 0.0, min: 0.0, max: 0.0 };
        let odd = Curve { label: "odd".to_owned(), points: vec![(0.0, 1.0), (10.0, 10.0), (f64::NAN, 2.0)] };
        for svg in
            [bars("t", "u", &[nothing]), bars("t", "u", &[]), curves("t", "a", "u", &[odd]), curves("t", "a", "u", &[])]
        {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_drawing_stands_by_itself() {
        let bar = Bar { label: "one".to_owned(), median: 1.0, min: 1.0, max: 1.0 };
        let svg = standalone(&bars("t", "u", &[bar]));
        assert!(
            svg.starts_with("<svg class=") && svg.contains("<style>.plot{") && svg.contains("--s0:#0b6e99"),
            "{svg}"
        );
        assert!(!svg.contains("@media") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(file_name("Growth: MiB of backlog"), "growth-mib-of-backlog");
    }

    #[test]
    fn numbers_are_short_and_readable() {
        let texts = [0.0, 0.001, 0.5, 9.75, 22.34, 583_123.0].map(number);
        assert_eq!(texts, ["0", "1e-3", "0.5", "9.75", "22.3", "583,123"]);
    }
}
