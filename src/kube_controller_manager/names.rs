//! The names that `--controllers` takes: those that run here, upstream's old names for them, and upstream's controllers that
//! do not run here.

use skeg_controllers::{Config, NAMES};

/// What upstream called a controller until 1.28, which `--controllers` still takes, and its name now.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("daemonset", "daemonset-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("job", "job-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Upstream's, none of which runs here.
const ABSENT: &[&str] = &[
    "bootstrap-signer-controller",
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
    "token-cleaner-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Not upstream's: runs only when it is named.
const OURS: &str = "local-path-provisioner-controller";

/// `--controllers` in names that run here, and those that were asked for by name and do not.
pub fn read(given: &[String]) -> anyhow::Result<(Vec<String>, Vec<&'static str>)> {
    let (mut names, mut absent) = (Vec::new(), Vec::new());
    for entry in given {
        let (sign, name) = entry.strip_prefix('-').map_or(("", entry.as_str()), |name| ("-", name));
        let name = ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
        if let Some(known) = ABSENT.iter().find(|known| **known == name) {
            if sign.is_empty() {
                absent.push(*known);
            }
            continue;
        }
        anyhow::ensure!(name == "*" || NAMES.contains(&name), "{name:?} is not in the list of known controllers");
        names.push(format!("{sign}{name}"));
    }
    if given.is_empty() {
        names = Config::default().controllers;
    }
    if !names.iter().any(|name| name == OURS) {
        names.push(format!("-{OURS}"));
    }
    Ok((names, absent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled(line: &str, name: &str) -> bool {
        let given: Vec<String> = line.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let config = Config { controllers: read(&given).unwrap().0, ..Config::default() };
        config.enabled(name)
    }

    #[test]
    fn names_old_and_new_turn_controllers_on_and_off() {
        assert!(enabled("", "job-controller") && enabled("*,bootstrapsigner,tokencleaner", "job-controller"));
        assert!(!enabled("*,-job", "job-controller") && !enabled("*,-job-controller", "job-controller"));
        assert!(enabled("job", "job-controller") && !enabled("job", "cronjob-controller"));
        assert!(!enabled("*", OURS) && enabled("*,local-path-provisioner-controller", OURS));
    }

    #[test]
    fn what_does_not_run_here_is_told_and_what_nobody_knows_is_refused() {
        let read = |name: &str| read(&[name.to_owned()]).map_err(|e| e.to_string());
        assert_eq!(read("tokencleaner").unwrap().1, ["token-cleaner-controller"]);
        assert!(read("-tokencleaner").unwrap().1.is_empty());
        assert_eq!(read("no-such").unwrap_err(), "\"no-such\" is not in the list of known controllers");
    }

    #[test]
    fn every_name_that_upstream_had_is_one_of_now() {
        for (old, new) in ALIASES {
            assert!(NAMES.contains(new) || ABSENT.contains(new), "{old} was {new}");
        }
    }
}
