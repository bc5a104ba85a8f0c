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

    /// How many runs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
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
            [one] => plot::grouped(*one, digits),
            [min, .., max] => {
                let [median, min, max] = [median, *min, *max].map(|value| plot::grouped(value, digits));
                format!("{median} ({min}-{max})")
            }
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

    /// The middle of the runs; `None` of words.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        match self {
            Cell::Text(_) => None,
            Cell::Figure(runs, _) => Some(runs.median()),
        }
    }

    /// The middle of the runs, without their range.
    #[must_use]
    pub fn shown_middle(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Figure(runs, digits) => plot::grouped(runs.median(), *digits),
        }
    }

    /// As tables show it.
    #[must_use]
    pub fn shown(&self) -> String {
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
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
    plots: Vec<String>,
    failures: Vec<String>,
}

impl Section {
    /// An empty table. `note` says what was done: load, settings, units that the columns do not name.
    #[must_use]
    pub fn new(title: &str, note: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            note: note.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
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
        text += &line(self.columns.clone());
        text += &format!("|{}\n", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            text += &line(row.iter().map(|cell| cell.shown().replace('|', "\\|")).collect());
        }
        text
    }

    fn html(&self) -> String {
        let (id, title, note) = (plot::file_name(&self.title), escape(&self.title), escape(&self.note));
        let mut html = format!("<h2 id=\"{id}\">{title}</h2>\n<p>{note}</p>\n");
        html += "<div class=\"wide\"><table><tr>";
        for (number, column) in self.columns.iter().enumerate() {
            let figures = self.rows.iter().any(|row| matches!(row[number], Cell::Figure(..)));
            let class = if figures { " class=\"heading\"" } else { "" };
            put(&mut html, format_args!("<th{class}>{}</th>", escape(column)));
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
        json!({
            "title": self.title, "note": self.note, "columns": self.columns, "digits": self.digits(), "rows": rows,
            "plots": self.plots, "failures": self.failures,
        })
    }

    /// Digits behind the point in each column, 0 where there is no figure.
    fn digits(&self) -> Vec<usize> {
        let of = |column: usize| {
            self.rows.iter().find_map(|row| match row[column] {
                Cell::Figure(_, digits) => Some(digits),
                Cell::Text(_) => None,
            })
        };
        (0..self.columns.len()).map(|column| of(column).unwrap_or(0)).collect()
    }

    /// The section that [`Section::json`] wrote; `None` if it is something else.
    fn from_json(value: &Value) -> Option<Self> {
        let texts = |name: &str| -> Option<Vec<String>> {
            value[name].as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let columns = texts("columns")?;
        let digits: Vec<usize> = value["digits"]
            .as_array()?
            .iter()
            .map(|digits| usize::try_from(digits.as_u64()?).ok())
            .collect::<Option<_>>()?;
        let cell = |(cell, digits): (&Value, &usize)| match cell {
            Value::String(text) => Some(Cell::text(text)),
            Value::Array(runs) => {
                Some(Cell::Figure(Runs(runs.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()), *digits))
            }
            _ => None,
        };
        let row = |row: &Value| -> Option<Vec<Cell>> {
            let cells = row.as_array()?;
            (cells.len() == columns.len()).then(|| cells.iter().zip(&digits).map(cell).collect())?
        };
        Some(Self {
            title: value["title"].as_str()?.to_owned(),
            note: value["note"].as_str()?.to_owned(),
            rows: value["rows"].as_array()?.iter().map(row).collect::<Option<_>>()?,
            plots: texts("plots")?,
            failures: texts("failures")?,
            columns,
        })
    }

    /// What it is about.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Its drawings.
    #[must_use]
    pub fn plots(&self) -> &[String] {
        &self.plots
    }

    /// The figure of `column` in the row of `broker` whose variant, if it has one, is `variant`.
    #[must_use]
    pub fn figure(&self, broker: &str, variant: &str, column: &str) -> Option<&Cell> {
        let at = self.columns.iter().position(|name| name == column)?;
        let is_it = |row: &&Vec<Cell>| {
            let is = |cell: &Cell, wanted: &str| matches!(cell, Cell::Text(text) if text == wanted);
            is(&row[0], broker) && (variant.is_empty() || row.iter().any(|cell| is(cell, variant)))
        };
        self.rows.iter().find(is_it)?.get(at).filter(|cell| matches!(cell, Cell::Figure(..)))
    }

    /// The words of `column` in the first row of `broker`.
    #[must_use]
    pub fn words(&self, broker: &str, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name == column)?;
        let row = self.rows.iter().find(|row| matches!(&row[0], Cell::Text(text) if text == broker))?;
        if let Cell::Text(text) = &row[at] { Some(text) } else { None }
    }

    /// The different words of the third column, where that has words: sizes of the work.
    #[must_use]
    pub fn variants(&self) -> Vec<String> {
        let mut variants: Vec<String> = Vec::new();
        for row in &self.rows {
            // A table without variants has figures there, and in their place the reason why there are none.
            if let Some(Cell::Text(text)) = row.get(2)
                && !variants.contains(text)
                && !text.starts_with("failed: ")
            {
                variants.push(text.clone());
            }
        }
        variants
    }

    /// The first cell of each row.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.rows.iter().map(|row| row[0].shown())
    }
}

