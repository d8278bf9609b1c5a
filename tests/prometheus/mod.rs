//! Figures as Prometheus's own reader of OpenMetrics sees them, which refuses what is not quite right.

use crate::tool::InTime;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const READER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
def label(sample):
    return sample.name + ''.join('/%s=%s' % pair for pair in sorted(sample.labels.items()))
samples = [(label(s), s.value) for family in read(sys.stdin.read()) for s in family.samples]
assert len(samples) == len(dict(samples)), 'a sample came twice'
json.dump(dict(samples), sys.stdout)
";

/// Every sample by its name and labels, `name/label=value`.
pub fn read(text: &str) -> BTreeMap<String, f64> {
    // The distribution's own has the distribution's packages.
    let own = Path::new("/usr/bin/python3");
    let mut python = Command::new(if own.exists() { own } else { Path::new("python3") });
    python.args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("scripts/setup installs python3-prometheus-client");
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.output_in_time().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
