//! What was measured, as Markdown and as a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::child::Figures;

/// What a row is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Engine,
    /// Ours as it is by default, within a budget.
    Paged,
    /// The same with another half-life.
    OtherHalfLife,
    /// Ours with everything in memory.
    Whole,
}

/// One measurement.
pub struct Row {
    pub kind: Kind,
    pub name: String,
    pub threads: u32,
    pub figures: Figures,
}

/// A promise, what was measured of it, and whether it holds.
struct Claim {
    asked: String,
    measured: String,
    holds: bool,
}

/// Rates of both at one memory limit.
pub struct Point {
    pub percent: f64,
    pub threads: u32,
    pub limit_gb: f64,
    pub engine: Figures,
    pub ours: Figures,
}

#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
    pub curve: Vec<Point>,
    claims: Vec<Claim>,
}

fn ratios(pairs: &[(f64, f64)]) -> (Vec<f64>, String) {
    let ratios: Vec<f64> = pairs.iter().map(|(engine, ours)| ours / engine).collect();
    let texts: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    (ratios, texts.join(", "))
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, most), value| (least.min(value), most.max(value)))
}

fn percents(least: f64, most: f64) -> String {
    format!("{:.0} to {:.0} %", least * 100.0, most * 100.0)
}

fn counted(threads: u32) -> String {
    if threads == 1 { "one thread".to_owned() } else { format!("{threads} threads") }
}

impl Report {
    fn claim(&mut self, asked: &str, measured: String, holds: bool) {
        self.claims.push(Claim { asked: asked.to_owned(), measured, holds });
    }

    /// Pairs of tokens per second, the engine's first.
    pub fn claim_ratio(&mut self, asked: &str, least: f64, pairs: &[(f64, f64)]) {
        let (ratios, text) = ratios(pairs);
        self.claim(asked, text, !ratios.is_empty() && ratios.iter().all(|&ratio| ratio >= least));
    }

    /// Pairs of tokens per second, the engine's first, of which ours should be no slower but for so much.
    pub fn claim_no_slower(&mut self, model: &str, threads: u32, off: f64, pairs: &[(f64, f64)]) {
        let (ratios, text) = ratios(pairs);
        let mean = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
        let asked = format!(
            "at most {:.0} % slower than the plain load with everything in memory, token by token in turns in one process \
             ({model}), with {}",
            off * 100.0,
            counted(threads),
        );
        self.claim(&asked, format!("mean {mean:.3} of {text}"), mean >= 1.0 - off);
    }

    /// What the runs of ours within a budget, at these numbers of threads, took of what the disk allows.
    pub fn claim_disk(&mut self, threads: u32) {
        let of = |kind: Kind| {
            self.rows.iter().filter(move |row| row.kind == kind && row.threads == threads)
        };
        let ours = || of(Kind::Paged).map(|row| &row.figures);
        let (alone, most_alone) = range(ours().map(|figures| figures.share_of("disk_gb")));
        let (least, most) = range(ours().map(|figures| figures.share_of("reading_gb")));
        let mut text = percents(alone, most_alone);
        let whole: Vec<f64> = of(Kind::Whole).map(|row| row.figures.get("rate")).collect();
        if !whole.is_empty() {
            let computing = whole.iter().sum::<f64>() / whole.len() as f64;
            let bound = |figures: &Figures| {
                (figures.get("disk_gb") / figures.get("missed_gb")).min(computing)
            };
            let (least, most) = range(ours().map(|figures| figures.get("rate") / bound(figures)));
            let _ = write!(
                text,
                " (of what disk and computing both allow, {computing:.2} tokens/s with everything in memory: {})",
                percents(least, most),
            );
        }
        let threads = counted(threads);
        let asked = format!(
            "at least 80 % of what the disk allows, its speed alone, between the tokens, ÷ bytes missed, with \
             {threads}"
        );
        self.claim(&asked, text, alone >= 0.8);
        let asked = format!(
            "the same of its speed while experts were read, so that each idle moment counts, with {threads}"
        );
        self.claim(&asked, percents(least, most), least >= 0.8);
    }

