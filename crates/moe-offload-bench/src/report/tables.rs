//! Tables in Markdown.

use std::fmt::Write as _;

/// Rows of cells under a heading, with columns as wide as they need to be.
pub(super) struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { heading: heading.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| escaped(&cell)).collect();
        row.resize(self.heading.len(), String::new());
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first column to the left, the others to the right.
    pub(super) fn write(&self, into: &mut String) {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.heading]).map(|row| &row[column]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(4)
        };
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        let line = |into: &mut String, row: &[String]| {
            for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let _ = match i {
                    0 => write!(into, "| {cell:width$} "),
                    _ => write!(into, "| {cell:>width$} "),
                };
            }
            into.push_str("|\n");
        };
        line(into, &self.heading);
        for (i, &width) in widths.iter().enumerate() {
            let _ = match i {
                0 => write!(into, "| {} ", "-".repeat(width)),
                _ => write!(into, "| {}: ", "-".repeat(width - 1)),
            };
        }
        into.push_str("|\n");
        self.rows.iter().for_each(|row| line(into, row));
        into.push('\n');
    }
}

/// A bar would end the cell, a line break the row.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
