//! Which resources the server has: asked by loops that treat all types alike.

use serde::Deserialize;
use skeg_controller_runtime::{Api, Error, Resource};

/// A served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub resource: Resource,
    pub verbs: Vec<String>,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// The resources of a server, each in its preferred version, and the groups that could not be asked.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    pub resources: Vec<Served>,
    pub failed: Vec<String>,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct GroupList {
    kind: String,
    items: Vec<Group>,
    groups: Vec<PlainGroup>,
    versions: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group {
    metadata: Name,
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    version: String,
    freshness: String,
    resources: Vec<AggregatedResource>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    response_kind: Kind,
    scope: String,
    verbs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PlainGroup {
    versions: Vec<PlainVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PlainVersion {
    group_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlainResources {
    resources: Vec<PlainResource>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlainResource {
    name: String,
    namespaced: bool,
    kind: String,
    verbs: Vec<String>,
}

/// Asks the server.
pub async fn discover(api: &Api) -> Result<Discovered, Error> {
    let mut found = Discovered::default();
    for path in ["/api", "/apis"] {
        let body = api.get_bytes(path, AGGREGATED).await?;
        let list: GroupList =
            serde_json::from_slice(&body).map_err(|source| Error::Decode { path: path.to_owned(), source })?;
        if list.kind == "APIGroupDiscoveryList" {
            found.take_aggregated(list.items);
        } else {
            let core = list.versions.into_iter().map(|v| (String::new(), v, format!("{path}/v1")));
            let named = list.groups.into_iter().flat_map(|g| g.versions).map(|v| {
                let path = format!("/apis/{}", v.group_version);
                let (group, version) = v.group_version.split_once('/').unwrap_or(("", &v.group_version));
                (group.to_owned(), version.to_owned(), path)
            });
            let all: Vec<_> = core.chain(named).collect();
            for (group, version, path) in all {
                found.ask_plainly(api, &group, &version, &path).await;
            }
        }
    }
    Ok(found)
}

impl Discovered {
    fn add(&mut self, served: Served) {
        let known = self
            .resources
            .iter()
            .any(|s| s.resource.group == served.resource.group && s.resource.plural == served.resource.plural);
        if !known {
            self.resources.push(served);
        }
    }

    fn take_aggregated(&mut self, groups: Vec<Group>) {
        for group in groups {
            for version in group.versions {
                if version.freshness == "Stale" {
                    self.failed.push(format!("{}/{}", group.metadata.name, version.version));
                }
                for r in version.resources {
                    let resource = Resource {
                        group: group.metadata.name.clone().into(),
                        version: version.version.clone().into(),
                        kind: r.response_kind.kind.into(),
                        plural: r.resource.into(),
                        namespaced: r.scope == "Namespaced",
                    };
                    self.add(Served { resource, verbs: r.verbs });
                }
            }
        }
    }

    async fn ask_plainly(&mut self, api: &Api, group: &str, version: &str, path: &str) {
        let Ok(list) = api.get_path::<PlainResources>(path).await else {
            self.failed.push(format!("{group}/{version}"));
            return;
        };
        for r in list.resources.into_iter().filter(|r| !r.name.contains('/')) {
            let resource = Resource {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                kind: r.kind.into(),
                plural: r.name.into(),
                namespaced: r.namespaced,
            };
            self.add(Served { resource, verbs: r.verbs });
        }
    }
}
