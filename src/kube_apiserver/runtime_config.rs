//! `--runtime-config`: which group versions and resources are served. The narrower setting wins over the wider one.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use skeg_catalog::spec::ResourceSpec;

/// The specs with what is switched off left out. Switching something on that this server does not have is an error.
pub fn select(specs: Vec<ResourceSpec>, config: &[(String, String)]) -> anyhow::Result<Vec<ResourceSpec>> {
    let config = read(&specs, config)?;
    let mut kept = Vec::new();
    for mut spec in specs {
        let on = |version: &str| setting(&config, &spec.group, version, &spec.resource).unwrap_or(true);
        let off: Vec<String> =
            spec.versions.iter().map(|v| v.version.to_string()).filter(|version| !on(version)).collect();
        spec.versions.retain(|version| !off.contains(&version.version.to_string()));
        if spec.versions.is_empty() {
            continue;
        }
        ensure!(
            !off.contains(&spec.storage_version.to_string()),
            "--runtime-config: {} of {} cannot be off while another version of it is on: objects are stored in it",
            spec.storage_version,
            spec.resource
        );
        kept.push(spec);
    }
    Ok(kept)
}

type Config = BTreeMap<String, bool>;

fn read(specs: &[ResourceSpec], config: &[(String, String)]) -> anyhow::Result<Config> {
    let mut read = Config::new();
    for (key, value) in config {
        let Ok(on) = value.parse::<bool>() else { bail!("--runtime-config: invalid value {key}={value}") };
        // The core group has no name, but may be written so.
        let key = if key == "api/v1" { "v1".to_owned() } else { key.clone() };
        if on && !key.starts_with("api/") && !served(specs, &key) {
            bail!("--runtime-config: {key} is not served by this server");
        }
        if on && matches!(&*key, "api/all" | "api/alpha" | "api/beta") {
            tracing::warn!("--runtime-config={key}=true: only what upstream serves by default is there to be served");
        }
        ensure!(
            !key.starts_with("api/") || matches!(&*key, "api/all" | "api/ga" | "api/beta" | "api/alpha"),
            "--runtime-config: unknown api groups {key}"
        );
        read.insert(key, on);
    }
    Ok(read)
}

fn names(group: &str, version: &str, resource: &str) -> [String; 2] {
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    [format!("{version}/{resource}"), version]
}

fn served(specs: &[ResourceSpec], key: &str) -> bool {
    let of = |spec: &ResourceSpec| {
        spec.versions.iter().any(|v| names(&spec.group, &v.version, &spec.resource).iter().any(|n| n == key))
    };
    specs.iter().any(of)
}

fn setting(config: &Config, group: &str, version: &str, resource: &str) -> Option<bool> {
    let stability = match version {
        beta if beta.contains("beta") => "api/beta",
        alpha if alpha.contains("alpha") => "api/alpha",
        _ => "api/ga",
    };
    let [whole, version] = names(group, version, resource);
    [&whole, &version, stability, "api/all"].into_iter().find_map(|key| config.get(key).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
        let config: Vec<_> = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let specs = select(skeg_catalog::all(), &config)?;
        Ok(specs
            .iter()
            .flat_map(|s| s.versions.iter().map(|v| names(&s.group, &v.version, &s.resource)[0].clone()))
            .collect())
    }

    #[test]
    fn versions_and_resources_are_switched_off() {
        let all = with(&[]).unwrap();
        assert!(all.contains(&"apps/v1/deployments".to_owned()) && all.contains(&"v1/pods".to_owned()));
        assert_eq!(with(&[("api/all", "true")]).unwrap(), all);
        let without = with(&[("apps/v1", "false")]).unwrap();
        assert!(!without.iter().any(|name| name.starts_with("apps/")) && without.contains(&"v1/pods".to_owned()));
        let one = with(&[("apps/v1/deployments", "false")]).unwrap();
        assert_eq!(one.len() + 1, all.len());
        assert_eq!(
            with(&[("api/all", "false"), ("api/v1", "true")]).unwrap().iter().filter(|n| !n.starts_with("v1/")).count(),
            0
        );
        assert!(with(&[("api/beta", "false")]).unwrap().iter().all(|name| !name.contains("beta")));
    }

    #[test]
    fn what_is_not_there_cannot_be_switched_on() {
        for key in ["no.such.group/v1", "apps/v7", "api/gamma"] {
            assert!(with(&[(key, "true")]).is_err(), "{key}");
        }
        assert!(with(&[("apps/v1", "maybe")]).is_err());
    }
}
