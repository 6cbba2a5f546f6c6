//! Tables as people read them, on the terminal and in documents; benchmarks share it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A table with its head.
pub struct Table {
    pub title: String,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// In columns; the first to the left, numbers to the right.
    pub fn text(&self) -> String {
        let all: Vec<Vec<&str>> = std::iter::once(self.head.clone())
            .chain(self.rows.iter().map(|row| row.iter().map(String::as_str).collect()))
            .collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = format!("\n{}\n", self.title);
        for row in all {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => text.push_str(&format!("{cell:<width$}")),
                    _ => text.push_str(&format!("  {cell:>width$}")),
                }
            }
            text.push('\n');
        }
        text
    }

    /// As documents have it.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.head.iter().map(ToString::to_string).collect();
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("**{}**\n\n{}{rule}{rows}\n", self.title, line(&head))
    }
}

/// With a comma between thousands.
pub fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let place = |index: usize| (index > 0 && (digits.len() - index).is_multiple_of(3)).then_some(',');
    digits.chars().enumerate().flat_map(|(index, digit)| place(index).into_iter().chain([digit])).collect()
}

/// The day, as documents write it.
pub fn today() -> String {
    let output = Command::new("date").args(["-u", "+%-d %B %Y"]).env("LC_ALL", "C").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Replaces what stands between the marks of its writer in a document.
pub fn write_into(document: &Path, writer: &str, text: &str) {
    let (begin, end) = (format!("<!-- written by {writer} -->"), "<!-- end of what it writes -->");
    let old = fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    let after = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let Some((before, after)) = after else { panic!("{} lacks {begin} or {end}", document.display()) };
    fs::write(document, format!("{before}{begin}\n\n{text}{end}{after}")).unwrap();
}
