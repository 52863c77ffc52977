//! Lets pods' packets through a host firewall that forwards nothing by default, as Docker sets one up.
//!
//! An accept in a table of our own cannot overrule another table's drop, so the rules go into iptables' own FORWARD
//! chain, through its own program: it alone knows whether the host uses the old tables or the new.

use std::process::Command;

use crate::Config;

const COMMENT: &str = "skeg: pods are forwarded";

/// Adds the rules where the FORWARD chain's policy is DROP.
pub fn accept(config: &Config) {
    for (program, rules) in programs(config) {
        let policy = run(program, &["-S", "FORWARD"]).unwrap_or_default();
        if !policy.lines().any(|l| l == "-P FORWARD DROP") {
            continue;
        }
        for rule in rules {
            let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
            if run(program, &[&["-C", "FORWARD"], &rule[..]].concat()).is_none()
                && run(program, &[&["-I", "FORWARD"], &rule[..]].concat()).is_none()
            {
                tracing::warn!(program, "the host forwards nothing by default and pods could not be let through");
            }
        }
    }
}

/// Removes what `accept` added, whatever the configuration was then.
pub fn withdraw() {
    for program in ["iptables", "ip6tables"] {
        let listed = run(program, &["-S", "FORWARD"]).unwrap_or_default();
        for line in listed.lines().filter(|l| l.contains(COMMENT)) {
            if let Some([flag, net]) = line.split(' ').skip(2).collect::<Vec<_>>().first_chunk() {
                let rule = rule(flag, (*net).to_owned());
                run(program, &[&["-D", "FORWARD"], &rule.each_ref().map(String::as_str)[..]].concat());
            }
        }
    }
}

fn rule(flag: &str, net: String) -> [String; 8] {
    [flag, &net, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"].map(str::to_owned)
}

/// Each family's program, with the rules for its pods.
fn programs(config: &Config) -> Vec<(&'static str, Vec<[String; 8]>)> {
    let mut out = Vec::new();
    for (program, v6) in [("iptables", false), ("ip6tables", true)] {
        let nets = config.cluster_cidr.iter().filter(|n| n.addr().is_ipv6() == v6);
        let rules: Vec<_> = nets.flat_map(|n| ["-s", "-d"].map(|flag| rule(flag, n.trunc().to_string()))).collect();
        if !rules.is_empty() {
            out.push((program, rules));
        }
    }
    out
}

/// What the program printed; None when it failed or is not there.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).arg("-w").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
