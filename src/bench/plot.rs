//! The curves as an SVG: two panels with logarithmic axes, readable on light and on dark grounds. Pure.
#![forbid(unsafe_code)]

mod axis;

use std::fmt::Write as _;

use self::axis::Axis;
use super::report::{Curve, Panel, Point};
use super::table::time;
use crate::cli::human_size;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
/// Space of a panel, axes not included.
const PLOT: (f64, f64) = (370.0, 290.0);
const TOP: f64 = 50.0;
/// Left edges of the panels.
const LEFT: [f64; 2] = [80.0, 565.0];
/// Points beyond this are joined to medians: single ones would be a cloud.
const MOST: usize = 40;
/// How many colours there are in [`STYLE`].
const COLOURS: usize = 6;

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}.grid{stroke:#999;stroke-opacity:.3}\
.axis{stroke:#777;fill:none}.line{fill:none;stroke-width:2;stroke-linejoin:round}.c0{stroke:#0b6e99;fill:#0b6e99}\
.c1{stroke:#d1541a;fill:#d1541a}.c2{stroke:#2e8540;fill:#2e8540}.c3{stroke:#8a4fbf;fill:#8a4fbf}.c4{stroke:#a8760a;fill:#a8760a}\
.c5{stroke:#b4375f;fill:#b4375f}.line{fill:none!important}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.c0{stroke:#5ab8e0;fill:#5ab8e0}.c1{stroke:#f58a55;fill:#f58a55}\
.c2{stroke:#6cc580;fill:#6cc580}.c3{stroke:#bd93e6;fill:#bd93e6}.c4{stroke:#dcb04c;fill:#dcb04c}.c5{stroke:#ec7ba0;fill:#ec7ba0}}";

/// Draws them. Every name has the same colour in both panels.
pub(super) fn svg(curves: &[Curve]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>Cost of vesselrt's operations against size and chain length</title>\n<style>{STYLE}</style>\n"
    );
    let names = names(curves);
    for (panel, left) in [Panel::Size, Panel::Chain].into_iter().zip(LEFT) {
        let lines: Vec<&Curve> = curves.iter().filter(|curve| curve.panel == panel).collect();
        draw(&mut svg, panel, left, &lines, &names);
    }
    legend(&mut svg, &names);
    svg.push_str("</svg>\n");
    svg
}

fn names(curves: &[Curve]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for curve in curves {
        if !names.contains(&curve.name) {
            names.push(curve.name);
        }
    }
    names
}

fn colour(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or(0) % COLOURS
}

fn draw(svg: &mut String, panel: Panel, left: f64, lines: &[&Curve], names: &[&str]) {
    let title = match panel {
        Panel::Size => "cost against bytes changed",
        Panel::Chain => "cost against snapshots in the chain",
    };
    let (width, height) = PLOT;
    let bottom = TOP + height;
    text(svg, left, TOP - 16.0, "title", "start", title);
    let _ = writeln!(svg, "<path class=\"axis\" d=\"M{left} {TOP}V{bottom}H{}\"/>", left + width);
    let points = || lines.iter().flat_map(|curve| &curve.points);
    let (Some(x), Some(y)) = (
        Axis::over(points().map(|point| point.at as f64), left, left + width),
        Axis::over(points().map(|point| point.ms), bottom, TOP),
    ) else {
        return text(svg, left + width / 2.0, TOP + height / 2.0, "none", "middle", "nothing measured");
    };
    for tick in x.ticks() {
        let at = x.place(tick);
        let label = match panel {
            Panel::Size => human_size(tick as u64),
            Panel::Chain => format!("{tick:.0}"),
        };
        text(svg, at, bottom + 18.0, "tick", "middle", &label);
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {at:.1}H{}\"/>", left + width);
        text(svg, left - 8.0, at + 4.0, "tick", "end", &time(tick));
    }
    for curve in lines {
        line(svg, &x, &y, &joined(&curve.points), colour(names, curve.name));
    }
}

fn line(svg: &mut String, x: &Axis, y: &Axis, points: &[Point], colour: usize) {
    let place = |point: &Point| (x.place(point.at as f64), y.place(point.ms));
    let path: Vec<String> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(svg, "<polyline class=\"line c{colour}\" points=\"{}\"/>", path.join(" "));
    for (x, y) in points.iter().map(place) {
        let _ = writeln!(svg, "<circle class=\"c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>");
    }
}

/// Medians of neighbours where there are too many.
fn joined(points: &[Point]) -> Vec<Point> {
    let each = points.len().div_ceil(MOST).max(1);
    let median = |points: &[Point]| {
        let mut times: Vec<f64> = points.iter().map(|point| point.ms).collect();
        times.sort_by(f64::total_cmp);
        Point { at: points[points.len() / 2].at, ms: times[times.len() / 2] }
    };
    points.chunks(each).map(median).collect()
}

fn legend(svg: &mut String, names: &[&str]) {
    let mut at = LEFT[0];
    for name in names {
        let y = HEIGHT - 18.0;
        let colour = colour(names, name);
        let _ = writeln!(svg, "<circle class=\"c{colour}\" cx=\"{at}\" cy=\"{}\" r=\"5\"/>", y - 4.0);
        text(svg, at + 10.0, y, "legend", "start", name);
        at += 40.0 + 7.0 * name.len() as f64;
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(panel: Panel, name: &'static str, points: &[(u64, f64)]) -> Curve {
        Curve::new(panel, name, points.iter().map(|&(at, ms)| Point { at, ms }).collect())
    }

    #[test]
    fn every_curve_is_a_line_inside_of_its_panel() {
        let curves = [
            curve(Panel::Size, "snapshot", &[(1000, 2.0), (10_000, 2.5), (100_000, 40.0)]),
            curve(Panel::Chain, "snapshot", &[(1, 2.0), (200, 2.2)]),
            curve(Panel::Chain, "exec", &[(1, 0.4), (200, 0.5)]),
        ];
        let svg = svg(&curves);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 3);
        for points in svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            for (x, y) in points.split(' ').map(|point| point.split_once(',').unwrap()) {
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT[0]..=LEFT[1] + PLOT.0).contains(&x), "{x}");
                assert!((TOP..=TOP + PLOT.1).contains(&y), "{y}");
            }
        }
        for label in ["1.0 kB", "10.0 kB", "100", "1.00 ms", "exec"] {
            assert!(svg.contains(&format!(">{label}</text>")), "{label} is not in {svg}");
        }
    }

    #[test]
    fn nothing_measured_is_a_drawing_too() {
        let svg = svg(&[]);
        assert_eq!(svg.matches("nothing measured").count(), 2);
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_cloud_is_joined_to_medians() {
        let points: Vec<Point> =
            (0..200).map(|at| Point { at, ms: if at % 5 == 0 { 99.0 } else { 1.0 } }).collect();
        let joined = joined(&points);
        assert_eq!(joined.len(), 40);
        assert!(joined.iter().all(|point| (point.ms - 1.0).abs() < 1e-9));
    }
}
