//! Host names and the /etc/hosts file of pods. Pure.

use crate::pod;
use k8s_openapi::api::core::v1::Pod;

/// The pod's host name and, if it has one, its domain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod::spec(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.to_string(), String::new());
    }
    let mut name = spec.hostname.as_deref().filter(|n| !n.is_empty()).unwrap_or_else(|| pod::name(pod)).to_string();
    if name.len() > 63 {
        name.truncate(63);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    (name, domain)
}

/// The host name to set in the sandbox: none where the host's network is used.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    if pod::host_network(pod) && pod::spec(pod).hostname_override.is_none() {
        return Ok(String::new());
    }
    let (name, domain) = hostname(pod, cluster_domain);
    if pod::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        let full = format!("{name}.{domain}");
        if full.len() > 64 {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
                full.len()
            ));
        }
        return Ok(full);
    }
    Ok(name)
}

/// The text of a pod's hosts file.
pub fn file(pod: &Pod, ips: &[String], cluster_domain: &str, host_file: &str) -> String {
    let mut text = if pod::host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (name, domain) = hostname(pod, cluster_domain);
        for ip in ips {
            if domain.is_empty() {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
            }
        }
        text
    };
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subdomain_gives_a_full_name() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [], "hostname": "h", "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]},
        }))
        .unwrap();
        let text = file(&pod, &["10.0.0.2".into()], "cluster.local", "");
        assert!(text.contains("\n10.0.0.2\th.sub.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        assert_eq!(sandbox_hostname(&pod, "cluster.local").unwrap(), "h");
    }
}
