//! Puts back what a cluster cannot do without and somebody removed: the `kubernetes` service with its endpoints, and the
//! system namespaces (upstream pkg/controlplane/controller/{kubernetesservice,systemnamespaces}, which look every so often;
//! here the deletion itself is what is followed).

use std::sync::Arc;

use futures::StreamExt;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use tokio_util::sync::CancellationToken;

use super::initial;
use super::objects::{self, Address, Initial};
use crate::resources::{Change, Resources};

/// Runs until `shutdown`.
pub async fn run(resources: Arc<dyn Resources>, address: Option<Address>, shutdown: CancellationToken) {
    let services = resources.follow(&GroupResource::from_static("", "services")).map(|change| ("services", change));
    let namespaces =
        resources.follow(&GroupResource::from_static("", "namespaces")).map(|change| ("namespaces", change));
    let mut changes = futures::stream::select(services, namespaces);
    loop {
        let (resource, change) = tokio::select! {
            change = changes.next() => match change {
                Some(change) => change,
                None => return,
            },
            () = shutdown.cancelled() => return,
        };
        let Change::Deleted(gone) = change else { continue };
        let again = missing(resource, meta::namespace(&gone), meta::name(&gone), address.as_ref());
        if let Err(error) = initial::write(&resources, again).await {
            tracing::warn!(%error, "cannot put back what was removed");
        }
    }
}

/// What to write after the deletion of an object.
fn missing(resource: &str, namespace: &str, name: &str, address: Option<&Address>) -> Vec<Initial> {
    match (resource, address) {
        ("services", Some(address)) if (namespace, name) == ("default", "kubernetes") => {
            objects::kubernetes_service(address)
        }
        ("namespaces", _) => {
            objects::namespaces().into_iter().filter(|kept| meta::name(&kept.object) == name).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_cluster_needs_is_put_back() {
        let address = Address {
            advertise: "192.0.2.1".parse().unwrap(),
            port: 6443,
            service: "10.43.0.1".parse().unwrap(),
            published: true,
        };
        let count =
            |resource: &str, namespace: &str, name: &str| missing(resource, namespace, name, Some(&address)).len();
        assert_eq!(count("services", "default", "kubernetes"), 3);
        assert_eq!(count("services", "team", "kubernetes"), 0);
        assert_eq!(count("namespaces", "", "kube-node-lease"), 1);
        assert_eq!(count("namespaces", "", "team"), 0);
    }
}
