//! Volumes of pods: set up before the sandbox, kept up to date while the pod runs, taken down after its containers.
//! Does not own: which containers mount what, see `container`.

pub mod atomic;
mod ownership;
pub mod payload;
mod persistent;
pub mod subpath;
pub mod tokens;

use crate::config::Config;
use crate::quantity::ResourceList;
use crate::{mounts, pod, quantity, resources};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use payload::Sources;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A volume that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// Ready volumes by name.
pub type Volumes = HashMap<String, Ready>;

/// A volume that could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub struct SetUpError {
    /// Its name.
    pub volume: String,
    /// Why not.
    pub reason: String,
}

/// Sets up or updates all volumes of a pod. Idempotent.
pub async fn set_up(config: &Config, client: &kube::Client, sources: &Sources<'_>) -> Result<Volumes, SetUpError> {
    let mut ready = Volumes::new();
    // Images are the business of `image_volumes`: they are pulled like those of containers.
    for volume in pod::spec(sources.pod).volumes.iter().flatten().filter(|v| v.image.is_none()) {
        let done = one(config, client, sources, volume).await;
        let done = done.map_err(|reason| SetUpError { volume: volume.name.clone(), reason })?;
        ready.insert(volume.name.clone(), done);
    }
    Ok(ready)
}

fn text(context: &str) -> impl FnOnce(io::Error) -> String {
    let context = context.to_string();
    move |error| if context.is_empty() { error.to_string() } else { format!("{context}: {error}") }
}

async fn one(config: &Config, client: &kube::Client, sources: &Sources<'_>, volume: &Volume) -> Result<Ready, String> {
    let pod = sources.pod;
    let group = pod::spec(pod).security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok());
    let dir = |plugin: &str| {
        config.pod_dir(pod::uid(pod)).join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name)
    };
    if let Some(source) = &volume.empty_dir {
        let path = dir("empty-dir");
        empty_dir(&path, source, sources, group).map_err(text(""))?;
        return Ok(Ready { path, read_only: false });
    }
    if let Some(source) = &volume.host_path {
        host_path(source)?;
        return Ok(Ready { path: PathBuf::from(&source.path), read_only: false });
    }
    if let Some(payload) = payload::of_volume(sources, volume).await? {
        let path = dir(if volume.config_map.is_some() {
            "configmap"
        } else if volume.secret.is_some() {
            "secret"
        } else if volume.downward_api.is_some() {
            "downward-api"
        } else {
            "projected"
        });
        // What may be secret never touches the disk.
        let in_memory = volume.config_map.is_none();
        make_dir(&path, in_memory, None).map_err(text(""))?;
        // The whole volume, not only the new version: links of new names are made outside of it.
        let finish = |_: &Path| group.map_or(Ok(()), |group| ownership::set_group(&path, group, true));
        atomic::write(&path, &payload, &finish).map_err(text(""))?;
        return Ok(Ready { path, read_only: true });
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        let ready = persistent::resolve(client, pod, volume).await?;
        if let Some(group) = group.filter(|_| !ready.read_only && !ready.shared) {
            let policy = pod::spec(pod).security_context.as_ref().and_then(|c| c.fs_group_change_policy.as_deref());
            if policy != Some("OnRootMismatch") || !ownership::root_matches(&ready.path, group, false) {
                ownership::set_group(&ready.path, group, false).map_err(text("fsGroup"))?;
            }
        }
        return Ok(Ready { path: ready.path, read_only: ready.read_only });
    }
    Err("no volume plugin matched".into())
}

/// Makes a volume's directory; in memory it is a file system of its own.
fn make_dir(path: &Path, in_memory: bool, size: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if in_memory && !mounts::is_mount_point(path) {
        let options = size.map_or_else(String::new, |bytes| format!("size={bytes}"));
        mounts::mount("tmpfs", path, "tmpfs", &options)?;
    }
    Ok(())
}

