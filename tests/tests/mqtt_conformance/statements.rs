//! The tables in `normative/`: every statement of appendix B of both specifications, with the tests that hold the broker
//! to it or the reason why there is none.
//!
//! A line is `ID | the statement in our words | TESTS`, where `TESTS` are `file::test`, or `file::test[case]` for one case
//! of a table in that file; or `not: REASON`. Files are named without `.rs` and from where [`path`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const V3: &str = include_str!("normative/v3.txt");
const V5: &str = include_str!("normative/v5.txt");

/// How many statements each chapter has in appendix B.
const OF_V3: &[(&str, usize)] = &[("1", 3), ("2", 9), ("3", 95), ("4", 26), ("6", 4), ("7", 4)];
const OF_V5: &[(&str, usize)] = &[("1", 5), ("2", 7), ("3", 175), ("4", 60), ("6", 4)];

struct Row {
    id: &'static str,
    words: &'static str,
    holds: Result<Vec<&'static str>, &'static str>,
}

fn rows(table: &'static str) -> Vec<Row> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split(" | ");
            let (Some(id), Some(words), Some(holds), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                panic!("not three fields: {line}");
            };
            let holds = holds.strip_prefix("not: ").map_or_else(|| Ok(tests(holds)), Err);
            Row { id, words, holds }
        })
        .collect()
}

/// The tests of a row. The name of a case may have spaces.
fn tests(mut field: &'static str) -> Vec<&'static str> {
    let mut tests = Vec::new();
    while !field.is_empty() {
        let end = match (field.find(' '), field.find('[')) {
            (Some(space), Some(bracket)) if bracket < space => field.find(']').expect("a case ends") + 1,
            (Some(space), _) => space,
            (None, _) => field.len(),
        };
        let (test, rest) = field.split_at(end);
        tests.push(test);
        field = rest.trim_start();
    }
    tests
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// Where a file of the tables lies in the repository.
fn path(file: &str) -> PathBuf {
    let (folder, rest) = file.split_once('/').unwrap_or_else(|| panic!("{file} does not say where it lies"));
    let folder = match folder {
        "conformance" => "tests/tests/mqtt_conformance",
        "tests" => "tests/tests",
        "wire" => "broker/tests/wire",
        "src" => "broker/src",
        _ => panic!("no such place: {file}"),
    };
    root().join(folder).join(format!("{rest}.rs"))
}

/// Whether `source` has a test of that name: the attribute says so, not only the name.
fn has_test(source: &str, name: &str) -> bool {
    let Some(at) = source.find(&format!("fn {name}(")) else { return false };
    let before = source[..at].trim_end().trim_end_matches("async").trim_end();
    before.ends_with("#[test]") || before.ends_with("#[tokio::test]")
}

#[test]
fn the_statements_are_those_of_the_specifications() {
    for (table, counts) in [(V3, OF_V3), (V5, OF_V5)] {
        let rows = rows(table);
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len(), "a statement is listed twice");
        let mut found = BTreeMap::new();
        let mut previous = (String::new(), 0);
        for row in &rows {
            // One of 3.1.1 has a misprint: `[MQTT-3-8.3-4]`.
            let id = if row.id == "MQTT-3-8.3-4" { "MQTT-3.8.3-4" } else { row.id };
            let number = id.strip_prefix("MQTT-").unwrap_or_else(|| panic!("no statement: {id}"));
            let (section, last) = number.split_once('-').unwrap_or_else(|| panic!("no statement: {}", row.id));
            let last: usize = last.parse().unwrap_or_else(|_| panic!("no statement: {}", row.id));
            let chapter = section.split('.').next().expect("has a first part").to_owned();
            *found.entry(chapter).or_insert(0) += 1;
            // Numbers follow each other within a section: a gap is a statement forgotten. Those of 2.2.1 begin with 2 in 5.0.
            let follows = previous == (section.to_owned(), last - 1);
            assert!(follows || last == 1 || row.id == "MQTT-2.2.1-2", "what is before {}?", row.id);
            previous = (section.to_owned(), last);
            assert!(row.words.len() > 10, "{} says nothing", row.id);
        }
        let counts: BTreeMap<String, usize> = counts.iter().map(|(chapter, n)| ((*chapter).to_owned(), *n)).collect();
        assert_eq!(found, counts);
    }
}

/// What is cited in the sources is a statement of either specification.
#[test]
fn statements_that_are_cited_exist() {
    let known: BTreeSet<&str> = rows(V3).iter().chain(&rows(V5)).map(|row| row.id).collect();
    let mut unknown = BTreeSet::new();
    let mut cited = 0;
    let mut folders = ["broker", "tests", "sync", "targets", "benches"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("the sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("statements.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for (at, _) in source.match_indices("MQTT-") {
                let number = source[at + 5..].split(|c: char| !c.is_ascii_digit() && !".-".contains(c)).next();
                let id = format!("MQTT-{}", number.unwrap_or_default().trim_end_matches(['.', '-']));
                // `[MQTT-{clause}]` of a message is none.
                if id != "MQTT-" {
                    cited += 1;
                    if !known.contains(id.as_str()) {
                        unknown.insert(format!("{id} in {}", path.display()));
                    }
                }
            }
        }
    }
    for file in ["conformance/malformed", "wire/normative"] {
        let source = std::fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (_, case) in source.match_indices("\n    (\"").map(|(at, start)| source[at..].split_at(start.len())) {
            let clause = case.split('"').next().unwrap_or_default().trim_start_matches("3.1.1: ");
            if clause.starts_with(|c: char| c.is_ascii_digit()) && !known.contains(format!("MQTT-{clause}").as_str()) {
                unknown.insert(format!("{clause} in {file}"));
            }
        }
    }
    assert!(cited > 200, "only {cited} were found");
    assert!(unknown.is_empty(), "no such statements: {unknown:#?}");
}

#[test]
fn every_statement_has_tests_that_exist_or_a_reason() {
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut missing = Vec::new();
    for row in rows(V3).iter().chain(&rows(V5)) {
        let tests = match &row.holds {
            Err(reason) => {
                assert!(reason.len() > 10, "{}: {reason}", row.id);
                continue;
            }
            Ok(tests) => tests,
        };
        assert!(!tests.is_empty(), "{} has neither tests nor a reason", row.id);
        for test in tests {
            let (file, rest) = test.split_once("::").unwrap_or_else(|| panic!("{}: no test: {test}", row.id));
            let (name, case) = match rest.split_once('[') {
                Some((name, case)) => (name, case.strip_suffix(']')),
                None => (rest, None),
            };
            let source = sources.entry(file).or_insert_with(|| {
                std::fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{}: {test}: {e}", row.id))
            });
            let has_case = case.is_none_or(|case| source.contains(&format!("(\"{case}\",")));
            if !has_test(source, name) || !has_case {
                missing.push(format!("{}: {test}", row.id));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}
