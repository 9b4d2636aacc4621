//! The pictures of a report.

use std::collections::BTreeMap;

use moe_offload::plan::CPU;
use moe_offload::plan::human_bytes;
use moe_offload::tune::Summary;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::pictures::{Area, COLOURS, colour, failed, filled, label, legend, picture, share};
use super::{Report, file_name};
use crate::error::BenchResult;
use crate::protocol::Setting;
use crate::record::{LayerPlace, SpeedRecord};

const GIB: f64 = 1_073_741_824.0;

pub(super) fn all(report: &Report) -> BenchResult<BTreeMap<String, String>> {
    let mut pictures = BTreeMap::new();
    // Without a device there is no axis for it, and policies differ by chance.
    if report.has_device()
        && let Some(svg) = speed(report)?
    {
        pictures.insert("speed.svg".to_owned(), svg);
    }
    let mut seen = Vec::new();
    for group in report.groups() {
        // One of each model: the first sizes.
        if seen.contains(&group.model) {
            continue;
        }
        let rows: Vec<(String, &SpeedRecord)> = report
            .protocol
            .policies
            .iter()
            .filter_map(|policy| {
                let first = report.of(&group.under(policy)).first().copied()?;
                Some((policy.to_string(), first))
            })
            .collect();
        if !rows.is_empty() {
            let name = file_name(&group.model);
            pictures.insert(format!("memory-{name}.svg"), memory(&group.model, &rows)?);
            pictures.insert(format!("placement-{name}.svg"), placement(&group.model, &rows)?);
        }
        seen.push(group.model);
    }
    Ok(pictures)
}

/// Device memory in GiB and decoded tokens/s of a setting: the median of all its answers.
fn point(report: &Report, setting: &Setting) -> Option<(f64, f64)> {
    let speeds = report.of(setting);
    let answers = speeds.iter().flat_map(|speed| &speed.answers);
    let rates: Vec<f64> = answers.filter_map(|answer| answer.decode_tokens_per_second).collect();
    let bytes = speeds.iter().map(|speed| speed.device_bytes()).max()?;
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let gib = bytes as f64 / GIB;
    Some((gib, Summary::of(&rates)?.median))
}

/// A point of a curve and its policy's name.
type Point = ((f64, f64), String);

