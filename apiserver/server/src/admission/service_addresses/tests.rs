//! Addresses given, kept and given back.

use super::super::fake::{Memory, Write};
use super::*;

async fn plugin(networks: &[&str], services: Vec<Value>) -> Arc<ServiceAddresses> {
    let memory = Memory::with(services.into_iter().map(|service| ("", "services", service)).collect());
    let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
    let plugin = ServiceAddresses::new(networks, 30000..=32767, Arc::new(memory));
    plugin.clone().run(CancellationToken::new()).await;
    plugin
}

fn service(name: &str, spec: Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "team", "name": name}, "spec": spec})
}

async fn create(plugin: &ServiceAddresses, name: &str, spec: Value) -> Result<Value, Status> {
    let write = Write::create("", "v1", "services", "team", service(name, spec));
    let mut object = write.object.clone();
    plugin.mutate(&write.attributes(), &mut object).await?;
    Ok(object["spec"].clone())
}

async fn update(plugin: &ServiceAddresses, new: Value, old: Value) -> Result<Value, Status> {
    let write = Write::create("", "v1", "services", "team", service("web", new)).update(service("web", old));
    let mut object = write.object.clone();
    plugin.mutate(&write.attributes(), &mut object).await?;
    Ok(object["spec"].clone())
}

#[tokio::test]
async fn a_service_gets_an_address_of_the_default_family() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    let spec = create(&plugin, "web", json!({"type": "ClusterIP", "selector": {"a": "b"}})).await.unwrap();
    assert!(spec["clusterIP"].as_str().unwrap().starts_with("10.43."));
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
}

#[tokio::test]
async fn headless_and_external_names_get_none() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    let spec =
        create(&plugin, "h", json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}})).await.unwrap();
    assert_eq!((&spec["clusterIPs"], &spec["ipFamilyPolicy"]), (&json!(["None"]), &json!("SingleStack")));
    let spec = create(&plugin, "u", json!({"type": "ClusterIP", "clusterIP": "None"})).await.unwrap();
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack")));
    let spec = create(&plugin, "e", json!({"type": "ExternalName", "externalName": "x.y"})).await.unwrap();
    assert!(spec["clusterIP"].is_null() && spec["ipFamilies"].is_null());
}

#[tokio::test]
async fn an_address_of_another_service_is_refused_in_upstreams_words() {
    let taken = service("first", json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"]}));
    let plugin = plugin(&["10.43.0.0/16"], vec![taken]).await;
    let refused = create(&plugin, "web", json!({"type": "ClusterIP", "clusterIP": "10.43.0.9"})).await.unwrap_err();
    assert_eq!(
        refused.message,
        "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: failed to allocate IP 10.43.0.9: \
         provided IP is already allocated"
    );
    let outside = create(&plugin, "web", json!({"type": "ClusterIP", "clusterIP": "10.99.0.9"})).await.unwrap_err();
    assert!(outside.message.ends_with("the provided network does not match the current range"));
}

#[tokio::test]
async fn added_networks_give_addresses_while_they_are_ready() {
    let range = |name: &str, cidr: &str, ready: &str| {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let object =
            json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}, "status": {"conditions": conditions}});
        ("networking.k8s.io", "servicecidrs", object)
    };
    let taken = service("first", json!({"type": "ClusterIP", "clusterIPs": ["10.43.0.1"]}));
    let memory = Memory::with(vec![
        range("more", "10.44.0.0/30", "True"),
        range("leaving", "10.45.0.0/24", "False"),
        ("", "services", taken),
    ]);
    let own = vec!["10.43.0.0/31".parse().unwrap(), "10.43.0.0/30".parse().unwrap()];
    let plugin = ServiceAddresses::new(own, 30000..=32767, Arc::new(memory));
    plugin.clone().run(CancellationToken::new()).await;
    let ask = |name: &'static str, ip: &'static str| {
        let plugin = plugin.clone();
        async move { create(&plugin, name, json!({"type": "ClusterIP", "clusterIP": ip})).await }
    };
    assert_eq!(ask("a", "10.44.0.1").await.unwrap()["clusterIPs"], json!(["10.44.0.1"]));
    assert!(ask("b", "10.45.0.1").await.is_err());
    assert_eq!(ask("c", "").await.unwrap()["clusterIP"], "10.43.0.2");
    assert_eq!(ask("d", "").await.unwrap()["clusterIP"], "10.44.0.2", "the server's own network is full");
    assert!(ask("e", "").await.unwrap_err().message.ends_with("range is full"));
}

#[tokio::test]
async fn a_service_that_is_gone_does_not_stand_in_the_way() {
    let memory = Arc::new(Memory::with(vec![(
        "",
        "services",
        service("first", json!({"type": "NodePort", "clusterIPs": ["10.43.0.9"], "ports": [{"nodePort": 30080}]})),
    )]));
    let plugin = ServiceAddresses::new(vec!["10.43.0.0/16".parse().unwrap()], 30000..=32767, memory.clone());
    plugin.clone().run(CancellationToken::new()).await;
    memory.remove("", "services");
    create(
        &plugin,
        "web",
        json!({"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30080}]}),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn node_ports_are_given_shared_by_protocol_and_checked() {
    let taken =
        service("first", json!({"type": "NodePort", "clusterIPs": ["10.43.0.9"], "ports": [{"nodePort": 30080}]}));
    let plugin = plugin(&["10.43.0.0/16"], vec![taken]).await;
    let ports = json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80}]);
    let spec = create(&plugin, "dns", json!({"type": "NodePort", "ports": ports})).await.unwrap();
    let node = |i: usize| spec["ports"][i]["nodePort"].as_u64().unwrap();
    assert!(node(0) == node(1) && node(0) != node(2) && (30000..=32767).contains(&node(2)));
    let wanted = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let refused = create(&plugin, "web", wanted).await.unwrap_err();
    assert!(
        refused.message.contains("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"),
        "{}",
        refused.message
    );
    let low =
        create(&plugin, "web", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})).await.unwrap_err();
    assert!(low.message.contains("The range of valid ports is 30000-32767"));
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert!(create(&plugin, "lb", none).await.unwrap()["ports"][0]["nodePort"].is_null());
}

