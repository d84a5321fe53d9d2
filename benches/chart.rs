//! The picture: a panel for each chart of the report.

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::path::Path;

use crate::report::{Chart, Report};

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

pub fn draw(report: &Report, file: &Path) -> Result<()> {
    if report.charts.is_empty() {
        return Ok(());
    }
    let lines = report.charts.len().div_ceil(COLUMNS);
    let size = (PANEL.0 * u32::try_from(COLUMNS)?, PANEL.1 * u32::try_from(lines)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE).map_err(problem)?;
    for (area, chart) in root.split_evenly((lines, COLUMNS)).iter().zip(&report.charts) {
        let points = || chart.series.iter().flat_map(|series| series.points.iter().copied());
        let least = points().map(|point| point.0).filter(|x| *x > 0.0).fold(f64::MAX, f64::min);
        let most = points().map(|point| point.0).fold(f64::MIN, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.1;
        if chart.log_x {
            panel(area, chart, (least..most.max(least * 10.0)).log_scale(), top)?;
        } else {
            panel(area, chart, 0.0..most, top)?;
        }
    }
    root.present().map_err(problem).with_context(|| format!("write {}", file.display()))
}

fn panel<X>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    chart: &Chart,
    x: X,
    top: f64,
) -> Result<()>
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
    let number = |value: &f64| {
        if *value >= 1000.0 {
            format!("{:.0}k", value / 1000.0)
        } else {
            format!("{}", (value * 1000.0).round() / 1000.0)
        }
    };
    built
        .configure_mesh()
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
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

fn problem(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the chart: {error}")
}
