//! Numbers to the text format of Prometheus, through the `prometheus` crate's model of it.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use super::shard::HistogramTotal;

/// Metric families on their way to a scraper.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: Vec<MetricFamily>,
}

impl Exposition {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, &[], [(Vec::new(), value)]);
    }

    /// One counter for each set of label values.
    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, u64)>,
    ) {
        let metrics = values.into_iter().map(|(texts, value)| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            let mut metric = Metric::from_label(pairs(labels, texts));
            metric.set_counter(counter);
            metric
        });
        self.family(name, help, MetricType::COUNTER, metrics.collect());
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauge_series(name, help, &[], [(Vec::new(), value)]);
    }

    /// One gauge for each set of label values.
    pub(super) fn gauge_series(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) {
        let metrics = values.into_iter().map(|(texts, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(pairs(labels, texts));
            metric.set_gauge(gauge);
            metric
        });
        self.family(name, help, MetricType::GAUGE, metrics.collect());
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, total: &HistogramTotal) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(total.count);
        histogram.set_sample_sum(total.seconds);
        let buckets = total.cumulative.iter().map(|&(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.family(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    /// Families that a collector of the `prometheus` crate made.
    pub(super) fn families(&mut self, families: Vec<MetricFamily>) {
        self.families.extend(families);
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.families, &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.families.push(family);
    }
}

fn pairs(labels: &[&str], texts: Vec<String>) -> Vec<LabelPair> {
    let pairs = labels.iter().zip(texts);
    pairs.map(|(name, text)| pair(name, text)).collect()
}

fn pair(name: &str, text: String) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(text);
    pair
}
