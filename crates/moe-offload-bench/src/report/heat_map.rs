//! Which experts were used, as a picture: a row per layer, a column per expert.

use moe_offload::ExpertUse;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::pictures::{filled, label, picture};
use crate::error::BenchResult;

const LEFT: u32 = 60;
const TOP: u32 = 40;
const ROW: u32 = 14;

/// The darker, the more of the layer's tokens chose the expert.
pub(super) fn draw(model: &str, counted: &ExpertUse) -> BenchResult<String> {
    let layers: Vec<u32> = counted.layers().collect();
    let experts = u32::try_from(counted.experts()).unwrap_or(0).max(1);
    let column = (900 / experts).clamp(2, 40);
    let rows = u32::try_from(layers.len()).unwrap_or(0);
    let size = (LEFT + column * experts + 140, TOP + ROW * rows + 40);
    picture(size, &format!("{model}: experts used"), |area| {
        for (y, &layer) in (TOP..).step_by(ROW as usize).zip(&layers) {
            let chosen = counted.layer(layer).unwrap_or_default();
            let most = chosen.iter().copied().max().unwrap_or(0);
            label(area, &layer.to_string(), (LEFT - 8, y + ROW / 2), HPos::Right, 11)?;
            for (x, &count) in (LEFT..).step_by(column as usize).zip(chosen) {
                filled(area, (x, y), (column, ROW - 1), shade(count, most))?;
            }
            let bits = counted.entropy_bits(layer).map_or("-".into(), |bits| format!("{bits:.2}"));
            let right = LEFT + column * experts + 8;
            label(area, &format!("{bits} bits"), (right, y + ROW / 2), HPos::Left, 11)?;
        }
        let below = TOP + ROW * rows + 16;
        label(area, "layer (left), expert (across), entropy (right)", (LEFT, below), HPos::Left, 11)
    })
}

/// From white to blue.
fn shade(count: u64, most: u64) -> RGBColor {
    let part = u8::try_from(super::pictures::share(count, most, 255)).unwrap_or(u8::MAX);
    let mix =
        |full: u8| 255 - u8::try_from(u16::from(255 - full) * u16::from(part) / 255).unwrap_or(0);
    RGBColor(mix(0), mix(114), mix(178))
}
