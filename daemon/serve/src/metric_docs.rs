//! The metrics of `/metrics` with type, labels and help, read from what Prometheus would read.

use std::collections::BTreeMap;
use std::fmt;

use crate::metrics::Metrics;

/// A metric of `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrometheusMetric {
    /// As a query names it: counters end in `_total`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub help: String,
    pub labels: Vec<String>,
}

/// Returns all metrics in the order of `/metrics`.
pub fn prometheus_metrics() -> Result<Vec<PrometheusMetric>, fmt::Error> {
    let metrics = Metrics::default();
    metrics.fill_with_examples();
    Ok(parsed(&metrics.text()?))
}

fn parsed(text: &str) -> Vec<PrometheusMetric> {
    let mut found: Vec<PrometheusMetric> = Vec::new();
    let mut labels: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let help = help.trim_end_matches('.').to_owned();
            found.push(PrometheusMetric { name: name.into(), help, ..Default::default() });
        } else if let Some((_, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            if let Some(metric) = found.last_mut() {
                kind.clone_into(&mut metric.kind);
            }
        } else if let Some(metric) = found.last().filter(|_| !line.starts_with('#')) {
            let given = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            let names = given.map_or("", |(given, _)| given).split(',');
            let names = names.filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            let known = labels.entry(metric.name.clone()).or_default();
            for name in names.filter(|name| *name != "le") {
                if known.iter().all(|known| known != name) {
                    known.push(name.to_owned());
                }
            }
        }
    }
    for metric in &mut found {
        metric.labels = labels.remove(&metric.name).unwrap_or_default();
        if metric.kind == "counter" {
            metric.name += "_total";
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_metric_has_an_example_and_so_is_found() {
        let found = prometheus_metrics().unwrap();
        let registered = include_str!("metrics.rs").matches("all.register(").count();
        assert_eq!(found.len(), registered, "fill_with_examples misses one: {found:?}");
        let of = |name: &str| found.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(of("diptych_events_total").labels, ["run", "kind"]);
        assert_eq!(of("diptych_step_seconds").kind, "histogram");
        assert!(found.iter().all(|metric| !metric.help.is_empty() && !metric.kind.is_empty()));
    }
}
