//! The report of a run: the same sections as one self-contained HTML page, as Markdown and as JSON with every single value.
//!
//! A figure is given as its median with the range of the runs. Nothing here judges a figure.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::plot::{self, escape};

/// Values of one figure over the runs, in the order of the runs.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<f64>);

impl Runs {
    /// Adds the value of one run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The middle value; the upper one of two.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn median(&self) -> f64 {
        assert!(!self.0.is_empty(), "a figure needs at least one run");
        self.sorted()[self.0.len() / 2]
    }

    /// `median (min-max)` with `digits` behind the point; only the value where there was one run.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn text(&self, digits: usize) -> String {
        let (median, sorted) = (self.median(), self.sorted());
        match sorted.as_slice() {
            [one] => format!("{one:.digits$}"),
            [min, .., max] => format!("{median:.digits$} ({min:.digits$}-{max:.digits$})"),
            [] => unreachable!("the median has asked for a value"),
        }
    }

    /// As a bar of a plot.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn bar(&self, label: &str) -> plot::Bar {
        let (median, sorted) = (self.median(), self.sorted());
        plot::Bar { label: label.to_owned(), median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

/// One field of a table.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words: a broker, a promise, a state.
    Text(String),
    /// A figure and how many digits are shown behind the point.
    Figure(Runs, usize),
}

impl Cell {
    /// Words.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A figure that was measured once.
    #[must_use]
    pub fn once(value: f64, digits: usize) -> Self {
        Self::Figure(Runs(vec![value]), digits)
    }

    fn shown(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Figure(runs, digits) => runs.text(*digits),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Figure(runs, _) => json!(runs.0),
        }
    }
}

/// What one scenario found: a table, the drawings to it, and the words without which it would be misread.
#[derive(Clone, Debug)]
pub struct Section {
    title: String,
    note: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    plots: Vec<String>,
    failures: Vec<String>,
}

impl Section {
    /// An empty table. `note` says what was done: load, settings, units that the columns do not name.
    #[must_use]
    pub fn new(title: &str, note: &str, columns: &[&'static str]) -> Self {
        Self {
            title: title.to_owned(),
            note: note.to_owned(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            plots: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Notes that `who` has no figures, and why. The row says it too.
    pub fn failed(&mut self, who: &str, why: &str) {
        self.failures.push(format!("{}: {who}: {why}", self.title));
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has not as many cells as the table has columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a row of {:?} fills its columns", self.title);
        self.rows.push(cells);
    }

    /// Adds a drawing, from [`plot`].
    pub fn plot(&mut self, svg: String) {
        self.plots.push(svg);
    }

    /// As a Markdown section of the second level.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.note);
        text += &line(self.columns.iter().map(|&column| column.to_owned()).collect());
        text += &format!("|{}\n", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            text += &line(row.iter().map(|cell| cell.shown().replace('|', "\\|")).collect());
        }
        text
    }

    fn html(&self) -> String {
        let mut html = format!("<h2>{}</h2>\n<p>{}</p>\n", escape(&self.title), escape(&self.note));
        html += "<div class=\"wide\"><table><tr>";
        for column in &self.columns {
            put(&mut html, format_args!("<th>{}</th>", escape(column)));
        }
        html += "</tr>\n";
        for row in &self.rows {
            html += "<tr>";
            for cell in row {
                let class = if matches!(cell, Cell::Figure(..)) { " class=\"figure\"" } else { "" };
                put(&mut html, format_args!("<td{class}>{}</td>", escape(&cell.shown())));
            }
            html += "</tr>\n";
        }
        html += "</table></div>\n";
        for plot in &self.plots {
            put(&mut html, format_args!("<figure>{plot}</figure>\n"));
        }
        html
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| row.iter().map(Cell::json).collect()).collect();
        json!({ "title": self.title, "note": self.note, "columns": self.columns, "rows": rows })
    }
}

/// All sections of a run and where they were measured.
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    sections: Vec<Section>,
    failures: Vec<String>,
}

impl Report {
    /// An empty report. `facts` are the machine, the versions, the settings: name and value.
    #[must_use]
    pub fn new(title: &str, facts: Vec<(String, String)>) -> Self {
        Self { title: title.to_owned(), facts, sections: Vec::new(), failures: Vec::new() }
    }

    /// Adds what a scenario found and prints it at once, so that a long run can be followed.
    #[expect(clippy::print_stdout)] // the report is this program's output
    pub fn add(&mut self, section: Section) {
        println!("{}", section.markdown());
        self.failures.extend_from_slice(&section.failures);
        self.sections.push(section);
    }

    /// Notes that something could not be measured at all.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// What could not be measured, and why.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The whole report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        for (name, value) in &self.facts {
            put(&mut text, format_args!("- {name}: {value}\n"));
        }
        for section in &self.sections {
            put(&mut text, format_args!("\n{}", section.markdown()));
        }
        text
    }

    /// The whole report as one page that needs no other file and no network.
    #[must_use]
    pub fn html(&self) -> String {
        const PAGE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
            color:#1b1f23;background:#fff}\
            table{border-collapse:collapse}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884;\
            vertical-align:top}.figure{font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}\
            figure{margin:1.5rem 0}dt{font-weight:600}dd{margin:0 0 .4rem}\
            @media(prefers-color-scheme:dark){body{color:#dfe3e8;background:#15181c}}";
        let title = escape(&self.title);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{PAGE}{}</style></head>\n<body>\
             <h1>{title}</h1>\n<dl>\n",
            plot::STYLE
        );
        for (name, value) in &self.facts {
            put(&mut html, format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
        }
        html += "</dl>\n";
        for section in &self.sections {
            html += &section.html();
        }
        html += "</body></html>\n";
        html
    }

    /// The whole report with every value of every run.
    #[must_use]
    pub fn json(&self) -> Value {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let sections: Vec<Value> = self.sections.iter().map(Section::json).collect();
        json!({ "title": self.title, "facts": facts, "sections": sections, "failures": self.failures })
    }

    /// Writes `report.html`, `report.md`, `report.json` and a file for each drawing (`ingest.svg`, a second one `ingest-2.svg`) into
    /// `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.html"), self.html())?;
        std::fs::write(folder.join("report.md"), self.markdown())?;
        for section in &self.sections {
            for (number, svg) in (1..).zip(&section.plots) {
                let number = if number == 1 { String::new() } else { format!("-{number}") };
                let name = format!("{}{number}.svg", plot::file_name(&section.title));
                std::fs::write(folder.join(name), plot::standalone(svg))?;
            }
        }
        std::fs::write(folder.join("report.json"), format!("{:#}\n", self.json()))
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut section = Section::new("A < B", "how", &["broker", "msgs/s"]);
        let runs = Runs(vec![3.0, 1.0, 2.0]);
        section.plot(plot::bars("rate", "msgs/s", &[runs.bar("one")]));
        section.row(vec![Cell::text("one"), Cell::Figure(runs, 0)]);
        let mut report = Report::new("t", vec![("kernel".to_owned(), "6 & more".to_owned())]);
        report.add(section);
        report
    }

    #[test]
    fn a_figure_is_its_median_and_its_range_and_json_keeps_every_run() {
        let report = report();
        assert!(report.markdown().contains("| one | 2 (1-3) |"), "{}", report.markdown());
        assert_eq!(report.json()["sections"][0]["rows"][0][1], json!([3.0, 1.0, 2.0]));
        assert_eq!(Runs(vec![4.25]).text(1), "4.2");
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let html = report().html();
        assert!(html.contains("<svg") && html.contains("A &lt; B") && html.contains("6 &amp; more"), "{html}");
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside} in {html}");
        }
    }
}
