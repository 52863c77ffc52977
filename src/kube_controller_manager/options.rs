//! Flags as the controllers' settings: files are read and values checked here, so that what is wrong with a command line is
//! said before anything starts.

use std::path::Path;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use skeg_controllers::{Config, Signing};
use skeg_server::pki;

use super::{NAME, names};
use crate::component::flags::Given;
use crate::component::{CertificateFiles, election, gates, text};

pub fn read(given: &Given) -> anyhow::Result<Config> {
    gates::check(&given.map("feature-gates"))?;
    let default = Config::default();
    let cluster_cidr = networks(given, "cluster-cidr")?;
    let allocate = given.flag("allocate-node-cidrs", false);
    ensure!(!allocate || !cluster_cidr.is_empty(), "--allocate-node-cidrs takes --cluster-cidr");
    let (controllers, absent) = names::read(&given.list("controllers"))?;
    for name in absent {
        tracing::warn!("{name} has no counterpart here and does not run");
    }
    let own = |name: &str| given.number::<u8>(name);
    Ok(Config {
        cluster_cidr: if allocate { cluster_cidr } else { Vec::new() },
        service_cidr: networks(given, "service-cluster-ip-range")?,
        node_cidr_mask_size: own("node-cidr-mask-size-ipv4")?
            .or(own("node-cidr-mask-size")?)
            .unwrap_or(default.node_cidr_mask_size),
        node_cidr_mask_size_ipv6: own("node-cidr-mask-size-ipv6")?.unwrap_or(default.node_cidr_mask_size_ipv6),
        root_ca_pem: authorities(given)?,
        signing: signing(given)?,
        approve_kubelet_serving: false,
        service_account_key_pem: key(given)?,
        controllers,
        terminated_pod_gc_threshold: given
            .number::<i64>("terminated-pod-gc-threshold")?
            .map_or(default.terminated_pod_gc_threshold, |pods| usize::try_from(pods).unwrap_or(0)),
        node_monitor_grace_period: given
            .duration("node-monitor-grace-period")?
            .unwrap_or(default.node_monitor_grace_period),
        election: election(given, NAME)?,
        ..default
    })
}

/// At most one network for each family.
fn networks(given: &Given, name: &str) -> anyhow::Result<Vec<IpNet>> {
    let parse = |one: String| one.parse::<IpNet>().with_context(|| format!("--{name}: {one} is not a network"));
    let networks: Vec<IpNet> = given.list(name).into_iter().map(parse).collect::<Result<_, _>>()?;
    let of = |v6: bool| networks.iter().filter(|net| net.addr().is_ipv6() == v6).count();
    ensure!(of(false) <= 1 && of(true) <= 1, "--{name}: at most one network for each family");
    Ok(networks)
}

fn authorities(given: &Given) -> anyhow::Result<String> {
    let Some(path) = given.path("root-ca-file") else { return Ok(String::new()) };
    let pem = text(&path)?;
    ensure!(!pki::certificates(&pem).is_empty(), "--root-ca-file: no certificate in {}", path.display());
    Ok(pem)
}

fn key(given: &Given) -> anyhow::Result<Option<String>> {
    let read = |path: &Path| -> anyhow::Result<String> {
        let pem = text(path)?;
        let found = pki::private_key(&pem).is_some();
        ensure!(found, "--service-account-private-key-file: no private key in {}", path.display());
        Ok(pem)
    };
    given.path("service-account-private-key-file").as_deref().map(read).transpose()
}

fn signing(given: &Given) -> anyhow::Result<Option<Signing>> {
    let files = CertificateFiles::of(given, "cluster-signing-cert-file", "cluster-signing-key-file")?;
    let Some(files) = files else { return Ok(None) };
    let issued = files.read()?;
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    Ok(Some(Signing {
        ca_cert_pem: issued.certificate_pem,
        ca_key_pem: issued.key_pem,
        duration: given.duration("cluster-signing-duration")?.unwrap_or(year),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::FLAGS;
    use super::*;
    use crate::component::flags;

    fn given(line: &str) -> Given {
        flags::parse(NAME, FLAGS, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn nodes_get_networks_only_when_that_is_asked_for() {
        let cidrs = |line: &str| read(&given(line)).map(|config| config.cluster_cidr.len()).map_err(|e| e.to_string());
        assert_eq!(cidrs("--cluster-cidr=10.0.0.0/8"), Ok(0));
        assert_eq!(cidrs("--cluster-cidr=10.0.0.0/8,fd00::/48 --allocate-node-cidrs"), Ok(2));
        assert_eq!(cidrs("--allocate-node-cidrs"), Err("--allocate-node-cidrs takes --cluster-cidr".into()));
        assert!(cidrs("--cluster-cidr=10.0.0.0/8,11.0.0.0/8").is_err());
    }

    #[test]
    fn an_election_is_held_unless_it_is_turned_off() {
        let config = read(&given("--leader-elect-lease-duration=30s --leader-elect-resource-namespace=here")).unwrap();
        let election = config.election.unwrap();
        assert_eq!((election.name.as_str(), election.namespace.as_str()), (NAME, "here"));
        assert_eq!(election.lease.as_secs(), 30);
        assert!(read(&given("--leader-elect=false")).unwrap().election.is_none());
        assert!(read(&given("--leader-elect-lease-duration=5s")).is_err());
    }

    #[test]
    fn a_key_without_its_certificate_is_an_error() {
        assert!(read(&given("--cluster-signing-key-file=/nowhere")).is_err());
        assert!(read(&given("--root-ca-file=/nowhere")).is_err());
        assert!(read(&given("--terminated-pod-gc-threshold=-1")).unwrap().terminated_pod_gc_threshold == 0);
    }
}
