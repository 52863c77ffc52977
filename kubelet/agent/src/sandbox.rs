//! The configuration of a pod's sandbox. Pure but for reading the host's resolver file.

use crate::agent::Agent;
use crate::{dns, hosts, labels, pod, resources, security};
use k8s_openapi::api::core::v1::Pod;
use skeg_cri::v1;

/// Makes the configuration; an error is for the pod's user.
pub fn config(agent: &Agent, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let config = &agent.config;
    let resolv = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let (dns_config, _) = dns::of_pod(config, pod, &resolv);
    let spec = pod::spec(pod);
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|c| c.sysctls.iter().flatten())
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    let totals = resources::totals(pod);
    let logs = config.pod_logs(pod::namespace(pod), pod::name(pod), pod::uid(pod));
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod::name(pod).into(),
            uid: pod::uid(pod).into(),
            namespace: pod::namespace(pod).into(),
            attempt,
        }),
        hostname: hosts::sandbox_hostname(pod, &config.cluster_domain)?,
        log_directory: logs.to_string_lossy().into_owned(),
        dns_config: Some(dns_config),
        port_mappings: port_mappings(pod),
        labels: labels::sandbox(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: agent.cgroups.as_ref().map(|c| c.pod_parent(pod)).unwrap_or_default(),
            security_context: Some(security::sandbox(pod, &config.seccomp_dir())?),
            sysctls,
            overhead: None,
            resources: Some(v1::LinuxContainerResources {
                cpu_period: resources::PERIOD,
                cpu_quota: totals.cpu_limit.map_or(0, resources::quota),
                cpu_shares: resources::shares(totals.cpu_request),
                memory_limit_in_bytes: totals.memory_limit.unwrap_or(0),
                ..Default::default()
            }),
        }),
    })
}

/// Host ports, for CNI plug-ins that map them (`portmap`).
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if pod::host_network(pod) {
        return Vec::new();
    }
    let containers =
        pod::spec(pod).containers.iter().chain(pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)));
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|p| p > 0))
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
