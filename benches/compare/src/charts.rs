//! SVG charts: bars for what is compared, lines for what grows.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::peers::{DIRECT, HAPROXY, NGINX, OURS, STUNNEL};
use crate::samples::{Summary, number};

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(36, 41, 47);
const FAINT: RGBColor = RGBColor(140, 149, 159);
const PANEL_WIDTH: u32 = 440;

/// Bars of one figure, a peer each.
pub struct Bars {
    pub title: String,
    /// The unit, and which way is better.
    pub caption: String,
    pub peers: Vec<(&'static str, Summary)>,
}

/// Lines of one figure over a growing number, a peer each; both axes logarithmic where the figure spans that
/// much.
pub struct Lines {
    pub title: String,
    pub caption: String,
    /// What grows.
    pub over: &'static str,
    pub logarithmic: bool,
    pub peers: Vec<(&'static str, Vec<(f64, Summary)>)>,
}

/// Ours stands out; the others keep one colour each in all charts.
fn colour(peer: &str) -> RGBColor {
    match peer {
        OURS => RGBColor(200, 50, 40),
        HAPROXY => RGBColor(70, 110, 160),
        NGINX => RGBColor(95, 155, 115),
        STUNNEL => RGBColor(140, 105, 160),
        DIRECT => RGBColor(175, 180, 186),
        _ => RGBColor(190, 150, 80),
    }
}

fn text(size: u32, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}

fn title() -> TextStyle<'static> {
    let bold = (FONT, 15, FontStyle::Bold).into_font();
    bold.color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

fn pixels(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Draws panels of bars, two in a row.
pub fn bars(path: &Path, panels: &[Bars]) -> Result<()> {
    const COLUMNS: usize = 2;
    const HEAD: i32 = 56;
    const ROW: i32 = 26;
    let rows = panels.len().div_ceil(COLUMNS);
    let most_bars = panels.iter().map(|panel| panel.peers.len()).max().unwrap_or(0);
    let height = HEAD + ROW * pixels(most_bars) + 16;
    let canvas =
        SVGBackend::new(path, (PANEL_WIDTH * 2, u32::try_from(height * pixels(rows))?)).into_drawing_area();
    canvas.fill(&WHITE).map_err(drawing)?;
    for (area, panel) in canvas.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        draw_bars(area, panel, HEAD, ROW)?;
    }
    canvas.present().map_err(drawing)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_bars(area: &Area<'_>, panel: &Bars, head: i32, row: i32) -> Result<()> {
    const LEFT: i32 = 136;
    const RIGHT: i32 = 84;
    let write = |content: &str, at, style: TextStyle<'_>| {
        area.draw(&Text::new(content.to_owned(), at, style)).map_err(drawing)
    };
    write(&panel.title, (16, 20), title())?;
    write(&panel.caption, (16, 40), text(12, FAINT, HPos::Left))?;
    let longest = panel.peers.iter().map(|(_, summary)| summary.max).fold(0.0, f64::max);
    let room = f64::from(pixels(PANEL_WIDTH as usize) - LEFT - RIGHT);
    #[expect(clippy::cast_possible_truncation, reason = "a position within the panel")]
    let position = |value: f64| LEFT + (value / longest * room) as i32;
    for (index, (peer, summary)) in panel.peers.iter().enumerate() {
        let middle = head + row * pixels(index) + row / 2;
        write(peer, (LEFT - 8, middle), text(13, INK, HPos::Right))?;
        let bar = [(LEFT, middle - 8), (position(summary.median), middle + 8)];
        area.draw(&Rectangle::new(bar, colour(peer).filled())).map_err(drawing)?;
        // The spread over the rounds.
        let spread = vec![(position(summary.min), middle), (position(summary.max), middle)];
        area.draw(&PathElement::new(spread, INK.stroke_width(1))).map_err(drawing)?;
        for end in [summary.min, summary.max] {
            let mark = vec![(position(end), middle - 3), (position(end), middle + 3)];
            area.draw(&PathElement::new(mark, INK.stroke_width(1))).map_err(drawing)?;
        }
        let after = position(summary.max.max(summary.median)) + 6;
        write(&number(summary.median), (after, middle), text(13, INK, HPos::Left))?;
    }
    Ok(())
}

/// Draws panels of lines beside each other.
pub fn lines(path: &Path, panels: &[Lines]) -> Result<()> {
    let width = PANEL_WIDTH * u32::try_from(panels.len())?;
    let canvas = SVGBackend::new(path, (width, 340)).into_drawing_area();
    canvas.fill(&WHITE).map_err(drawing)?;
    for (area, panel) in canvas.split_evenly((1, panels.len())).iter().zip(panels) {
        draw_lines(area, panel)?;
    }
    canvas.present().map_err(drawing)
}

fn draw_lines(area: &Area<'_>, panel: &Lines) -> Result<()> {
    let write = |content: &str, at, style: TextStyle<'_>| {
        area.draw(&Text::new(content.to_owned(), at, style)).map_err(drawing)
    };
    write(&panel.title, (16, 20), title())?;
    write(&panel.caption, (16, 40), text(12, FAINT, HPos::Left))?;

    let height = |value: f64| {
        if panel.logarithmic { value.log10() } else { value }
    };
    let points = || panel.peers.iter().flat_map(|(_, line)| line);
    let first = points().map(|(x, _)| x.log10()).fold(f64::INFINITY, f64::min);
    let last = points().map(|(x, _)| x.log10()).fold(f64::NEG_INFINITY, f64::max);
    let bottom = if panel.logarithmic {
        points().map(|(_, y)| height(y.min)).fold(f64::INFINITY, f64::min).floor()
    } else {
        0.0
    };
    let top = points().map(|(_, y)| height(y.max)).fold(f64::NEG_INFINITY, f64::max);
    // Room for the legend.
    let top = bottom + (top - bottom) * 1.5;

    let mut chart = ChartBuilder::on(area)
        .margin_top(56)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(first..last, bottom..top)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT.mix(0.4))
        .axis_style(FAINT)
        .x_labels(4)
        .y_labels(5)
        .x_desc(panel.over)
        .label_style((FONT, 12).into_font().color(&INK))
        .x_label_formatter(&|x| {
            number(10f64.powf(*x)).trim_end_matches(".0").trim_end_matches(".00").to_owned()
        })
        .y_label_formatter(&|y| number(if panel.logarithmic { 10f64.powf(*y) } else { *y }))
        .draw()
        .map_err(drawing)?;
    for (peer, line) in &panel.peers {
        let colour = colour(peer);
        let path: Vec<_> = line.iter().map(|(x, y)| (x.log10(), height(y.median))).collect();
        let dots = path.clone();
        let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(3));
        chart
            .draw_series([PathElement::new(path, colour.stroke_width(2))])
            .map_err(drawing)?
            .label(*peer)
            .legend(legend);
        chart.draw_series(dots.into_iter().map(|at| Circle::new(at, 3, colour.filled()))).map_err(drawing)?;
        let spread = |(x, y): &(f64, Summary)| vec![(x.log10(), height(y.min)), (x.log10(), height(y.max))];
        chart
            .draw_series(line.iter().map(|point| PathElement::new(spread(point), colour.stroke_width(1))))
            .map_err(drawing)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 12).into_font().color(&INK))
        .draw()
        .map_err(drawing)
}

/// Plotters' errors borrow from the drawing area; only their words can leave it.
fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}
