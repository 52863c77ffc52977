//! What is wrong with claims and slices, as `field: message` lines in upstream's words.

use serde_json::{Value, json};

use crate::json::{Read, Write};
use crate::spec::Subresource;
use crate::tests::{create, fixture, named, to_storage, update, with_context};

fn device(members: Value) -> Value {
    let mut device = json!({"name": "gpu-0"});
    device.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    device
}

#[track_caller]
fn slice(spec: Value, expected: &[&str]) {
    let resource = named("resourceslices.resource.k8s.io");
    let mut object = fixture(&resource);
    for (name, value) in spec.as_object().unwrap() {
        object.set(&format!("spec.{name}"), value.clone());
    }
    let (_, errors) = create(&resource, to_storage(&resource, object));
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{spec}");
}

#[test]
fn a_slice_says_once_where_its_devices_are() {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    slice(
        json!({"nodeName": ""}),
        &[
            "spec.nodeName: Invalid value: \"\": must be either unset or set to a non-empty string",
            &format!("spec: Required value: {ONE}"),
        ],
    );
    slice(
        json!({"allNodes": true}),
        &[&format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {ONE}, but multiple fields are set")],
    );
    slice(json!({"allNodes": false}), &["spec.allNodes: Invalid value: false: must be either unset or set to true"]);
    slice(
        json!({"nodeName": null, "perDeviceNodeSelection": true}),
        &[
            "spec.devices[0]: Required value: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        ],
    );
    let own = [device(json!({"allNodes": true}))];
    slice(json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": own}), &[]);
    slice(
        json!({"devices": own}),
        &[
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        ],
    );
}

#[test]
fn counters_are_in_slices_of_their_own() {
    let set = json!({"name": "memory", "counters": {"a": {"value": "1Gi"}}});
    slice(
        json!({"sharedCounters": [set]}),
        &["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed"],
    );
    slice(json!({"devices": null, "sharedCounters": [set]}), &[]);
    slice(
        json!({"devices": null, "sharedCounters": [{"name": ""}, set, set]}),
        &[
            "spec.sharedCounters[0].name: Required value",
            "spec.sharedCounters[0].counters: Required value",
            "spec.sharedCounters[2]: Duplicate value: \"memory\"",
        ],
    );
}

#[test]
fn conditions_of_binding_come_with_conditions_of_failure() {
    let of = |conditions: &[&str], failures: &[&str]| json!({"devices": [device(json!({"bindingConditions": conditions, "bindingFailureConditions": failures}))]});
    slice(of(&["example.com/ready"], &["example.com/broken"]), &[]);
    slice(
        of(&["ready"], &["ready"]),
        &[
            "spec.devices[0].bindingFailureConditions[0]: Invalid value: \"ready\": bindingFailureConditions must not overlap with bindingConditions",
        ],
    );
    slice(
        json!({"devices": [device(json!({"bindingConditions": ["ready"]}))]}),
        &[
            "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
        ],
    );
}

#[test]
fn attributes_have_one_value_and_names_that_cel_can_read() {
    let of = |name: &str, attribute: Value| json!({"devices": [device(json!({"attributes": {name: attribute}}))]});
    slice(of("example.com/version", json!({"version": "1.2.3-alpha.1+build.007"})), &[]);
    for wrong in ["1.2", "1.02.3", "1.2.3-01", "v1.2.3", "1.2.3+"] {
        let told = format!(
            "spec.devices[0].attributes[v].version: Invalid value: \"{wrong}\": must be a string compatible with semver.org spec 2.0.0"
        );
        slice(of("v", json!({"version": wrong})), &[&told]);
    }
    slice(
        of("a", json!({})),
        &["spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified"],
    );
    slice(
        of("a", json!({"int": 1, "bool": true})),
        &[
            "spec.devices[0].attributes[a]: Invalid value: {\"int\":1,\"bool\":true}: exactly one value must be specified",
        ],
    );
    slice(
        of("/a", json!({"int": 1})),
        &["spec.devices[0].attributes: Invalid value: \"\": the domain must not be empty"],
    );
}

#[test]
fn what_is_behind_a_gate_is_dropped_unless_it_is_there() {
    let resource = named("resourceslices.resource.k8s.io");
    let mut object = fixture(&resource);
    object.set(
        "spec.devices",
        json!([device(json!({"nodeAllocatableResourceMappings": {"cpu": {"capacityKey": "a"}}}))]),
    );
    let (made, _) = create(&resource, object.clone());
    assert!(!made.list("spec.devices")[0].has("nodeAllocatableResourceMappings"));
    let (kept, _) = update(&resource, object.clone(), &object);
    assert!(kept.list("spec.devices")[0].has("nodeAllocatableResourceMappings"));
}

#[test]
fn capacity_is_shared_by_a_policy() {
    let of = |policy: Value, shared: bool| {
        let capacity = json!({"memory": {"value": "10Gi", "requestPolicy": policy}});
        json!({"devices": [device(json!({"allowMultipleAllocations": shared, "capacity": capacity}))]})
    };
    let at = "spec.devices[0].capacity[memory].requestPolicy";
    slice(of(json!({"default": "1Gi"}), false), &[&format!("{at}: Forbidden: allowMultipleAllocations must be true")]);
    slice(of(json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]}), true), &[]);
    slice(
        of(json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "20Gi"]}), true),
        &[
            &format!("{at}.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order"),
            &format!("{at}.validValues[2]: Invalid value: \"20Gi\": option is larger than capacity value: 10Gi"),
            &format!(
                "{at}.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy"
            ),
        ],
    );
    slice(of(json!({"default": "2Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}}), true), &[]);
    slice(
        of(json!({"default": "512Mi", "validRange": {"min": "1Gi", "step": "1Gi"}}), true),
        &[
            &format!("{at}.validRange.min: Invalid value: \"512Mi\": default is less than min: 1Gi"),
            &format!(
                "{at}.validRange.step: Invalid value: \"512Mi\": value is not a multiple of a given step (1Gi) from (1Gi)"
            ),
        ],
    );
    slice(
        of(json!({"validValues": ["1Gi"]}), true),
        &[&format!("{at}.default: Required value: required when validValues is defined")],
    );
}

#[test]
fn constraints_name_requests_and_attributes_with_a_domain() {
    let resource = named("resourceclaims.resource.k8s.io");
    let check = |constraint: Value, expected: &[&str]| {
        let mut object = fixture(&resource);
        object.set("spec.devices.constraints", json!([constraint]));
        let (_, errors) = create(&resource, to_storage(&resource, object));
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{constraint}");
    };
    check(json!({"requests": ["gpu"], "matchAttribute": "example.com/model"}), &[]);
    check(
        json!({"requests": ["gpu", "gpu"], "matchAttribute": "model"}),
        &[
            "spec.devices.constraints[0].requests[1]: Duplicate value: \"gpu\"",
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
        ],
    );
}

#[test]
fn selectors_are_compiled_and_may_not_cost_too_much() {
    let class = named("deviceclasses.resource.k8s.io");
    let errors = |selectors: Value| -> Vec<String> {
        let mut object = fixture(&class);
        object.set("spec.selectors", selectors);
        create(&class, to_storage(&class, object)).1.iter().map(ToString::to_string).collect()
    };
    let of = |expression: &str| errors(json!([{"cel": {"expression": expression}}]));
    let good = r#"cel.bind(gpu, device.attributes["gpu.example.com"], gpu.ready && gpu.version.isGreaterThan(semver("1.0.0")))
        && device.capacity["gpu.example.com"].memory.isGreaterThan(quantity("1Gi")) && device.driver != """#;
    assert!(of(good).is_empty(), "{:?}", of(good));
    assert_eq!(
        of("device.driver"),
        [
            "spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"
        ]
    );
    let unknown = of("nothing == 1");
    assert!(
        unknown[0].contains("compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing'"),
        "{unknown:?}"
    );
    let nested = "device.attributes.all(a, $)".replace("$", "device.attributes.all(b, $)");
    let nested = nested.replace("$", "device.attributes.all(c, device.attributes.all(d, a + b == c + d))");
    assert_eq!(of(&nested), ["spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"]);
    let long = format!("true{}", " ".repeat(10 << 10));
    assert_eq!(of(&long), ["spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"]);
    assert_eq!(errors(json!([{}])), ["spec.selectors[0].cel: Required value"]);
    let many = vec![json!({"cel": {"expression": "1"}}); 33];
    assert_eq!(errors(json!(many)), ["spec.selectors: Too many: 33: must have at most 32 items"]);
    let claim = named("resourceclaims.resource.k8s.io");
    let mut object = fixture(&claim);
    object["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = json!([{"cel": {"expression": "1"}}]);
    assert!(!create(&claim, to_storage(&claim, object)).1.is_empty());
}

#[test]
fn the_resource_that_a_class_stands_for_is_not_kubernetes_own() {
    let class = named("deviceclasses.resource.k8s.io");
    let errors = |name: &str| -> Vec<String> {
        let mut object = fixture(&class);
        object.set("spec.extendedResourceName", name);
        create(&class, to_storage(&class, object)).1.iter().map(ToString::to_string).collect()
    };
    assert!(errors("example.com/gpu").is_empty());
    for name in ["", "gpu", "kubernetes.io/gpu", "requests.example.com/gpu", "example.com/g pu"] {
        let told =
            format!("spec.extendedResourceName: Invalid value: {name:?}: must be a valid extended resource name");
        assert_eq!(errors(name), [told]);
    }
}

#[test]
fn admin_access_asks_for_a_label_of_the_namespace() {
    let exactly = |admin: bool| json!([{"name": "a"}, {"name": "b", "exactly": {"adminAccess": admin}}]);
    for (resource, path) in [
        ("resourceclaims.resource.k8s.io", "spec.devices.requests"),
        ("resourceclaimtemplates.resource.k8s.io", "spec.spec.devices.requests"),
    ] {
        let spec = named(resource);
        let mut object = fixture(&spec);
        assert!(spec.strategy.namespace_label(&object).is_none());
        object.set(path, exactly(false));
        assert!(spec.strategy.namespace_label(&object).is_none());
        object.set(path, exactly(true));
        let asked = spec.strategy.namespace_label(&object).unwrap();
        assert_eq!(asked.path.to_string(), "spec.devices.requests[1].adminAccess", "{resource}");
        assert_eq!((asked.key, asked.value), ("resource.kubernetes.io/admin-access", "true"));
    }
    let spec = named("resourceclaims.resource.k8s.io");
    let status = spec.subresources.iter().find(|part| part.name == "status").unwrap();
    let Subresource::Update(status) = &status.behaviour else { panic!("a status is updated") };
    let old = fixture(&spec);
    let mut allocated = old.clone();
    allocated.set("status.allocation.devices.results", json!([{"adminAccess": true}]));
    let asked = status.namespace_label(&allocated, &old).unwrap();
    assert_eq!(asked.path.to_string(), "status.allocation.devices.results[0].adminAccess");
    assert!(status.namespace_label(&allocated, &allocated).is_none(), "an allocation does not change");
}

/// A claim after a write of its status, and what is wrong with it.
fn with_status(claim: &Value, old: &Value) -> (Value, Vec<String>) {
    let spec = named("resourceclaims.resource.k8s.io");
    let part = spec.subresources.iter().find(|part| part.name == "status").unwrap();
    let Subresource::Update(part) = &part.behaviour else { panic!("a status is updated") };
    let mut claim = claim.clone();
    let errors = with_context(|ctx| {
        part.prepare(ctx, &mut claim, old);
        part.validate(ctx, &claim, old)
    });
    (claim, errors.iter().map(ToString::to_string).collect())
}

#[test]
fn drivers_tell_of_devices_that_the_claim_has() {
    let spec = named("resourceclaims.resource.k8s.io");
    let device = json!({"driver": "gpu.example.com", "pool": "p", "device": "d"});
    let mut result = device.clone();
    result["request"] = json!("gpu");
    let mut old = to_storage(&spec, fixture(&spec));
    old.set("status.allocation.devices.results", json!([result]));
    let told = |status: Value| {
        let mut claim = old.clone();
        let mut own = device.clone();
        own.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        claim.set("status.devices", json!([own]));
        with_status(&claim, &old).1
    };
    let none: [&str; 0] = [];
    assert_eq!(told(json!({"data": {"a": 1}, "networkData": {"interfaceName": "eth0", "ips": ["10.9.8.7/24"]}})), none);
    let other = told(json!({"device": "e"}));
    assert_eq!(
        other,
        [
            "status.devices[0]: Invalid value: {\"Driver\":\"gpu.example.com\",\"Pool\":\"p\",\"Device\":\"e\",\"ShareID\":\"\"}: \
          must be an allocated device in the claim"
        ]
    );
    let share = told(json!({"shareID": "judge"}));
    assert_eq!(
        share[0],
        "status.devices[0].shareID: Invalid value: \"judge\": error validating uid: invalid UUID length: 5"
    );
    assert!(told(json!({"shareID": "3C2A1B00-0000-4000-8000-000000000001"}))[0].contains("normalized form"));
    assert!(told(json!({"shareID": "3c2a1b00-0000-4000-8000-00000000000g"}))[0].ends_with("invalid UUID format"));
    assert_eq!(told(json!({"shareID": "3c2a1b00-0000-4000-8000-000000000001"})).len(), 1, "not the share it has");
    assert_eq!(
        told(json!({"data": []})),
        ["status.devices[0].data: Invalid value: \"<value omitted>\": must be a valid JSON object"]
    );
    assert_eq!(
        told(json!({"networkData": {"interfaceName": "x".repeat(257), "ips": ["10.9.8.7", "1.2.3.4/8", "1.2.3.4/8"]}})),
        [
            "status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes",
            "status.devices[0].networkData.ips[0]: Invalid value: \"10.9.8.7\": must be a valid address in CIDR form, \
             (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
            "status.devices[0].networkData.ips[2]: Duplicate value: \"1.2.3.4/8\"",
        ]
    );
    assert_eq!(
        told(json!({"conditions": [{"type": "Ready", "status": "True", "reason": "R"}]})),
        ["status.devices[0].conditions[0].lastTransitionTime: Required value"]
    );
}

#[test]
fn nothing_is_told_of_a_device_that_was_given_back() {
    let spec = named("resourceclaims.resource.k8s.io");
    let device = |name: &str| json!({"driver": "gpu.example.com", "pool": "p", "device": name});
    let mut old = to_storage(&spec, fixture(&spec));
    old.set("status.allocation.devices.results", json!([device("d")]));
    old.set("status.devices", json!([device("d")]));
    let mut claim = old.clone();
    claim.remove("status.allocation");
    let (freed, errors) = with_status(&claim, &old);
    assert_eq!((freed.has("status.devices"), errors.len()), (false, 0));
    claim.set("status.devices", json!([device("d"), device("e")]));
    let (freed, errors) = with_status(&claim, &old);
    assert_eq!((freed.list("status.devices"), errors.len()), (&[device("e")][..], 1));
}

#[test]
fn an_empty_capacity_is_a_change_of_what_is_claimed() {
    for (resource, path) in [
        ("resourceclaims.resource.k8s.io", "spec.devices.requests"),
        ("resourceclaimtemplates.resource.k8s.io", "spec.spec.devices.requests"),
    ] {
        let spec = named(resource);
        let (old, _) = create(&spec, to_storage(&spec, fixture(&spec)));
        let mut object = old.clone();
        object.each(path, |request| request.set("exactly.capacity", json!({})));
        let (_, errors) = update(&spec, object.clone(), &old);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["spec"], "{resource}");
        assert!(update(&spec, object.clone(), &object).1.is_empty(), "{resource}");
    }
}
