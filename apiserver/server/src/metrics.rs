//! Counters of requests, and /metrics in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// Upper bounds of the duration histogram, in seconds (upstream's).
const BOUNDS: [f64; 14] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 5.0, 60.0];

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Default)]
struct Series {
    by_code: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len()],
    seconds: f64,
    count: u64,
}

impl Metrics {
    pub fn request(&self, verb: &str, group: &str, resource: &str, code: u16, took: Duration) {
        let labels = Labels { verb: verb.to_ascii_uppercase(), group: group.into(), resource: resource.into() };
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let series = match code {
            // Whatever paths clients make up, one series counts them.
            404 if !requests.contains_key(&labels) => {
                requests.entry(Labels { verb: labels.verb, group: String::new(), resource: String::new() }).or_default()
            }
            _ => requests.entry(labels).or_default(),
        };
        *series.by_code.entry(code).or_default() += 1;
        if series_is_timed(verb) {
            let seconds = took.as_secs_f64();
            series.seconds += seconds;
            series.count += 1;
            for (bucket, bound) in series.buckets.iter_mut().zip(BOUNDS) {
                if seconds <= bound {
                    *bucket += 1;
                }
            }
        }
    }

    pub fn render(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut out = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, resource and \
             HTTP response code.\n# TYPE apiserver_request_total counter\n",
        );
        let labels = |l: &Labels| {
            format!("group=\"{}\",resource=\"{}\",verb=\"{}\"", escape(&l.group), escape(&l.resource), escape(&l.verb))
        };
        for (l, series) in requests.iter() {
            for (code, count) in &series.by_code {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", labels(l));
            }
        }
        out.push_str(
            "# HELP apiserver_request_duration_seconds Response latency distribution in seconds for each verb, group and \
             resource.\n# TYPE apiserver_request_duration_seconds histogram\n",
        );
        let name = "apiserver_request_duration_seconds";
        for (l, series) in requests.iter().filter(|(_, series)| series.count > 0) {
            for (bucket, bound) in series.buckets.iter().zip(BOUNDS) {
                let _ = writeln!(out, "{name}_bucket{{{},le=\"{bound}\"}} {bucket}", labels(l));
            }
            let _ = writeln!(out, "{name}_bucket{{{},le=\"+Inf\"}} {}", labels(l), series.count);
            let _ = writeln!(out, "{name}_sum{{{}}} {}", labels(l), series.seconds);
            let _ = writeln!(out, "{name}_count{{{}}} {}", labels(l), series.count);
        }
        out
    }
}

/// A watch answers at once and then goes on: its time says nothing.
fn series_is_timed(verb: &str) -> bool {
    verb != "watch"
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_code_and_time() {
        let metrics = Metrics::default();
        metrics.request("get", "", "pods", 200, Duration::from_millis(10));
        metrics.request("get", "", "pods", 200, Duration::from_millis(30));
        metrics.request("get", "x", "madeup", 404, Duration::from_millis(1));
        let text = metrics.render();
        assert!(text.contains("apiserver_request_total{code=\"200\",group=\"\",resource=\"pods\",verb=\"GET\"} 2\n"));
        assert!(text.contains("le=\"0.025\"} 1\n"), "{text}");
        assert!(!text.contains("madeup"));
    }
}
