//! ResourceSlices: what drivers offer.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::{EFFECTS, GROUP, binding, capacity, many, pool_name, qualified};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::core::podspec::scheduling::node_selector;
use crate::core::podspec::volumes::csi_driver_name;
use crate::json::{Read, Write};
use crate::names;
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

pub fn slice() -> ResourceSpec {
    Def::new(GROUP, "v1", "resourceslices", "ResourceSlice")
        .cluster()
        .fields(&[("spec.nodeName", ""), ("spec.driver", "")])
        .unknown_field(|label| format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {label}"))
        .columns(Table {
            columns: const { &[NAME, text("Node"), text("Driver"), text("Pool"), AGE] },
            cells: |slice, row| {
                vec![
                    name(slice),
                    slice.text("spec.nodeName").into(),
                    slice.text("spec.driver").into(),
                    slice.text("spec.pool.name").into(),
                    row.age(slice),
                ]
            },
        })
        .rules(Rules {
            create: |ctx, slice| {
                tell_time(&ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true), slice);
                drop_disabled(slice, &Value::Null);
            },
            update: |ctx, slice, old| {
                // A change grows the generation also where what is dropped was all of it.
                if slice.at("spec") != old.at("spec") {
                    slice.set("metadata.generation", old.int("metadata.generation") + 1);
                }
                tell_time(&ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true), slice);
                drop_disabled(slice, old);
            },
            check: |slice| check(slice, &Value::Null),
            check_update: check,
            generation: Generation::OnSpecChange,
            ..Rules::PLAIN
        })
        .build()
}

fn tell_time(now: &str, slice: &mut Value) {
    slice.each("spec.devices", |device| {
        device.each("taints", |taint| taint.default_to("timeAdded", now));
    });
}

/// Members behind features that are off by default, unless the object has them already.
fn drop_disabled(slice: &mut Value, old: &Value) {
    let before = old.list("spec.devices");
    let mappings = |device: &Value| device.entries("nodeAllocatableResourceMappings").count() > 0;
    let lists = |device: &Value| {
        device.entries("attributes").any(|(_, attribute)| LISTS.iter().any(|name| attribute.has(name)))
    };
    let (keep_mappings, keep_lists) = (before.iter().any(mappings), before.iter().any(lists));
    slice.each("spec.devices", |device| {
        if !keep_mappings {
            device.remove("nodeAllocatableResourceMappings");
        }
        if let (false, Some(Value::Object(attributes))) = (keep_lists, device.at_mut("attributes")) {
            for attribute in attributes.values_mut() {
                LISTS.iter().for_each(|name| attribute.remove(name));
            }
        }
    });
}

