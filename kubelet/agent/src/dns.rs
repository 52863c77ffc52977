//! The resolver configuration of a pod. Pure but for the host's file, whose text is passed in.

use crate::{Config, pod};
use k8s_openapi::api::core::v1::Pod;
use skeg_cri::v1::DnsConfig;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Reads resolv.conf.
fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_string)),
            Some("search") => {
                dns.searches = words.filter(|w| *w != ".").map(|w| w.trim_end_matches('.').to_string()).collect()
            }
            Some("options") => dns.options = words.map(str::to_string).collect(),
            _ => {}
        }
    }
    dns
}

/// The pod's resolver configuration, and whether its cluster policy could not be had because no cluster DNS is known.
pub fn of_pod(config: &Config, pod: &Pod, host_text: &str) -> (DnsConfig, bool) {
    let host = parse(host_text);
    let spec = pod::spec(pod);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if pod::host_network(pod) => "Default",
        policy => policy,
    };
    let mut missing = false;
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" | "ClusterFirstWithHostNet" if !config.cluster_dns.is_empty() => {
            let domain = &config.cluster_domain;
            let namespace = pod::namespace(pod);
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches);
            let mut options = vec!["ndots:5".to_string()];
            options.extend(host.options.into_iter().filter(|o| !o.starts_with("ndots:")));
            DnsConfig { servers: config.cluster_dns.iter().map(ToString::to_string).collect(), searches, options }
        }
        "Default" => host,
        _ => {
            missing = true;
            host
        }
    };
    if let Some(own) = &spec.dns_config {
        let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut dns.servers, &own.nameservers);
        add(&mut dns.searches, &own.searches);
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            dns.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    let mut seen = Vec::new();
    dns.searches.retain(|s| {
        !seen.contains(s) && {
            seen.push(s.clone());
            true
        }
    });
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    (dns, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value) -> String {
        let mut config = Config::new("n", "/d");
        config.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"namespace": "ns"}, "spec": spec})).unwrap();
        let (dns, _) =
            of_pod(&config, &pod, "# x\nnameserver 192.0.2.53\nsearch example.org .\noptions ndots:1 edns0\n");
        format!("{} | {} | {}", dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" "))
    }

    #[test]
    fn each_policy_has_its_servers() {
        let cluster = "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5 edns0";
        let host = "192.0.2.53 | example.org | ndots:1 edns0";
        for (spec, expected) in [
            (serde_json::json!({}), cluster),
            (serde_json::json!({"hostNetwork": true}), host),
            (serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster),
            (serde_json::json!({"dnsPolicy": "Default"}), host),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "1.1.1.1 | a | ndots:2 edns0",
            ),
        ] {
            assert_eq!(check(spec), expected);
        }
    }
}