/// All sections of a run and where they were measured.
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    sections: Vec<Section>,
    failures: Vec<String>,
    /// Stands behind all others.
    closing: Option<Section>,
}

impl Report {
    /// An empty report. `facts` are the machine, the versions, the settings: name and value.
    #[must_use]
    pub fn new(title: &str, facts: Vec<(String, String)>) -> Self {
        Self { title: title.to_owned(), facts, sections: Vec::new(), failures: Vec::new(), closing: None }
    }

    /// Adds what a scenario found and prints it at once, so that a long run can be followed.
    #[expect(clippy::print_stdout)] // the report is this program's output
    pub fn add(&mut self, section: Section) {
        println!("{}", section.markdown());
        self.put(section);
    }

    /// Adds a section, in the place of an older one of that title.
    fn put(&mut self, section: Section) {
        match self.sections.iter_mut().find(|old| old.title == section.title) {
            Some(old) => *old = section,
            None => self.sections.push(section),
        }
    }

    /// What stands behind all others, until it is said anew.
    pub fn close(&mut self, section: Section) {
        self.closing = Some(section);
    }

    /// Takes over the sections of an earlier report; those added later replace theirs.
    pub fn keep(&mut self, earlier: Self) {
        earlier.sections.into_iter().for_each(|section| self.put(section));
    }

    /// Facts about the machine, the programs and the run: name and value.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value.as_str())
    }

    /// The section of that title.
    #[must_use]
    pub fn section(&self, title: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.title == title)
    }

    fn all(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().chain(&self.closing)
    }

    /// Notes that something could not be measured at all.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// What could not be measured, and why.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures.iter().chain(self.all().flat_map(|section| &section.failures)).cloned().collect()
    }

    /// The whole report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        for (name, value) in &self.facts {
            put(&mut text, format_args!("- {name}: {value}\n"));
        }
        for section in self.all() {
            put(&mut text, format_args!("\n{}", section.markdown()));
        }
        text
    }

    /// The whole report as one page that needs no other file and no network.
    #[must_use]
    pub fn html(&self) -> String {
        const PAGE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:78rem;margin:2rem auto;padding:0 1rem;\
            color:#1b1f23;background:#fff}\
            table{border-collapse:collapse}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884;\
            vertical-align:top;font-size:13px}th{vertical-align:bottom}td:first-child{white-space:nowrap;font-weight:600}\
            .heading{text-align:right}.figure{font-variant-numeric:tabular-nums;white-space:nowrap;text-align:right}.wide{overflow-x:auto}\
            p{max-width:60rem}figure{margin:1.5rem 0}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:13px}\
            dt{font-weight:600}dd{margin:0}nav a{color:inherit;margin-right:1rem;display:inline-block}h2{margin-top:2.5rem}\
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
        html += "</dl>\n<nav>";
        for section in self.all() {
            put(
                &mut html,
                format_args!("<a href=\"#{}\">{}</a>\n", plot::file_name(&section.title), escape(&section.title)),
            );
        }
        html += "</nav>\n";
        for section in self.all() {
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
        let closing = self.closing.as_ref().map(Section::json);
        json!({
            "title": self.title, "facts": facts, "sections": sections, "closing": closing, "failures": self.failures(),
        })
    }

    /// Reads what [`Report::json`] wrote.
    ///
    /// # Errors
    /// When it is something else; the text names what is wrong.
    pub fn from_json(text: &str) -> io::Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(io::Error::other)?;
        let missing = || io::Error::other("no report of this program: title, facts or sections are missing");
        let sections = value["sections"].as_array().ok_or_else(missing)?;
        let facts = value["facts"].as_object().ok_or_else(missing)?;
        Ok(Self {
            title: value["title"].as_str().ok_or_else(missing)?.to_owned(),
            facts: facts.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned())).collect(),
            sections: sections.iter().map(Section::from_json).collect::<Option<_>>().ok_or_else(missing)?,
            failures: Vec::new(),
            closing: Section::from_json(&value["closing"]),
        })
    }

    /// Writes `report.html`, `report.md`, `report.json` and a file for each drawing (`ingest.svg`, a second one `ingest-2.svg`) into
    /// `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        replace(&folder.join("report.html"), &self.html())?;
        replace(&folder.join("report.md"), &self.markdown())?;
        for section in &self.sections {
            for (number, svg) in (1..).zip(&section.plots) {
                replace(&folder.join(plot::numbered(&section.title, number)), &plot::standalone(svg))?;
            }
        }
        replace(&folder.join("report.json"), &format!("{:#}\n", self.json()))
    }
}

/// Writes beside it and renames: who interrupts a run keeps the report as it was.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, file)
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
        let html = html.replace("href=\"#", "");
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside} in {html}");
        }
    }
}
