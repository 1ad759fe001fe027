//! Plots, as SVG: a bar for each contender's median, and a line from its least to its largest figure.

use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Color, EmptyElement, IntoDrawingArea, PathElement, RGBColor, Rectangle,
    SVGBackend, Text, WHITE,
};
use plotters::style::IntoFont;

use crate::failed::{Context, Result};
use crate::figure::Spread;
use crate::report;

/// Ours, and theirs.
const OURS: RGBColor = RGBColor(0x79, 0x58, 0x9f);
const THEIRS: RGBColor = RGBColor(0xb8, 0xbc, 0xc4);

const WIDTH: u32 = 760;
const ROW: u32 = 34;

/// Draws horizontal bars; the first is ours.
pub(crate) fn bars(file: &Path, title: &str, bars: &[(String, Spread)]) -> Result<()> {
    draw(file, title, bars).context(|| file.display().to_string())
}

fn draw(
    file: &Path,
    title: &str,
    bars: &[(String, Spread)],
) -> Result<(), Box<dyn std::error::Error>> {
    let rows = bars.len();
    let area = SVGBackend::new(file, (WIDTH, ROW * rows as u32 + 80)).into_drawing_area();
    area.fill(&WHITE)?;
    let largest = bars
        .iter()
        .map(|(_, spread)| spread.max)
        .fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(150)
        .build_cartesian_2d(0.0..largest * 1.15 + f64::MIN_POSITIVE, 0.0..rows as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .max_light_lines(0)
        .y_labels(0)
        .draw()?;
    for (nth, (name, spread)) in bars.iter().enumerate() {
        let middle = (rows - nth) as f64 - 0.5;
        let colour = if nth == 0 { OURS } else { THEIRS };
        chart.draw_series([Rectangle::new(
            [(0.0, middle - 0.35), (spread.median, middle + 0.35)],
            colour.filled(),
        )])?;
        chart.draw_series([PathElement::new(
            [(spread.min, middle), (spread.max, middle)],
            BLACK,
        )])?;
        let label =
            |text: String, by: (i32, i32)| Text::new(text, by, ("sans-serif", 13).into_font());
        chart
            .draw_series([EmptyElement::at((spread.max, middle))
                + label(report::number(spread.median), (6, -6))])?;
        chart.draw_series([EmptyElement::at((0.0, middle)) + label(name.clone(), (-150, -6))])?;
    }
    area.present()?;
    Ok(())
}
