//! A service to one address to dial: a ready endpoint of the port (apiserver/pkg/util/proxy ResolveEndpoint), which needs
//! no service proxy on this machine. Services that have no endpoints of their own are taken as upstream takes them.

use std::sync::Arc;

use rand::seq::IndexedRandom;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;

use crate::resources::Resources;

const SERVICES: GroupResource = GroupResource::from_static("", "services");
const SLICES: GroupResource = GroupResource::from_static("discovery.k8s.io", "endpointslices");

pub struct Resolver {
    pub resources: Arc<dyn Resources>,
}

impl Resolver {
    /// `address:port` of one ready endpoint behind a port of a service.
    pub async fn endpoint(&self, namespace: &str, name: &str, port: u16) -> Result<String, Status> {
        let service = self.resources.get_cached(&SERVICES, namespace, name).await?;
        let service = match service {
            Some(service) => service,
            None => {
                let found = self.resources.get(&SERVICES, namespace, name).await;
                Arc::new(found.map_err(|status| match status.is_not_found() {
                    true => Status::failure(404, "NotFound", format!("service {name:?} not found")),
                    false => status,
                })?)
            }
        };
        if service["spec"]["type"] == "ExternalName" {
            return Ok(format!("{}:{port}", service["spec"]["externalName"].as_str().unwrap_or_default()));
        }
        let port_name = port_name(&service, name, port)?;
        let mut found = Vec::new();
        for slice in self.resources.list(&SLICES, namespace).await? {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] == name {
                found.extend(ready(&slice, port_name));
            }
        }
        let family = service["spec"]["ipFamilies"][0].as_str().unwrap_or("IPv4");
        let preferred: Vec<&String> =
            found.iter().filter(|address| address.starts_with('[') == (family == "IPv6")).collect();
        let chosen = preferred.choose(&mut rand::rng()).map(|address| (*address).clone());
        chosen
            .or_else(|| found.choose(&mut rand::rng()).cloned())
            .ok_or_else(|| Status::service_unavailable(format!("no endpoints available for service {name:?}")))
    }
}

/// The name of the service's port of this number.
fn port_name<'a>(service: &'a Value, name: &str, port: u16) -> Result<&'a str, Status> {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = ports.iter().find(|p| p["port"].as_u64() == Some(port.into()));
    found
        .map(|port| port["name"].as_str().unwrap_or(""))
        .ok_or_else(|| Status::service_unavailable(format!("no service port {port} found for service {name:?}")))
}

/// The ready addresses of a slice, with the number of its port of this name.
fn ready(slice: &Value, port_name: &str) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let ports = list(&slice["ports"]);
    let named = ports.iter().find(|p| p["name"].as_str().unwrap_or("") == port_name);
    let Some(port) = named.and_then(|p| p["port"].as_u64()) else { return Vec::new() };
    list(&slice["endpoints"])
        .iter()
        .filter(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true))
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
        .map(|address| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::fake::Memory;

    #[tokio::test]
    async fn a_service_is_dialled_at_a_ready_endpoint() {
        let service = json!({"metadata": {"name": "hook", "namespace": "a"}, "spec": {"type": "ClusterIP",
            "ports": [{"name": "web", "port": 443}]}});
        let slice = json!({"metadata": {"name": "hook-x", "namespace": "a",
            "labels": {"kubernetes.io/service-name": "hook"}}, "ports": [{"name": "web", "port": 8444}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}]});
        let memory = Memory::with(vec![("", "services", service), ("discovery.k8s.io", "endpointslices", slice)]);
        let resolver = Resolver { resources: Arc::new(memory) };
        assert_eq!(resolver.endpoint("a", "hook", 443).await.unwrap(), "10.0.0.2:8444");
        let table = [
            ("hook", 80, "no service port 80 found for service \"hook\""),
            ("none", 443, "service \"none\" not found"),
        ];
        for (name, port, message) in table {
            assert_eq!(resolver.endpoint("a", name, port).await.unwrap_err().message, message);
        }
    }
}
