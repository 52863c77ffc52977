//! A small report and print-out of ginkgo, as the unit tests of this folder read them.

use super::specs::{SpecReport, Suite};

pub const PASSED: &str = "[sig-apps] Job with successPolicy should succeed [Conformance]";
pub const FAILED: &str = "[sig-network] Services should have (session) affinity [LinuxOnly] [Conformance]";
pub const SKIPPED: &str = "[sig-node] Sysctls should be kept out [Conformance]";
pub const SLOW: &str = "[sig-node] Timeouts should end [Slow] [Conformance]";

pub const PRINTED: &str = "\
------------------------------
[ReportBeforeSuite] PASSED [0.000 seconds]
[ReportBeforeSuite]
• [4.182 seconds]
[sig-apps] Job with successPolicy should succeed [Conformance] [sig-apps, Conformance]
k8s.io/kubernetes@v1.36.3/test/e2e/apps/job.go:488
SSSSSSSS
• [FAILED] [0.016 seconds]
[sig-network] Services [It] should have (session) affinity [LinuxOnly] [Conformance] [sig-network, Conformance]
S [SKIPPED] [0.250 seconds]
[sig-node] Sysctls [It] should be kept out [Conformance] [sig-node, Conformance]
• [1.000 seconds]
[sig-node] Not of the scope at all
";

const REPORT: &str = r#"[{"SuitePath": "/x", "SpecReports": [
 {"ContainerHierarchyTexts": null, "LeafNodeType": "ReportBeforeSuite", "LeafNodeText": "", "State": "passed"},
 {"ContainerHierarchyTexts": ["[sig-node] Timeouts"], "LeafNodeType": "It", "LeafNodeText": "should end [Slow] [Conformance]",
  "State": "timedout", "RunTime": 300000000000, "Failure": {"Message": "A spec timeout occurred"}},
 {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It",
  "LeafNodeText": "should have (session) affinity [LinuxOnly] [Conformance]", "State": "failed", "RunTime": 16000000,
  "Failure": {"Message": "expected\n    true | to be false"}},
 {"ContainerHierarchyTexts": ["[sig-apps] Job", "with successPolicy"], "LeafNodeType": "It",
  "LeafNodeText": "should succeed [Conformance]", "State": "passed", "RunTime": 4182000000},
 {"ContainerHierarchyTexts": ["[sig-node] Sysctls"], "LeafNodeType": "It", "LeafNodeText": "should be kept out [Conformance]",
  "State": "skipped", "RunTime": 0, "Failure": {"Message": "Only supported for providers [gce]"}},
 {"ContainerHierarchyTexts": ["[sig-node] Something"], "LeafNodeType": "It", "LeafNodeText": "else [Slow]", "State": "skipped"}
]}]"#;

pub fn report() -> Vec<SpecReport> {
    let suites: Vec<Suite> = serde_json::from_str(REPORT).expect("the sample is a report");
    suites.into_iter().flat_map(|suite| suite.spec_reports).collect()
}
