//! Charts as SVG, drawn by `plotters`. Where a value is not known there is a gap.

use crate::samples::Sample;
use maud::{Markup, PreEscaped, html};
use plotters::prelude::{
    ChartBuilder, Color as _, IntoDrawingArea as _, IntoFont as _, LineSeries, RGBColor, SVGBackend,
};
use plotters::style::TextStyle;

/// Size of the drawing, in its own units; a page scales it.
const SIZE: (u32, u32) = (640, 180);
/// Readable on light and on dark.
const INK: RGBColor = RGBColor(125, 130, 140);
/// Colours of the lines, in their order; the page's legend has the same in its style sheet.
const LINES: [RGBColor; 2] = [RGBColor(46, 125, 222), RGBColor(222, 122, 20)];

/// What a line is of.
pub(crate) type Value = fn(&Sample) -> Option<f64>;

/// Lines over time. `label` says to those who do not see it what it is and how it stands.
pub(crate) fn over_time(label: &str, samples: &[Sample], lines: &[(&str, Value)]) -> Markup {
    let values: Vec<Value> = lines.iter().map(|(_, value)| *value).collect();
    let now = |value: Value| samples.last().and_then(value).map_or_else(|| "–".to_owned(), short);
    let stands: Vec<String> = lines.iter().map(|(name, value)| format!("{name} {}", now(*value))).collect();
    html! {
        figure.chart {
            figcaption {
                (label)
                @if lines.len() > 1 {
                    @for (place, (name, _)) in lines.iter().enumerate() { " " span class={ "line line-" (place) } { (name) } }
                }
            }
            @match draw(samples, &values) {
                Some(svg) => div.drawing role="img" aria-label=(format!("{label}: {}", stands.join(", "))) { (PreEscaped(svg)) },
                None => p.unknown { "–" },
            }
        }
    }
}

/// Nothing when fewer than two moments are known.
fn draw(samples: &[Sample], lines: &[Value]) -> Option<String> {
    let (first, last) = (samples.first()?.at_ms, samples.last()?.at_ms);
    let known: Vec<f64> = lines.iter().flat_map(|value| samples.iter().filter_map(value)).collect();
    if first == last || known.is_empty() {
        return None;
    }
    let most = known.iter().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.1 } else { 1.0 };
    let seconds = |ms: u64| -(crate::samples::float(last.saturating_sub(ms)) / 1_000.0);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let text = TextStyle::from(("sans-serif", 13).into_font()).color(&INK);
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(22)
            .y_label_area_size(64)
            .build_cartesian_2d(seconds(first)..0.0, 0.0..top)
            .ok()?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(5)
            .y_labels(4)
            .axis_style(INK.mix(0.6))
            .bold_line_style(INK.mix(0.25))
            .light_line_style(INK.mix(0.0))
            .label_style(text)
            .x_label_formatter(&|x| moment(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()
            .ok()?;
        for (value, colour) in lines.iter().zip(LINES) {
            for run in runs(samples, *value) {
                let points = run.into_iter().map(|(ms, y)| (seconds(ms), y));
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2))).ok()?;
            }
        }
        area.present().ok()?;
    }
    Some(svg)
}

/// Points between gaps.
fn runs(samples: &[Sample], value: Value) -> Vec<Vec<(u64, f64)>> {
    let mut runs: Vec<Vec<(u64, f64)>> = vec![Vec::new()];
    for sample in samples {
        match (value(sample), runs.last_mut()) {
            (Some(y), Some(run)) => run.push((sample.at_ms, y)),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| run.len() > 1);
    runs
}

/// `-2:30`, minutes and seconds before now.
fn moment(seconds: f64) -> String {
    // Fifteen minutes at most.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let before = seconds.abs().round() as u64;
    if before == 0 { "0".to_owned() } else { format!("-{}:{:02}", before / 60, before % 60) }
}

/// `1.2k`, `3.4M`.
pub(crate) fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1}G", v / 1e9),
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 1e3 => format!("{:.1}k", v / 1e3),
        v if v >= 10.0 || v == 0.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, incoming: Option<f64>) -> Sample {
        Sample { at_ms, incoming, ..Sample::default() }
    }

    #[test]
    fn gaps_stay_gaps() {
        let samples = [1, 2, 3, 4, 5, 6].map(|at| sample(at * 1_000, (at != 3).then_some(5.0)));
        let value: Value = |sample| sample.incoming;
        assert_eq!(runs(&samples, value).iter().map(Vec::len).collect::<Vec<_>>(), [2, 3]);
        let svg = draw(&samples, &[value]).expect("there are points");
        assert!(svg.starts_with("<svg") && svg.contains("polyline"), "{svg}");
        assert_eq!(draw(&[sample(1, None), sample(2, None)], &[value]), None);
        assert_eq!(draw(&[], &[value]), None);
    }

    #[test]
    fn short_numbers() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.2"), (42.0, "42"), (1_234.0, "1.2k"), (56_789.0, "57k"), (2.5e6, "2.5M")]
        {
            assert_eq!(short(value), text);
        }
        assert_eq!([moment(-150.0), moment(0.0)], ["-2:30", "0"]);
    }
}
