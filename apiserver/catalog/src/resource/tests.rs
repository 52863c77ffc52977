//! What is wrong with claims and slices, as `field: message` lines in upstream's words.

use serde_json::{Value, json};

use crate::json::{Read, Write};
use crate::tests::{create, fixture, named, to_storage, update};

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