#[tokio::test]
async fn a_local_load_balancer_gets_a_health_port() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let spec = create(&plugin, "lb", spec).await.unwrap();
    let health = spec["healthCheckNodePort"].as_u64().unwrap();
    assert!(health >= 30000 && spec["ports"][0]["nodePort"] != health);
}

#[tokio::test]
async fn an_update_keeps_what_was_given_and_gives_what_is_new() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    let old = json!({"type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ipFamilies": ["IPv4"],
                     "ipFamilyPolicy": "SingleStack", "ports": [{"name": "a", "port": 80, "nodePort": 30080}]});
    let new = json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}, {"name": "b", "port": 82}]});
    let spec = update(&plugin, new, old.clone()).await.unwrap();
    assert_eq!((&spec["clusterIP"], &spec["ports"][0]["nodePort"]), (&json!("10.43.0.9"), &json!(30080)));
    assert!(spec["ports"][1]["nodePort"].as_u64().unwrap() >= 30000);
    let external = json!({"type": "ExternalName", "externalName": "x"});
    let spec = update(&plugin, json!({"type": "ClusterIP", "ports": [{"port": 80}]}), external).await.unwrap();
    assert!(spec["clusterIP"].as_str().unwrap().starts_with("10.43."));
}

#[tokio::test]
async fn two_families_come_and_go_with_the_policy() {
    let plugin = plugin(&["10.43.0.0/16", "fd00:43::/112"], vec![]).await;
    let spec = create(&plugin, "web", json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(spec["clusterIPs"][1].as_str().unwrap().starts_with("fd00:43::"));
    let mut single = spec.clone();
    single["ipFamilyPolicy"] = "SingleStack".into();
    let single = update(&plugin, single, spec.clone()).await.unwrap();
    assert_eq!((single["clusterIPs"].as_array().unwrap().len(), &single["ipFamilies"]), (1, &json!(["IPv4"])));
    let mut dual = single.clone();
    dual["ipFamilyPolicy"] = "RequireDualStack".into();
    assert_eq!(update(&plugin, dual, single).await.unwrap()["clusterIPs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_family_that_the_cluster_has_not_is_refused() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    for (spec, expect) in [
        (
            json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
            "this cluster is not configured for dual-stack services",
        ),
        (
            json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (json!({"type": "ClusterIP", "clusterIP": "fd00::5"}), "IPv6 is not configured on this cluster"),
    ] {
        let refused = create(&plugin, "web", spec).await.unwrap_err();
        assert!(refused.message.contains(expect), "{}", refused.message);
    }
}

#[tokio::test]
async fn a_dry_run_reserves_nothing() {
    let plugin = plugin(&["10.43.0.0/29"], vec![]).await;
    for _ in 0..20 {
        let mut write = Write::create("", "v1", "services", "team", service("web", json!({"type": "ClusterIP"})));
        write.dry_run = true;
        let mut object = write.object.clone();
        plugin.mutate(&write.attributes(), &mut object).await.unwrap();
        write.object["metadata"]["name"] = "other".into();
    }
    assert!(plugin.pool().owners().is_empty());
}

#[tokio::test]
async fn a_dry_run_is_told_ports_that_stand_for_some() {
    let plugin = plugin(&["10.43.0.0/16"], vec![]).await;
    let ask = async |ports: Value| {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports});
        let mut write = Write::create("", "v1", "services", "team", service("web", spec));
        write.dry_run = true;
        let mut object = write.object.clone();
        plugin.mutate(&write.attributes(), &mut object).await.unwrap();
        let given = items(&object["spec"], "ports").map(|port| port["nodePort"].clone()).collect::<Vec<_>>();
        (json!(given), object["spec"]["healthCheckNodePort"].clone())
    };
    assert_eq!(ask(json!([{"port": 80}, {"port": 81}])).await, (json!([32769, 32770]), json!(32771)));
    let wanted = json!([{"port": 80, "nodePort": 30080}, {"port": 81}]);
    assert_eq!(ask(wanted).await, (json!([30080, 30081]), json!(30082)));
}

#[tokio::test]
async fn addresses_are_recorded_as_objects() {
    let memory = Arc::new(Memory::with(vec![(
        "",
        "services",
        service("web", json!({"type": "ClusterIP", "clusterIPs": ["10.43.0.9"]})),
    )]));
    memory.put("networking.k8s.io", "ipaddresses", address_object("10.43.0.10".parse().unwrap(), "team", "gone"));
    let plugin = ServiceAddresses::new(vec!["10.43.0.0/16".parse().unwrap()], 30000..=32767, memory.clone());
    plugin.clone().run(CancellationToken::new()).await;
    let recorded = memory.list(&ADDRESSES, "").await.unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!(parent_of(&recorded[0]), ("team".into(), "web".into()));
}
