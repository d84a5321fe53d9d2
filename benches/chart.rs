//! The pictures of what was measured: one SVG with a panel for each chart.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

const PANEL: (u32, u32) = (560, 340);
const COLUMNS: usize = 2;
/// Told apart also by those who do not see colours as most do.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 86, 86),
];

/// One panel of the picture.
#[derive(Clone, Debug, Serialize)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    pub log_x: bool,
    pub series: Vec<Series>,
    /// Instead of lines: a bar each, from top to bottom; `x` is what their length means.
    pub bars: Vec<Bar>,
}

/// One line of a panel.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// One bar of a panel.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub name: String,
    pub length: f64,
    /// Ours, which has a colour of its own.
    pub ours: bool,
}

impl Chart {
    /// Lines over `x`.
    #[must_use]
    pub fn lines(title: impl Into<String>, x: &str, y: &str, series: Vec<Series>) -> Self {
        let (title, x, y) = (title.into(), x.to_owned(), y.to_owned());
        Chart { title, x, y, log_x: false, series, bars: Vec::new() }
    }

    /// Bars whose length is `x`.
    #[must_use]
    pub fn bars(title: impl Into<String>, x: &str, bars: Vec<Bar>) -> Self {
        let (title, x) = (title.into(), x.to_owned());
        Chart { title, x, y: String::new(), log_x: false, series: Vec::new(), bars }
    }

    /// With steps of ten on the way to the right.
    #[must_use]
    pub fn over_powers_of_ten(self) -> Self {
        Chart { log_x: true, ..self }
    }
}

/// Draws them two in a row. Nothing is written where there are none.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(charts: &[Chart], file: &Path) -> Result<()> {
    if charts.is_empty() {
        return Ok(());
    }
    let rows = charts.len().div_ceil(COLUMNS);
    let columns = COLUMNS.min(charts.len());
    let size = (PANEL.0 * u32::try_from(columns)?, PANEL.1 * u32::try_from(rows)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE).map_err(problem)?;
    for (area, chart) in root.split_evenly((rows, columns)).iter().zip(charts) {
        if chart.bars.is_empty() { lines(area, chart)? } else { bars(area, chart)? }
    }
    root.present().map_err(problem).with_context(|| format!("write {}", file.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn lines(area: &Area<'_>, chart: &Chart) -> Result<()> {
    let points = || chart.series.iter().flat_map(|series| series.points.iter().copied());
    let least = points().map(|point| point.0).filter(|x| *x > 0.0).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.0).fold(f64::MIN, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.1;
    if chart.log_x {
        lines_over(area, chart, (least..most.max(least * 10.0)).log_scale(), top)
    } else {
        lines_over(area, chart, 0.0..most, top)
    }
}

fn number(value: f64) -> String {
    let (value, unit) = if value >= 1000.0 { (value / 1000.0, "k") } else { (value, "") };
    format!("{}{unit}", (value * 1000.0).round() / 1000.0)
}

fn lines_over<X>(area: &Area<'_>, chart: &Chart, x: X, top: f64) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut built = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(x, 0.0..top)
        .map_err(problem)?;
    built
        .configure_mesh()
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .light_line_style(WHITE)
        .draw()
        .map_err(problem)?;
    for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2));
        built
            .draw_series(line)
            .map_err(problem)?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        if series.points.len() < 30 {
            let dots = series.points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
            built.draw_series(dots).map_err(problem)?;
        }
    }
    built
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .position(SeriesLabelPosition::LowerRight)
        .draw()
        .map_err(problem)?;
    Ok(())
}

fn bars(area: &Area<'_>, chart: &Chart) -> Result<()> {
    let count = i32::try_from(chart.bars.len())?;
    let longest = chart.bars.iter().map(|bar| bar.length).fold(0.0, f64::max);
    // The first is on top, and there is room for the figure of the longest.
    let mut built = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(190)
        .build_cartesian_2d(0.0..longest * 1.2, (0..count - 1).into_segmented())
        .map_err(problem)?;
    let reversed: Vec<&Bar> = chart.bars.iter().rev().collect();
    let name = |place: &SegmentValue<i32>| match place {
        SegmentValue::CenterOf(at) => {
            usize::try_from(*at).ok().and_then(|at| reversed.get(at)).map(|bar| bar.name.clone())
        }
        _ => None,
    };
    built
        .configure_mesh()
        .x_desc(&chart.x)
        .y_labels(chart.bars.len() + 1)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|place| name(place).unwrap_or_default())
        .disable_y_mesh()
        .light_line_style(WHITE)
        .draw()
        .map_err(problem)?;
    let [ours, other, ..] = COLOURS;
    for (at, bar) in (0..count).zip(&reversed) {
        let colour = if bar.ours { ours } else { other };
        let ends = [(0.0, SegmentValue::Exact(at)), (bar.length, SegmentValue::Exact(at + 1))];
        let mut drawn = Rectangle::new(ends, colour.filled());
        drawn.set_margin(4, 4, 0, 0);
        let style = ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let digits = if bar.length < 10.0 { 2 } else { 1 };
        let figure = format!(" {:.digits$}", bar.length);
        let text = Text::new(figure, (bar.length, SegmentValue::CenterOf(at)), style);
        built.draw_series([drawn]).map_err(problem)?;
        built.draw_series([text]).map_err(problem)?;
    }
    Ok(())
}

fn problem(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the chart: {error}")
}