fn check(slice: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = slice.at("spec");
    csi_driver_name(&mut e, &path.child("driver"), spec.text("driver"));
    pool(&mut e, &path.child("pool"), spec.at("pool"));
    if !old.is_null() {
        let before = old.at("spec");
        e.immutable(&path.child("pool").child("name"), spec.at("pool.name"), before.at("pool.name"));
        e.immutable(&path.child("driver"), spec.at("driver"), before.at("driver"));
        e.immutable(&path.child("nodeName"), spec.at("nodeName"), before.at("nodeName"));
    }
    placement(&mut e, &path, spec);
    if spec.has("sharedCounters") && spec.has("devices") {
        e.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    devices(&mut e, &path.child("devices"), spec, old.list("spec.devices"));
    let (sets, at) = (spec.list("sharedCounters"), path.child("sharedCounters"));
    if sets.len() > 8 {
        many(&mut e, &at, sets, 8);
        return e;
    }
    for (index, set) in sets.iter().enumerate() {
        counters(&mut e, &at.index(index), set, "name");
        if sets[..index].iter().any(|other| other.text("name") == set.text("name")) {
            e.duplicate(&at.index(index), set.text("name"));
        }
    }
    e
}

fn devices(e: &mut ErrorList, path: &Path, spec: &Value, old: &[Value]) {
    let devices = spec.list("devices");
    let advanced = |device: &Value| !device.list("taints").is_empty() || !device.list("consumesCounters").is_empty();
    let most = if devices.iter().any(advanced) { 64 } else { 128 };
    if devices.len() > most {
        many(e, path, devices, most);
        return;
    }
    for (index, device) in devices.iter().enumerate() {
        let before = old.iter().find(|other| other.text("name") == device.text("name"));
        check_device(e, &path.index(index), device, before, spec.flag("perDeviceNodeSelection"));
    }
    for (index, device) in devices.iter().enumerate() {
        if devices[..index].iter().any(|other| other.text("name") == device.text("name")) {
            e.duplicate(&path.index(index), device.text("name"));
        }
    }
}

fn check_device(e: &mut ErrorList, path: &Path, device: &Value, old: Option<&Value>, selects_nodes: bool) {
    e.dns_label(&path.child("name"), device.text("name"));
    let total = device.entries("attributes").count() + device.entries("capacity").count();
    if total > 32 {
        e.invalid(path, total, "the total number of attributes and capacities must not exceed 32");
    }
    let values = |attribute: &Value| LISTS.iter().map(|name| attribute.list(name).len()).sum::<usize>().max(1);
    let total: usize = device.entries("attributes").map(|(_, attribute)| values(attribute)).sum();
    if total > 48 {
        e.invalid(path, total, "the total number of attribute values must not exceed 48");
    }
    let at = path.child("attributes");
    for (name, attribute) in device.entries("attributes") {
        qualified(e, &at, name);
        check_attribute(e, &at.key(&shortened(name)), attribute);
    }
    let at = path.child("capacity");
    for (name, capacity) in device.entries("capacity") {
        qualified(e, &at, name);
        let at = at.key(&shortened(name)).child("requestPolicy");
        match (capacity.has("requestPolicy"), device.flag("allowMultipleAllocations")) {
            (true, true) => capacity::check_policy(e, &at, capacity),
            (true, false) => e.forbidden(&at, "allowMultipleAllocations must be true"),
            (false, _) => {}
        }
    }
    if old.is_none_or(|old| old.at("taints") != device.at("taints")) {
        taints(e, &path.child("taints"), device.list("taints"));
    }
    let (consumed, at) = (device.list("consumesCounters"), path.child("consumesCounters"));
    if consumed.len() > 2 {
        many(e, &at, consumed, 2);
    } else {
        for (index, consumption) in consumed.iter().enumerate() {
            counters(e, &at.index(index), consumption, "counterSet");
            if consumed[..index].iter().any(|other| other.text("counterSet") == consumption.text("counterSet")) {
                e.duplicate(&at.index(index), consumption.text("counterSet"));
            }
        }
    }
    device_nodes(e, path, device, selects_nodes);
    binding(e, path, device);
}

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Exactly one value, of one of these types.
fn check_attribute(e: &mut ErrorList, path: &Path, attribute: &Value) {
    let long = |e: &mut ErrorList, at: &Path, text: &str| {
        if text.len() > 64 {
            e.add(Error::too_long(at, 64));
        }
    };
    let version = |e: &mut ErrorList, at: &Path, text: &str| {
        if !is_semver(text) {
            e.invalid(at, text, "must be a string compatible with semver.org spec 2.0.0");
        }
        long(e, at, text);
    };
    if attribute.has("string") {
        long(e, &path.child("string"), attribute.text("string"));
    }
    if attribute.has("version") {
        version(e, &path.child("version"), attribute.text("version"));
    }
    for name in LISTS.iter().filter(|name| attribute.has(name)) {
        let (at, items) = (path.child(name), attribute.list(name));
        if items.is_empty() {
            e.invalid(&at, attribute.at(name).clone(), "must not be empty if specified");
        }
        for (index, item) in items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_str()?))) {
            match *name {
                "versions" => version(e, &at.index(index), item),
                _ => long(e, &at.index(index), item),
            }
        }
    }
    let all = ["bool", "int", "string", "version"].into_iter().chain(LISTS);
    match all.filter(|name| attribute.has(name)).count() {
        0 => e.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => e.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}

