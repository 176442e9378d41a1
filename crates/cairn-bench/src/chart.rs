//! Plots as SVG texts: bars for each row, curves over time, latencies. White background, one palette (safe for the colour
//! blind), text as text, so that they look the same on a screen, on paper and in a repository.

use std::fmt::Write;

use crate::report::{Report, figure};

/// Okabe and Ito's colours, the strongest first.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const WIDTH: f64 = 860.0;
const FONT: &str = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\"";

pub(crate) fn colour(target: usize) -> &'static str {
    COLOURS[target % COLOURS.len()]
}

/// A text for XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Svg {
        let mut text = String::new();
        let _ = write!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
             height=\"{height:.0}\" role=\"img\" {FONT}><title>{0}</title><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
            escape(title)
        );
        Svg(text)
    }

    fn text(&mut self, x: f64, y: f64, size: f64, anchor: &str, extra: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" {extra}>{text}</text>"
        );
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = write!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"1.5\" fill=\"{fill}\"/>",
            width.max(0.8)
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str) {
        let _ = write!(
            self.0,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn path(&mut self, points: &[(f64, f64)], stroke: &str) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = write!(
            self.0,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>"
        );
    }

    /// Names of the targets with their colours, from `x` on.
    fn legend(&mut self, mut x: f64, y: f64, names: &[&str]) {
        for (index, name) in names.iter().enumerate() {
            self.rect(x, y - 9.0, 12.0, 10.0, colour(index));
            self.text(x + 17.0, y, 12.0, "start", "fill=\"#222\"", name);
            x += 17.0 + 7.0 * name.chars().count() as f64 + 18.0;
        }
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// A bar for each target in each row. Every row has its own scale: its best target fills the width.
pub(crate) fn bars(report: &Report, title: &str) -> String {
    const LABEL: f64 = 270.0;
    const BAR: f64 = 13.0;
    let rows = report.rows();
    let names: Vec<&str> = report.targets.iter().map(|target| target.name.as_str()).collect();
    let block = BAR * names.len() as f64 + 12.0;
    let mut svg = Svg::new(52.0 + block * rows.len() as f64, title);
    svg.text(0.0, 16.0, 15.0, "start", "font-weight=\"600\" fill=\"#111\"", title);
    svg.legend(0.0, 36.0, &names);
    for (index, row) in rows.iter().enumerate() {
        let top = 50.0 + block * index as f64;
        let values: Vec<Option<f64>> =
            report.targets.iter().map(|target| target.row(&row.name).map(|found| found.value)).collect();
        let longest = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        let middle = top + BAR * names.len() as f64 / 2.0;
        svg.text(LABEL - 12.0, middle + 1.0, 12.5, "end", "fill=\"#111\"", &row.label);
        let unit = if row.larger_is_better() { row.unit.clone() } else { format!("{}, less is better", row.unit) };
        svg.text(LABEL - 12.0, middle + 13.0, 10.0, "end", "fill=\"#666\"", &unit);
        for (target, value) in values.iter().enumerate() {
            let y = top + BAR * target as f64;
            let Some(value) = value else {
                svg.text(LABEL, y + 10.0, 10.5, "start", "fill=\"#999\"", "not measured");
                continue;
            };
            let length = (WIDTH - LABEL - 70.0) * value / longest;
            svg.rect(LABEL, y, length, BAR - 2.0, colour(target));
            svg.text(LABEL + length + 6.0, y + 9.5, 10.5, "start", "fill=\"#333\"", &figure(*value));
        }
    }
    svg.end()
}

/// A line of a plot: colour by number of the target.
pub(crate) struct Line {
    pub(crate) target: usize,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Axes of a plot.
pub(crate) struct Axes<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Names at x = 0, 1, 2 …; without them x is a number from 0 on.
    pub(crate) ticks: Option<Vec<String>>,
    /// Powers of ten in equal steps.
    pub(crate) logarithmic: bool,
}

/// Curves of several targets over one axis.
pub(crate) fn lines(axes: &Axes<'_>, names: &[&str], lines: &[Line]) -> String {
    const HEIGHT: f64 = 250.0;
    let (left, right, top, bottom) = (64.0, WIDTH - 16.0, 50.0, HEIGHT - 38.0);
    let mut svg = Svg::new(HEIGHT, axes.title);
    svg.text(0.0, 16.0, 14.0, "start", "font-weight=\"600\" fill=\"#111\"", axes.title);
    svg.legend(0.0, 36.0, names);
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let highest = all().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let lowest = all().map(|point| point.1).filter(|value| *value > 0.0).fold(highest, f64::min);
    let widest = match &axes.ticks {
        Some(ticks) => (ticks.len() as f64 - 1.0).max(1.0),
        None => all().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max),
    };
    let (floor, ceiling, marks) = if axes.logarithmic {
        let (floor, ceiling) = (lowest.log10().floor(), highest.log10().ceil().max(lowest.log10().floor() + 1.0));
        let marks = (floor as i32..=ceiling as i32).map(|power| 10f64.powi(power)).collect();
        (floor, ceiling, marks)
    } else {
        let step = nice_step(highest / 4.0);
        let count = (highest / step).ceil().max(1.0);
        (0.0, step * count, (0..=count as u32).map(|mark| f64::from(mark) * step).collect::<Vec<f64>>())
    };
    let place = |value: f64| {
        let value = if axes.logarithmic { value.max(10f64.powf(floor)).log10() } else { value };
        bottom - (value - floor) / (ceiling - floor) * (bottom - top)
    };
    for mark in marks {
        svg.line((left, place(mark)), (right, place(mark)), "#e4e4e4");
        svg.text(left - 6.0, place(mark) + 4.0, 10.5, "end", "fill=\"#555\"", &tick(mark));
    }
    svg.text(right, 36.0, 10.5, "end", "fill=\"#555\"", axes.y);
    let across = |x: f64| left + 8.0 + x / widest * (right - left - 24.0);
    if let Some(ticks) = &axes.ticks {
        for (index, tick) in ticks.iter().enumerate() {
            svg.text(across(index as f64), bottom + 15.0, 10.5, "middle", "fill=\"#555\"", tick);
        }
    } else {
        let step = nice_step(widest / 6.0);
        for mark in 0..=(widest / step) as u32 {
            let at = f64::from(mark) * step;
            // As many decimals as tell two marks apart.
            let text = format!("{:.*}", (-step.log10().floor()).clamp(0.0, 9.0) as usize, at);
            svg.text(across(at), bottom + 15.0, 10.5, "middle", "fill=\"#555\"", &text);
        }
    }
    svg.text(f64::midpoint(left, right), HEIGHT - 6.0, 10.5, "middle", "fill=\"#555\"", axes.x);
    for line in lines {
        let points: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (across(*x), place(*y))).collect();
        svg.path(&points, colour(line.target));
        if axes.ticks.is_some() {
            for (x, y) in points {
                let _ = write!(svg.0, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"/>", colour(line.target));
            }
        }
    }
    svg.end()
}

/// A mark of an axis: no more digits than it has.
fn tick(mark: f64) -> String {
    if mark >= 100.0 { figure(mark) } else { format!("{}", (mark * 1e6).round() / 1e6) }
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|nice| *nice >= step).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_an_axis_are_round() {
        for (wanted, nice) in [(0.3, 0.5), (1.0, 1.0), (17.0, 20.0), (230.0, 500.0), (600.0, 1000.0)] {
            assert!((nice_step(wanted) - nice).abs() < nice * 1e-9, "{wanted}");
        }
    }

    #[test]
    fn marks_are_short() {
        for (mark, text) in [(0.0, "0"), (0.1, "0.1"), (10.0, "10"), (1500.0, "1,500")] {
            assert_eq!(tick(mark), text);
        }
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let axes = Axes { title: "a < b & \"c\"", x: "x", y: "y", ticks: None, logarithmic: false };
        let svg = lines(&axes, &["<script>"], &[Line { target: 0, points: vec![(0.0, 1.0), (1.0, 2.0)] }]);
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>"));
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
    }
}
