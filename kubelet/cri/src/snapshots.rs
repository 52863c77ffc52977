//! An image's files as a read-only snapshot, for runtimes whose CRI cannot mount images (containerd before 2.1): through
//! containerd's own image, content, snapshot and diff services. Layers that no container has needed yet are unpacked.
//! Mounts nothing itself.

use crate::client::channel;
use crate::containerd::services::content::v1 as content;
use crate::containerd::services::diff::v1 as diff;
use crate::containerd::services::images::v1 as images;
use crate::containerd::services::snapshots::v1 as snapshots;
use crate::containerd::types;
use crate::{Error, NAMESPACE, Result};
use content::content_client::ContentClient;
use diff::diff_client::DiffClient;
use images::images_client::ImagesClient;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use snapshots::snapshots_client::SnapshotsClient;
use std::path::Path;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// Keeps a snapshot from the garbage collector.
const ROOT: &str = "containerd.io/gc.root";
/// Says whose snapshot it is.
const OWNER: &str = "skeg.io/owner";
/// Manifests and configurations are not larger.
const MAX_DOCUMENT: usize = 8 << 20;

/// A mount that shows a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMount {
    /// `bind` or a filesystem's type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options as in fstab.
    pub options: Vec<String>,
}

/// The snapshots of a containerd.
#[derive(Clone)]
pub struct Snapshots {
    channel: Channel,
    snapshotter: String,
}

#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    media_type: String,
    digest: String,
    size: i64,
    platform: Option<Platform>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Manifest {
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ImageConfig {
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

fn bad(operation: &'static str, text: impl Into<String>) -> Error {
    Error::new(operation, Code::FailedPrecondition, text)
}

/// The names of the snapshots of an image's layers: each is made of all the layers up to its own (OCI image spec, ChainID).
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for id in diff_ids {
        let next = match chain.last() {
            None => id.clone(),
            Some(before) => {
                let digest = Sha256::digest(format!("{before} {id}"));
                format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        };
        chain.push(next);
    }
    chain
}

/// The manifest of an index that is for this machine.
fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits =
        |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && (p.architecture == architecture));
    manifests.iter().find(fits).or_else(|| manifests.iter().find(|d| d.platform.is_none()))
}

impl Snapshots {
    /// Those that `snapshotter` of the containerd at `socket` makes.
    pub fn new(socket: &Path, snapshotter: impl Into<String>) -> Self {
        Self { channel: channel(socket), snapshotter: snapshotter.into() }
    }

    fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// A read-only view of an image under `key`, made or found, that belongs to `owner` and lasts until it is removed.
    /// `image` is the image's id.
    pub async fn view(&self, image: &str, key: &str, owner: &str) -> Result<Vec<SnapshotMount>> {
        let found = self.mounts(key).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let top = self.unpacked(image).await?;
        let message = snapshots::ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: top,
            labels: [(ROOT.to_string(), "1".to_string()), (OWNER.to_string(), owner.to_string())].into(),
        };
        let made = self.client().view(request(message)).await.map_err(|s| Error::status("ViewSnapshot", &s))?;
        Ok(made.into_inner().mounts.into_iter().map(mount).collect())
    }

    async fn mounts(&self, key: &str) -> Result<Vec<SnapshotMount>> {
        let message = snapshots::MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        match self.client().mounts(request(message)).await {
            Ok(found) => Ok(found.into_inner().mounts.into_iter().map(mount).collect()),
            Err(status) if status.code() == Code::NotFound => Ok(Vec::new()),
            Err(status) => Err(Error::status("SnapshotMounts", &status)),
        }
    }

    /// Removes all views of an owner. They must not be mounted any more.
    pub async fn remove_of(&self, owner: &str) -> Result<()> {
        let message = snapshots::ListSnapshotsRequest {
            snapshotter: self.snapshotter.clone(),
            filters: vec![format!("labels.{OWNER:?}=={owner}")],
        };
        let failed = |status: tonic::Status| Error::status("ListSnapshots", &status);
        let mut found = self.client().list(request(message)).await.map_err(failed)?.into_inner();
        let mut names = Vec::new();
        while let Some(part) = found.message().await.map_err(failed)? {
            names.extend(part.info.into_iter().map(|info| info.name));
        }
        for name in names {
            self.remove(&name).await?;
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let message = snapshots::RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        match self.client().remove(request(message)).await {
            Err(status) if status.code() != Code::NotFound => Err(Error::status("RemoveSnapshot", &status)),
            _ => Ok(()),
        }
    }

    /// Unpacks what is missing of an image; returns the name of its topmost snapshot.
    async fn unpacked(&self, image: &str) -> Result<String> {
        let manifest = self.manifest(image).await?;
        let config = manifest.config.unwrap_or_default();
        let described: ImageConfig = self.document(&config.digest).await?;
        let chain = chain_ids(&described.rootfs.diff_ids);
        let Some(top) = chain.last().cloned() else { return Err(bad("ViewSnapshot", "the image has no layers")) };
        if chain.len() != manifest.layers.len() {
            return Err(bad("ViewSnapshot", "the image's layers and its configuration do not agree"));
        }
        if self.exists(&top).await? {
            return Ok(top);
        }
        let mut parent = String::new();
        for (layer, name) in manifest.layers.iter().zip(&chain) {
            if !self.exists(name).await? {
                self.unpack(layer, &parent, name).await?;
            }
            parent.clone_from(name);
        }
        self.refer(&config.digest, &top).await?;
        Ok(top)
    }

    async fn manifest(&self, image: &str) -> Result<Manifest> {
        let message = images::GetImageRequest { name: image.into() };
        let found = ImagesClient::new(self.channel.clone()).get(request(message)).await;
        let found = found.map_err(|s| Error::status("GetImage", &s))?.into_inner().image.unwrap_or_default();
        let manifest: Manifest = self.document(&found.target.unwrap_or_default().digest).await?;
        if manifest.manifests.is_empty() {
            return Ok(manifest);
        }
        match choose(&manifest.manifests) {
            Some(chosen) => self.document(&chosen.digest).await,
            None => Err(bad("GetImage", "the image is not for this kind of machine")),
        }
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, digest: &str) -> Result<T> {
        let failed = |status: tonic::Status| Error::status("ReadContent", &status);
        let message = content::ReadContentRequest { digest: digest.into(), ..Default::default() };
        let mut client = ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_DOCUMENT * 2);
        let mut parts = client.read(request(message)).await.map_err(failed)?.into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await.map_err(failed)? {
            bytes.extend(part.data);
            if bytes.len() > MAX_DOCUMENT {
                return Err(bad("ReadContent", format!("{digest} is too large for a manifest or configuration")));
            }
        }
        serde_json::from_slice(&bytes).map_err(|e| bad("ReadContent", format!("{digest} cannot be read: {e}")))
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        let message = snapshots::StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.into() };
        match self.client().stat(request(message)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(Error::status("StatSnapshot", &status)),
        }
    }

    /// Makes the snapshot `name` of a layer over `parent`. One that somebody else makes meanwhile is as good.
    async fn unpack(&self, layer: &Descriptor, parent: &str, name: &str) -> Result<()> {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let key = format!("skeg-unpack-{nanos}-{name}");
        let message = snapshots::PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.into(),
            labels: [(ROOT.to_string(), "1".to_string())].into(),
        };
        let prepared = self.client().prepare(request(message)).await;
        let prepared = prepared.map_err(|s| Error::status("PrepareSnapshot", &s))?.into_inner();
        let done = self.fill(layer, prepared.mounts, &key, name).await;
        if done.is_err() {
            self.remove(&key).await?;
        }
        match done {
            Err(error) if error.code == Code::AlreadyExists => Ok(()),
            done => done,
        }
    }

    async fn fill(&self, layer: &Descriptor, mounts: Vec<types::Mount>, key: &str, name: &str) -> Result<()> {
        let described = types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            annotations: Default::default(),
        };
        let message = diff::ApplyRequest { diff: Some(described), mounts };
        let applied = DiffClient::new(self.channel.clone()).apply(request(message)).await;
        applied.map_err(|s| Error::status("ApplyDiff", &s))?;
        let message = snapshots::CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            labels: Default::default(),
        };
        self.client().commit(request(message)).await.map_err(|s| Error::status("CommitSnapshot", &s))?;
        Ok(())
    }

    /// Ties the snapshots' lives to the image's, as an unpacking by the runtime does.
    async fn refer(&self, config: &str, top: &str) -> Result<()> {
        let label = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
        let info = content::Info {
            digest: config.into(),
            labels: [(label.clone(), top.to_string())].into(),
            ..Default::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths: vec![format!("labels.{label}")] });
        let message = content::UpdateRequest { info: Some(info), update_mask };
        let updated = ContentClient::new(self.channel.clone()).update(request(message)).await;
        updated.map_err(|s| Error::status("UpdateContent", &s))?;
        Ok(())
    }
}

fn mount(mount: types::Mount) -> SnapshotMount {
    SnapshotMount { kind: mount.r#type, source: mount.source, options: mount.options }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_layer_with_those_below_it() {
        // The example of the OCI image specification's text: ChainID(A|B) = Digest(ChainID(A) + " " + DiffID(B)).
        let ids = ["sha256:a".to_string(), "sha256:b".to_string(), "sha256:c".to_string()];
        let chain = chain_ids(&ids);
        let digest = |text: &str| {
            format!("sha256:{}", Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect::<String>())
        };
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], digest("sha256:a sha256:b"));
        assert_eq!(chain[2], digest(&format!("{} sha256:c", chain[1])));
    }

    #[test]
    fn an_index_is_searched_for_this_machine() {
        let of = |os: &str, architecture: &str| Descriptor {
            digest: format!("{os}/{architecture}"),
            platform: Some(Platform { os: os.into(), architecture: architecture.into() }),
            ..Default::default()
        };
        let here = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let list = [of("windows", here), of("linux", "s390x"), of("linux", here)];
        assert_eq!(choose(&list).unwrap().digest, format!("linux/{here}"));
        assert!(choose(&list[..2]).is_none());
        assert!(choose(&[Descriptor::default()]).is_some(), "one that does not say is taken");
    }
}
