//! Metrics as text (Prometheus exposition format 0.0.4). Pure.

use std::fmt::Write;

/// A text that grows family by family.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: its name, type and help.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family begun last; `at` is in milliseconds.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let list: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
            let _ = write!(self.0, "{{{}}}", list.join(","));
        }
        let _ = match at {
            Some(at) => writeln!(self.0, " {value} {at}"),
            None => writeln!(self.0, " {value}"),
        };
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: f64, at: Option<i64>) {
        self.family(name, kind, help);
        self.sample(name, &[], value, at);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_scrapers_read_them() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Of a.");
        text.sample("a_total", &[("pod", "p\"x"), ("n", "1")], 1.5, Some(1000));
        text.single("b", "gauge", "Of b.", 2.0, None);
        let wanted = "# HELP a_total Of a.\n# TYPE a_total counter\na_total{pod=\"p\\\"x\",n=\"1\"} 1.5 1000\n\
                      # HELP b Of b.\n# TYPE b gauge\nb 2\n";
        assert_eq!(text.finish(), wanted);
    }
}