/// Speed against device memory, a curve per model.
fn speed(report: &Report) -> BenchResult<Option<String>> {
    let mut curves: Vec<(String, Vec<Point>)> = Vec::new();
    for group in report.groups() {
        if curves.iter().any(|(model, _)| *model == group.model) {
            continue;
        }
        let policies = report.protocol.policies.iter();
        let mut points: Vec<Point> = policies
            .filter_map(|policy| Some((point(report, &group.under(policy))?, policy.to_string())))
            .collect();
        points.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
        if !points.is_empty() {
            curves.push((group.model, points));
        }
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let title = "Decoded tokens/s against device memory";
    picture((900, 560), title, |area| curves_into(area, &curves)).map(Some)
}

/// Where a label is: left, top, right, bottom in pixels.
type Label = (i32, i32, i32, i32);

/// How far below its point a label goes, so that it covers no other one.
fn free_place(taken: &mut Vec<Label>, (x, y): (i32, i32), text: &str) -> i32 {
    let width = 7 * i32::try_from(text.chars().count()).unwrap_or(0);
    let at = |below: i32| (x + 7, y + below, x + 7 + width, y + below + 12);
    let is_free = |label: &Label| {
        let apart = |other: &Label| {
            label.2 < other.0 || other.2 < label.0 || label.3 < other.1 || other.3 < label.1
        };
        taken.iter().all(apart)
    };
    let places = (0..8).flat_map(|step| [-13 - 13 * step, 3 + 13 * step]);
    let below = places.into_iter().find(|&below| is_free(&at(below))).unwrap_or(-13);
    taken.push(at(below));
    below
}

fn curves_into(area: &Area<'_>, curves: &[(String, Vec<Point>)]) -> BenchResult<()> {
    let all = || curves.iter().flat_map(|(_, points)| points);
    let most = |figure: fn(&(f64, f64)) -> f64| {
        let most = all().map(|(point, _)| figure(point)).fold(0.0, f64::max) * 1.15;
        if most > 0.0 { most } else { 1.0 }
    };
    let (width, height) = (most(|point| point.0), most(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(20)
        .margin_top(36)
        .margin_bottom(30)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..width, 0.0..height)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("memory on devices, GiB")
        .y_desc("decoded tokens/s")
        .max_light_lines(0)
        .x_label_formatter(&|x| format!("{x:.3}"))
        .draw()
        .map_err(failed)?;
    let mut taken: Vec<Label> = Vec::new();
    for (i, (_, points)) in curves.iter().enumerate() {
        let line = points.iter().map(|(point, _)| *point);
        chart.draw_series(LineSeries::new(line, colour(i).stroke_width(2))).map_err(failed)?;
        let marks: Vec<_> = points
            .iter()
            .map(|(point, policy)| {
                let below = free_place(&mut taken, chart.backend_coord(point), policy);
                EmptyElement::at(*point)
                    + Circle::new((0, 0), 4, colour(i).filled())
                    + Text::new(policy.clone(), (7, below), ("sans-serif", 11))
            })
            .collect();
        chart.draw_series(marks).map_err(failed)?;
    }
    let names: Vec<(&str, RGBColor)> =
        curves.iter().enumerate().map(|(i, (model, _))| (model.as_str(), colour(i))).collect();
    legend(area, 545, &names)
}

/// The bars of memory: what is on devices, then what is in the host's memory.
fn memory(model: &str, rows: &[(String, &SpeedRecord)]) -> BenchResult<String> {
    const NAMES: [&str; 6] = [
        "device weights",
        "device context",
        "device compute",
        "host weights",
        "host context",
        "host compute",
    ];
    let parts = |speed: &SpeedRecord| {
        let mut parts = [0_u64; 6];
        for memory in &speed.memory {
            let first = if memory.name == CPU { 3 } else { 0 };
            parts[first] += memory.weights_bytes;
            parts[first + 1] += memory.context_bytes;
            parts[first + 2] += memory.compute_bytes;
        }
        parts
    };
    let all = rows.iter().map(|(_, speed)| parts(speed).iter().sum::<u64>()).max().unwrap_or(1);
    let height = 60 + 34 * u32::try_from(rows.len()).unwrap_or(0) + 30;
    picture((940, height), &format!("{model}: memory by policy"), |area| {
        for (y, (policy, speed)) in (40..).step_by(34).zip(rows) {
            label(area, policy, (130, y + 12), HPos::Right, 12)?;
            let mut x = 140;
            for (bytes, &colour) in parts(speed).into_iter().zip(&COLOURS) {
                let width = share(bytes, all, 680);
                filled(area, (x, y), (width, 24), colour)?;
                x += width;
            }
            let together = human_bytes(parts(speed).iter().sum());
            label(area, &together, (x + 6, y + 12), HPos::Left, 11)?;
        }
        let names: Vec<_> = NAMES.into_iter().zip(COLOURS).collect();
        legend(area, height - 18, &names)
    })
}

/// Where each layer is: a row per policy, a column per layer, the upper part what is no expert, the
/// lower part experts.
fn placement(model: &str, rows: &[(String, &SpeedRecord)]) -> BenchResult<String> {
    let (device, host, none) = (COLOURS[0], COLOURS[1], RGBColor(225, 225, 225));
    let layers = rows.iter().map(|(_, speed)| speed.placement.len()).max().unwrap_or(1).max(1);
    let column = (760 / u32::try_from(layers).unwrap_or(1)).clamp(4, 40);
    let width = 150 + column * u32::try_from(layers).unwrap_or(1) + 30;
    let height = 60 + 34 * u32::try_from(rows.len()).unwrap_or(0) + 40;
    let size = (width.max(560), height);
    picture(size, &format!("{model}: where layers are"), |area| {
        for (y, (policy, speed)) in (40..).step_by(34).zip(rows) {
            label(area, policy, (130, y + 12), HPos::Right, 12)?;
            for (x, place) in (140..).step_by(column as usize).zip(&speed.placement) {
                let LayerPlace { expert_bytes_on_devices: on, expert_bytes_on_cpu: off, .. } =
                    *place;
                let of_layer = if place.device == CPU { host } else { device };
                filled(area, (x, y), (column - 1, 9), of_layer)?;
                let experts = share(on, on + off, 14);
                filled(
                    area,
                    (x, y + 10),
                    (column - 1, 14),
                    if on + off > 0 { host } else { none },
                )?;
                filled(area, (x, y + 10), (column - 1, experts), device)?;
            }
        }
        let names = [("on a device", device), ("in CPU memory", host), ("no experts", none)];
        let below = "above: attention and the rest; below: experts; layers from the left";
        label(area, below, (20, height - 36), HPos::Left, 11)?;
        legend(area, height - 18, &names)
    })
}
