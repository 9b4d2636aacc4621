//! Drawing: SVG texts that need no fonts of this machine.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{BenchError, BenchResult};

/// Where something is drawn.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours that also people who see few of them can tell apart (Okabe and Ito).
pub(super) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];

/// The colour of the how-manieth thing.
pub(super) fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// A picture of so many pixels on white, with a title.
pub(super) fn picture(
    size: (u32, u32),
    title: &str,
    draw: impl FnOnce(&Area<'_>) -> BenchResult<()>,
) -> BenchResult<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        label(&area, title, (size.0 / 2, 16), HPos::Center, 16)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

pub(super) fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Picture { reason: error.to_string() }
}

/// Text at a point, which is its middle in height.
pub(super) fn label(
    area: &Area<'_>,
    text: &str,
    at: (u32, u32),
    side: HPos,
    size: u32,
) -> BenchResult<()> {
    let style = ("sans-serif", size).into_font().color(&BLACK);
    let style = style.pos(Pos::new(side, VPos::Center));
    area.draw_text(text, &style, pixel(at)).map_err(failed)
}

/// A filled rectangle from a corner, of a width and a height.
pub(super) fn filled(
    area: &Area<'_>,
    at: (u32, u32),
    size: (u32, u32),
    colour: RGBColor,
) -> BenchResult<()> {
    let (from, to) = (pixel(at), pixel((at.0 + size.0, at.1 + size.1)));
    area.draw(&Rectangle::new([from, to], colour.filled())).map_err(failed)
}

fn pixel((x, y): (u32, u32)) -> (i32, i32) {
    let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    (signed(x), signed(y))
}

/// Names beside patches of their colours, from the left.
pub(super) fn legend(area: &Area<'_>, y: u32, names: &[(&str, RGBColor)]) -> BenchResult<()> {
    let mut x = 20;
    for &(name, colour) in names {
        filled(area, (x, y - 5), (10, 10), colour)?;
        label(area, name, (x + 16, y), HPos::Left, 12)?;
        x += 40 + 8 * u32::try_from(name.chars().count()).unwrap_or(0);
    }
    Ok(())
}

/// `part` of `whole` in pixels.
pub(super) fn share(part: u64, whole: u64, pixels: u32) -> u32 {
    let share = u128::from(part) * u128::from(pixels) / u128::from(whole.max(1));
    u32::try_from(share).unwrap_or(pixels).min(pixels)
}
