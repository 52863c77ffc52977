//! The CNI configuration: a bridge, addresses from the node's pod networks, host ports. Written whole or not at all.

use std::io::Write;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{Config, Error, Overlay};

const FILE: &str = "10-skeg.conflist";

fn path(config: &Config) -> PathBuf {
    config.cni_conf_dir.join(FILE)
}

/// The configuration of a node with these pod networks.
pub fn conflist(config: &Config, pod_cidrs: &[IpNet]) -> Value {
    let ranges: Vec<Value> = pod_cidrs.iter().map(|net| json!([{"subnet": net.trunc().to_string()}])).collect();
    let mut bridge = json!({
        "type": "bridge",
        "bridge": super::BRIDGE,
        "isDefaultGateway": true,
        "forceAddress": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": ranges,
            "dataDir": config.cni_state_dir,
        },
    });
    if config.overlay == Overlay::Vxlan {
        bridge["mtu"] = json!(super::links::VXLAN_MTU);
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "skeg",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}],
    })
}

/// Writes the configuration, unless it is there already.
pub fn write(config: &Config, pod_cidrs: &[IpNet]) -> Result<(), Error> {
    let path = path(config);
    let text = format!("{:#}\n", conflist(config, pod_cidrs));
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let failed = |source| Error::File { what: "write", path: path.clone(), source };
    std::fs::create_dir_all(&config.cni_conf_dir).map_err(failed)?;
    // The name has no extension that a runtime would read.
    let partial = config.cni_conf_dir.join(format!(".{FILE}.partial"));
    let mut file = std::fs::File::create(&partial).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&partial, &path).map_err(failed)
}

/// Removes the configuration.
pub fn remove(config: &Config) -> Result<(), Error> {
    let path = path(config);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}