/// Numbers, then identifiers after a dash, then any after a plus.
fn is_semver(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let released = |part: &str| number(part) || (word(part) && !part.bytes().all(|byte| byte.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(released))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// A key in a path, shortened where it is longer than any may be.
fn shortened(key: &str) -> String {
    const MOST: usize = 63 + 1 + 32;
    if key.len() <= MOST || !key.is_ascii() {
        return key.to_owned();
    }
    let left = MOST - 3;
    format!("{}...{}", &key[..left.div_ceil(2)], &key[key.len() - left / 2..])
}

fn taints(e: &mut ErrorList, path: &Path, taints: &[Value]) {
    if taints.len() > 16 {
        many(e, path, taints, 16);
        return;
    }
    for (index, taint) in taints.iter().enumerate() {
        let at = path.index(index);
        e.label_name(&at.child("key"), taint.text("key"));
        let value = taint.text("value");
        e.each(&at.child("value"), value, rules::is_valid_label_value(value));
        e.one_of(&at.child("effect"), taint.text("effect"), &EFFECTS);
    }
}

/// A set of counters, or what a device takes of one; `name` is the member that names it.
fn counters(e: &mut ErrorList, path: &Path, set: &Value, name: &str) {
    if e.need(&path.child(name), set.text(name)) {
        e.dns_label(&path.child(name), set.text(name));
    }
    let (at, count) = (path.child("counters"), set.entries("counters").count());
    match count {
        0 => e.required(&at, ""),
        1..=32 => {
            for (name, _) in set.entries("counters") {
                e.dns_label(&at, name);
            }
        }
        _ => e.add(Error::too_many(&at, count as i64, 32)),
    }
}

/// On which nodes one device is, where the slice leaves that to its devices.
fn device_nodes(e: &mut ErrorList, path: &Path, device: &Value, selects_nodes: bool) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !selects_nodes {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| device.has(name)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            e.invalid(path, Value::Null, detail);
        }
        return;
    }
    let mut ways = Vec::new();
    match device.opt_text("nodeName") {
        None => {}
        Some("") => e.invalid(&path.child("nodeName"), "", "must not be empty"),
        Some(node) => {
            ways.push("`nodeName`");
            e.each(&path.child("nodeName"), node, names::subdomain(node, false));
        }
    }
    if device.has("nodeSelector") {
        ways.push("`nodeSelector`");
        node_selector(e, &path.child("nodeSelector"), device.at("nodeSelector"));
    }
    unset_or_true(e, path, device, "allNodes", "`allNodes`", &mut ways);
    match ways.len() {
        0 => e.required(path, ONE),
        1 => {}
        _ => e.invalid(path, format!("{{{}}}", ways.join(", ")), ONE),
    }
}

fn unset_or_true<'a>(e: &mut ErrorList, path: &Path, of: &Value, name: &str, way: &'a str, ways: &mut Vec<&'a str>) {
    match of.at(name).as_bool() {
        Some(true) => ways.push(way),
        Some(false) => e.invalid(&path.child(name), false, "must be either unset or set to true"),
        None => {}
    }
}

fn pool(e: &mut ErrorList, path: &Path, pool: &Value) {
    pool_name(e, &path.child("name"), pool.text("name"));
    let (slices, generation) = (pool.int("resourceSliceCount"), pool.int("generation"));
    if slices <= 0 {
        e.invalid(&path.child("resourceSliceCount"), slices, "must be greater than zero");
    }
    if generation < 0 {
        e.invalid(&path.child("generation"), generation, "must be greater than or equal to zero");
    }
}

/// Exactly one way to say on which nodes the devices are.
fn placement(e: &mut ErrorList, path: &Path, spec: &Value) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut ways = Vec::new();
    match spec.opt_text("nodeName") {
        None => {}
        Some("") => e.invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string"),
        Some(node) => {
            ways.push("`nodeName`");
            e.each(&path.child("nodeName"), node, names::subdomain(node, false));
        }
    }
    if spec.has("nodeSelector") {
        ways.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        node_selector(e, &at, spec.at("nodeSelector"));
        if spec.list("nodeSelector.nodeSelectorTerms").len() != 1 {
            let detail = "must have exactly one node selector term";
            let value = spec.at("nodeSelector.nodeSelectorTerms").clone();
            e.invalid(&at.child("nodeSelectorTerms"), value, detail);
        }
    }
    unset_or_true(e, path, spec, "allNodes", "`allNodes`", &mut ways);
    unset_or_true(e, path, spec, "perDeviceNodeSelection", "`perDeviceNodeSelection`", &mut ways);
    match ways.len() {
        0 => e.required(path, ONE),
        1 => {}
        _ => e.invalid(path, format!("{{{}}}", ways.join(", ")), format!("{ONE}, but multiple fields are set")),
    }
}
