//! The types that are asked about: upstream's own aggregated discovery, each with its fixture.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::schema::{Schema, TypeRef};

use crate::side::Side;

#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    pub ty: TypeRef,
    pub fixture: Value,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    pub verbs: Vec<String>,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Every type of a GA version that the server serves and that has a fixture in the folder.
pub async fn served(side: &Side, fixtures: &Path) -> anyhow::Result<Vec<Resource>> {
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        let list = side.read(path, AGGREGATED).await?;
        for group in list["items"].as_array().into_iter().flatten() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().into_iter().flatten() {
                for resource in version["resources"].as_array().into_iter().flatten() {
                    found.extend(read(name, version["version"].as_str().unwrap_or_default(), resource, fixtures)?);
                }
            }
        }
    }
    Ok(found)
}

fn read(group: &str, version: &str, resource: &Value, fixtures: &Path) -> anyhow::Result<Option<Resource>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let plural = text(&resource["resource"]);
    let kind = text(&resource["responseKind"]["kind"]);
    let gvk = GroupVersionKind::new(group.to_owned(), version.to_owned(), kind);
    let file = if group.is_empty() { format!("{plural}.json") } else { format!("{group}.{plural}.json") };
    let path = fixtures.join(file);
    if !path.exists() || version.contains("alpha") || version.contains("beta") {
        return Ok(None);
    }
    let fixture = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let subresource = |value: &Value| Subresource { name: text(&value["subresource"]), verbs: words(&value["verbs"]) };
    Ok(Some(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        namespaced: resource["scope"] == "Namespaced",
        verbs: words(&resource["verbs"]),
        subresources: resource["subresources"].as_array().into_iter().flatten().map(subresource).collect(),
        ty: Schema::kubernetes().lookup(&gvk).with_context(|| format!("no type for {gvk:?}"))?,
        fixture: serde_json::from_slice(&fixture).with_context(|| format!("in {}", path.display()))?,
        plural,
    }))
}

impl Resource {
    /// As reports call it: `deployments.apps`.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// `/apis/apps/v1`
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// A namespace of its own, so that what it makes does not decide how others are answered.
    pub fn namespace(&self) -> String {
        format!("judge-{}", self.name().replace('.', "-"))
    }

    pub fn collection(&self) -> String {
        match self.namespaced {
            true => format!("{}/namespaces/{}/{}", self.root(), self.namespace(), self.plural),
            false => format!("{}/{}", self.root(), self.plural),
        }
    }

    pub fn object_name(&self) -> &str {
        self.fixture["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn object(&self) -> String {
        format!("{}/{}", self.collection(), self.object_name())
    }

    /// The fixture in its namespace.
    pub fn valid(&self) -> Value {
        let mut object = self.fixture.clone();
        if self.namespaced && object["metadata"].is_object() {
            object["metadata"]["namespace"] = self.namespace().into();
        }
        object
    }
}