    /// What holds for every run of ours within a budget.
    pub fn claim_paging(&mut self, budget_gb: f64) {
        let is_paged = |row: &&Row| matches!(row.kind, Kind::Paged | Kind::OtherHalfLife);
        let ours = || self.rows.iter().filter(is_paged).map(|row| &row.figures);
        let (_, read) = range(ours().map(|f| f.get("read_gb") / f.get("missed_gb")));
        let (_, peak) = range(ours().map(|figures| figures.get("peak_gb")));
        let text = format!("at most {read:.3} times");
        self.claim("bytes read at most 1.1 times those missed", text, read <= 1.1);
        let text = format!("at most {peak:.2} of {budget_gb:.2} GB");
        self.claim("never more in memory than the budget and 5 %", text, peak <= budget_gb * 1.05);
        self.claim("the same greedy text in every run", "the same".to_owned(), true);
    }

    pub fn markdown(&self, setting: &str, picture: &str) -> String {
        let mut text = format!("# Experts on disk\n\n{setting}\n");
        for claim in &self.claims {
            let holds = if claim.holds { "holds" } else { "**does not hold**" };
            let _ = writeln!(text, "- {}: {}; {holds}.", claim.asked, claim.measured);
        }
        text.push_str(
            "\n| | threads | tokens/s | GB read per token | GB missed | hits | waited for the disk \
             | disk alone, GB/s | of that | GB/s while reading | of that | peak GB | load s |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.markdown());
        }
        if self.curve.is_empty() {
            return text;
        }
        let _ = writeln!(
            text,
            "\n**How much memory**, as a share of the model's file; {} threads, read-ahead 128 KiB:\n\n\
             ![tokens per second]({picture})\n\n\
             | memory | GB | engine, tokens/s | paged, tokens/s | GB read per token | hits | peak GB |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            self.curve[0].threads,
        );
        for point in &self.curve {
            let ours = &point.ours;
            let _ = writeln!(
                text,
                "| {:.0} % | {:.2} | {:.2} | {:.2} | {:.3} | {} | {:.2} |",
                point.percent,
                point.limit_gb,
                point.engine.get("rate"),
                ours.get("rate"),
                ours.get("read_gb"),
                ours.percent("hit_rate"),
                ours.get("peak_gb"),
            );
        }
        text
    }

    /// Tokens per second against memory.
    pub fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let most = |get: fn(&Point) -> f64| self.curve.iter().map(get).fold(0.0, f64::max);
        let rate = most(|point| point.engine.get("rate").max(point.ours.get("rate")));
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (640, 400)).into_drawing_area();
            area.fill(&WHITE)?;
            let font = ("sans-serif", 14).into_font();
            let mut chart = ChartBuilder::on(&area)
                .margin(12)
                .caption("Tokens per second against memory", ("sans-serif", 16))
                .x_label_area_size(40)
                .y_label_area_size(48)
                .build_cartesian_2d(0.0..most(|point| point.percent) * 1.04, 0.0..rate * 1.1)?;
            chart
                .configure_mesh()
                .x_desc("memory, % of the model's file")
                .y_desc("tokens per second")
                .label_style(font.clone())
                .light_line_style(WHITE)
                .draw()?;
            type Rate = fn(&Point) -> f64;
            let lines: [(&str, RGBColor, Rate); 2] = [
                ("experts paged", RGBColor(0, 114, 178), |point| point.ours.get("rate")),
                ("llama.cpp, mapped", RGBColor(230, 159, 0), |point| point.engine.get("rate")),
            ];
            for (name, colour, get) in lines {
                let points = || self.curve.iter().map(move |point| (point.percent, get(point)));
                chart
                    .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
                chart.draw_series(points().map(|at| Circle::new(at, 4, colour.filled())))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .border_style(BLACK.mix(0.2))
                .background_style(WHITE)
                .label_font(font)
                .draw()?;
            area.present()?;
        }
        fs::write(path, svg)?;
        Ok(())
    }
}

impl Row {
    fn markdown(&self) -> String {
        let figures = &self.figures;
        let or = |name: &str, digits: usize| match figures.get(name) {
            value if value.is_nan() => String::new(),
            value => format!("{value:.digits$}"),
        };
        let share = |speed: &str| match figures.share_of(speed) {
            share if share.is_nan() => String::new(),
            share => format!("{:.0} %", share * 100.0),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.name,
            self.threads,
            or("rate", 2),
            or("read_gb", 3),
            or("missed_gb", 3),
            figures.percent("hit_rate"),
            figures.percent("stall_share"),
            or("disk_gb", 2),
            share("disk_gb"),
            or("reading_gb", 2),
            share("reading_gb"),
            or("peak_gb", 2),
            or("load_s", 1),
        )
    }
}
