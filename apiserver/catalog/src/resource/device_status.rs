//! What drivers tell of the devices that a claim was given (KEP-4817): of those alone, and no longer than it has them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::{many, pool_name, raw};
use crate::check::Report;
use crate::core::podspec::volumes::csi_driver_name;
use crate::json::{Read, Write};

const MOST_ADDRESSES: usize = 16;

/// A device, and which share of it.
type Id<'a> = [&'a str; 4];

fn id(device: &Value) -> Id<'_> {
    ["driver", "pool", "device", "shareID"].map(|member| device.text(member))
}

fn shown([driver, pool, device, share]: Id<'_>) -> Value {
    json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share})
}

fn allocated(claim: &Value) -> BTreeSet<Id<'_>> {
    claim.list("status.allocation.devices.results").iter().map(id).collect()
}

/// Of a device that the claim had and no longer has, nothing is kept.
pub fn drop_deallocated(claim: &mut Value, old: &Value) {
    let gone: Vec<usize> = {
        let (before, now) = (allocated(old), allocated(claim));
        let devices = claim.list("status.devices").iter().enumerate();
        devices
            .filter(|(_, device)| before.contains(&id(device)) && !now.contains(&id(device)))
            .map(|(i, _)| i)
            .collect()
    };
    if gone.is_empty() {
        return;
    }
    let kept = claim.list("status.devices").iter().enumerate().filter(|(index, _)| !gone.contains(index));
    let kept: Vec<Value> = kept.map(|(_, device)| device.clone()).collect();
    if kept.is_empty() {
        claim.remove("status.devices");
    } else {
        claim.set("status.devices", kept);
    }
}

/// The shape of a UUID, and which of its forms Kubernetes writes.
fn uid(e: &mut ErrorList, path: &Path, uid: &str) {
    let hyphens = |text: &str| [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let digits = |text: &str| text.bytes().filter(|byte| *byte != b'-').all(|byte| byte.is_ascii_hexdigit());
    let canonical = |text: &str| hyphens(text) && text.matches('-').count() == 4 && digits(text);
    const FORMAT: &str = "invalid UUID format";
    let fault = |holds: bool| (!holds).then(|| FORMAT.to_owned());
    let problem = match uid.len() {
        36 => fault(canonical(uid)),
        45 if !uid.is_char_boundary(9) || !uid[..9].eq_ignore_ascii_case("urn:uuid:") => {
            Some(format!("invalid urn prefix: {:?}", String::from_utf8_lossy(&uid.as_bytes()[..9])))
        }
        45 => fault(canonical(&uid[9..])),
        38 if !(uid.starts_with('{') && uid.ends_with('}')) => Some("invalid bracketed UUID format".to_owned()),
        38 => fault(canonical(&uid[1..37])),
        32 => fault(uid.bytes().all(|byte| byte.is_ascii_hexdigit())),
        length => Some(format!("invalid UUID length: {length}")),
    };
    if let Some(problem) = problem {
        e.invalid(path, uid, format!("error validating uid: {problem}"));
    } else if uid.len() != 36 || uid != uid.to_lowercase() {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                      hexadecimal characters";
        e.invalid(path, uid, detail);
    }
}

pub fn check(e: &mut ErrorList, path: &Path, claim: &Value) {
    let allocated = allocated(claim);
    let devices = claim.list("status.devices");
    for (index, device) in devices.iter().enumerate() {
        let at = path.index(index);
        let own = id(device);
        let [driver, pool, name, share] = own;
        csi_driver_name(e, &at.child("driver"), driver);
        pool_name(e, &at.child("pool"), pool);
        e.dns_label(&at.child("device"), name);
        if device.has("shareID") {
            uid(e, &at.child("shareID"), share);
        }
        if !allocated.contains(&own) {
            e.invalid(&at, shown(own), "must be an allocated device in the claim");
        }
        let conditions = device.list("conditions");
        many(e, &at.child("conditions"), conditions, 8);
        e.conditions(&at.child("conditions"), conditions);
        if device.has("data") {
            raw(e, &at.child("data"), device.at("data"));
        }
        network(e, &at.child("networkData"), device.at("networkData"));
    }
    let mut seen = BTreeSet::new();
    for (index, device) in devices.iter().enumerate() {
        if !seen.insert(id(device)) {
            e.duplicate(&path.index(index), shown(id(device)));
        }
    }
}

fn network(e: &mut ErrorList, path: &Path, network: &Value) {
    for (member, longest) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.text(member).len() > longest {
            e.add(Error::too_long(&path.child(member), longest as i64));
        }
    }
    let at = path.child("ips");
    let addresses = network.texts("ips");
    many(e, &at, network.list("ips"), MOST_ADDRESSES);
    if addresses.len() > MOST_ADDRESSES {
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        e.all(rules::is_valid_interface_address(&at.index(index), address));
    }
    for (index, address) in addresses.iter().enumerate().filter(|(index, own)| addresses[..*index].contains(own)) {
        e.duplicate(&at.index(index), *address);
    }
}
