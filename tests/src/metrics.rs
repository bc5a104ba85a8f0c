//! The Prometheus text format, as far as the tests look into it.

use std::collections::BTreeMap;

/// Samples of one scrape: name with its labels in the order of the page, and value.
#[derive(Debug)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads a page.
    ///
    /// # Panics
    /// If a line is neither a comment nor a sample: a scraper would refuse the page too.
    #[must_use]
    pub fn parse(page: &str) -> Metrics {
        let mut samples = BTreeMap::new();
        for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
            let value = value.parse().unwrap_or_else(|e| panic!("not a number in {line:?}: {e}"));
            let earlier = samples.insert(key.to_owned(), value);
            assert!(earlier.is_none(), "the same sample twice: {line:?}");
        }
        Metrics { samples }
    }

    /// The one sample of that name whose labels include all of `labels`.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[must_use]
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |key: &str| {
            let (found, rest) = key.split_once('{').unwrap_or((key, ""));
            found == name && labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<_> = self.samples.iter().filter(|(key, _)| fits(key)).collect();
        assert_eq!(found.len(), 1, "{name} with {labels:?}: {found:?}\nall: {:#?}", self.samples);
        *found[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_name_and_labels() {
        let page = "# HELP x y\nhw_a{stream=\"s\",uplink=\"h\"} 3\nhw_a{stream=\"t\",uplink=\"h\"} 4\nhw_b 1.5\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.value("hw_a", &[("stream", "t")]).to_bits(), 4f64.to_bits());
        assert_eq!(metrics.value("hw_b", &[]).to_bits(), 1.5f64.to_bits());
    }
}