/// How much a volume in memory may hold: no more than its own limit, the pod's, or what all pods of the node may use.
fn memory_size(source: &EmptyDirVolumeSource, pod: &Pod, allocatable: &ResourceList) -> Option<i64> {
    let own = source.size_limit.as_ref().map(quantity::value);
    let node = quantity::value_of(Some(allocatable), "memory");
    [own, resources::totals(pod).memory_limit, node].into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, sources: &Sources<'_>, group: Option<u32>) -> io::Result<()> {
    let existed = path.exists();
    let medium = source.medium.as_deref().unwrap_or_default();
    match medium {
        "" => make_dir(path, false, None)?,
        "Memory" => {
            make_dir(path, true, memory_size(source, sources.pod, sources.allocatable))?;
        }
        medium if medium.starts_with("HugePages") => {
            fs::create_dir_all(path)?;
            if !mounts::is_mount_point(path) {
                let size = medium.strip_prefix("HugePages-").map(|s| format!("pagesize={}", s.trim_end_matches('i')));
                mounts::mount("nodev", path, "hugetlbfs", &size.unwrap_or_default())?;
            }
        }
        other => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown storage medium {other:?}"))),
    }
    if !existed {
        if medium.is_empty() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        }
        if let Some(group) = group {
            ownership::set_group(path, group, false)?;
        }
    }
    Ok(())
}

/// Checks, or makes, what a hostPath names.
fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let meta = fs::metadata(path);
    let is = |test: &dyn Fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| test(&m.file_type()));
    let fine = match kind {
        "" => true,
        "DirectoryOrCreate" if meta.is_err() => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map(|()| true)
            .map_err(text(""))?,
        "FileOrCreate" if meta.is_err() => {
            let make = fs::OpenOptions::new().create(true).append(true).open(path);
            make.and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o644))).map(|()| true).map_err(text(""))?
        }
        "DirectoryOrCreate" | "Directory" => is(&fs::FileType::is_dir),
        "FileOrCreate" | "File" => is(&fs::FileType::is_file),
        "Socket" => is(&FileTypeExt::is_socket),
        "CharDevice" => is(&FileTypeExt::is_char_device),
        "BlockDevice" => is(&FileTypeExt::is_block_device),
        other => return Err(format!("unknown hostPath type {other:?}")),
    };
    let what = match kind {
        "DirectoryOrCreate" | "Directory" => "directory",
        "FileOrCreate" | "File" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        _ => "block device",
    };
    if fine { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {what}", source.path)) }
}

/// Takes down what was mounted for a pod and removes its directory. What hostPath and claims show is not touched.
pub fn tear_down(config: &Config, uid: &str) -> io::Result<()> {
    let dir = config.pod_dir(uid);
    mounts::unmount_beneath(&dir);
    if mounts::any_beneath(&dir) {
        // Removing now would remove what is mounted, not ours.
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} still has mounts", dir.display())));
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn a_volume_in_memory_holds_no_more_than_its_pod_and_node_have() {
        let check = |size: Option<&str>, pod_limit: Option<&str>| {
            let source = serde_json::json!({"medium": "Memory", "sizeLimit": size});
            let limits = pod_limit.map(|memory| serde_json::json!({"memory": memory}));
            let container = serde_json::json!({"name": "c", "resources": {"limits": limits}});
            let pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [container]}})).unwrap();
            let node = ResourceList::from([("memory".to_string(), Quantity("1000".into()))]);
            memory_size(&serde_json::from_value(source).unwrap(), &pod, &node)
        };
        assert_eq!(check(None, None), Some(1000));
        assert_eq!(check(Some("100"), None), Some(100));
        assert_eq!(check(Some("2000"), Some("500")), Some(500));
        assert_eq!(check(Some("0"), Some("2000")), Some(1000));
    }

    #[test]
    fn host_paths_are_what_their_type_says() {
        let check = |path: &str, kind: &str| {
            host_path(&HostPathVolumeSource { path: path.into(), type_: Some(kind.into()) }).is_ok()
        };
        for (path, kind, fine) in [
            ("/tmp", "Directory", true),
            ("/tmp", "File", false),
            ("/etc/passwd", "File", true),
            ("/dev/null", "CharDevice", true),
            ("/dev/null", "Socket", false),
            ("/nonexistent", "", true),
            ("/nonexistent", "Directory", false),
        ] {
            assert_eq!(check(path, kind), fine, "{path} {kind}");
        }
    }
}
