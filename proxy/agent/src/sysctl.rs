//! The kernel switches that forwarding between pods and services needs, in this network namespace.

use crate::Config;

/// Sets what is not set yet; what cannot be set is reported and left to the host.
pub fn prepare(config: &Config) {
    let ipv6 = config.cluster_cidr.iter().any(|net| net.addr().is_ipv6());
    if config.enable_proxy || config.enable_network {
        set("net/ipv4/ip_forward", "1");
        if ipv6 {
            set("net/ipv6/conf/all/forwarding", "1");
        }
        // Packets between pods of one bridge must pass the rules, or answers would keep the endpoint's address.
        if !std::path::Path::new("/proc/sys/net/bridge").exists() {
            let _ = std::process::Command::new("modprobe").arg("br_netfilter").output();
        }
        set("net/bridge/bridge-nf-call-iptables", "1");
        if ipv6 {
            set("net/bridge/bridge-nf-call-ip6tables", "1");
        }
    }
}

fn set(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return;
    }
    if let Err(error) = std::fs::write(&path, value) {
        tracing::warn!(%error, sysctl = name, value, "cannot set; pods may not reach services");
    }
}
