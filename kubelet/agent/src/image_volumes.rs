//! Volumes that are images: pulled before the containers that mount them, and shown read-only. Where the runtime can mount
//! an image it is asked to; where it cannot, the image's snapshot is mounted here and bound into the containers.

use crate::agent::Agent;
use crate::pull::Failure;
use crate::{mounts, pod};
use k8s_openapi::api::core::v1::{Container, Pod};
use skeg_cri::{SnapshotMount, Snapshots, v1};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// How an image volume gets into a container.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageVolume {
    /// The runtime mounts it.
    Runtime(v1::ImageSpec),
    /// It is mounted here on the host.
    Host(PathBuf),
}

/// Image volumes by name.
pub type ImageVolumes = HashMap<String, ImageVolume>;

/// Makes the image volumes that a container mounts ready.
pub async fn ensure(
    agent: &Agent,
    pod: &Pod,
    container: &Container,
    sandbox: &v1::PodSandboxConfig,
) -> Result<ImageVolumes, Failure> {
    let mut ready = ImageVolumes::new();
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(source) = &volume.image else { continue };
        if !container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
            continue;
        }
        let image = agent.puller.ensure_volume(pod, source, sandbox, &*agent.references).await?;
        let failed = |text: String| Failure { reason: "CreateContainerError", message: text, retry: None };
        let snapshotter = agent.runtime.image_snapshotter().await.map_err(|e| failed(e.to_string()))?;
        let shown = match snapshotter {
            None => ImageVolume::Runtime(v1::ImageSpec {
                image: image.id,
                user_specified_image: source.reference.clone().unwrap_or_default(),
                ..Default::default()
            }),
            Some(name) => {
                let shown = mount(agent, pod, &volume.name, &image.id, &name).await;
                let text = |e: String| format!("failed to mount image volume {:?}: {e}", volume.name);
                ImageVolume::Host(shown.map_err(|e| failed(text(e)))?)
            }
        };
        ready.insert(volume.name.clone(), shown);
    }
    Ok(ready)
}

async fn mount(agent: &Agent, pod: &Pod, volume: &str, image: &str, snapshotter: &str) -> Result<PathBuf, String> {
    let uid = pod::uid(pod);
    let target = agent.config.pod_dir(uid).join("volumes/kubernetes.io~image").join(volume);
    if mounts::is_mount_point(&target) {
        return Ok(target);
    }
    let snapshots = Snapshots::new(&agent.runtime_socket, snapshotter);
    let key = format!("skeg-volume-{uid}-{volume}");
    let found = snapshots.view(image, &key, uid).await.map_err(|e| e.to_string())?;
    let at = target.clone();
    let mounted = tokio::task::spawn_blocking(move || show(&found, &at)).await;
    mounted.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok(target)
}

/// Mounts a snapshot read-only.
fn show(mounts: &[SnapshotMount], target: &Path) -> io::Result<()> {
    let [mount] = mounts else { return Err(io::Error::other("the snapshot is not one mount")) };
    std::fs::create_dir_all(target)?;
    let (bind, data) = data(&mount.options);
    if bind || mount.kind == "bind" {
        return mounts::bind_read_only(Path::new(&mount.source), target);
    }
    mounts::mount_read_only(&mount.source, target, &mount.kind, &data)
}

/// Whether the options ask for a bind mount, and what of them is for the filesystem.
fn data(options: &[String]) -> (bool, String) {
    let bind = options.iter().any(|o| matches!(o.as_str(), "bind" | "rbind"));
    let own: Vec<&str> =
        options.iter().map(String::as_str).filter(|o| !matches!(*o, "bind" | "rbind" | "ro" | "rw")).collect();
    (bind, own.join(","))
}

/// Gives up what the runtime holds for a pod's image volumes, once they are unmounted.
pub async fn forget(agent: &Agent, pod: &Pod) -> Result<(), skeg_cri::Error> {
    // Of a pod that only the runtime knows it cannot be said what volumes it has.
    let none = pod.spec.as_ref().is_some_and(|spec| !spec.volumes.iter().flatten().any(|v| v.image.is_some()));
    if none {
        return Ok(());
    }
    match agent.runtime.image_snapshotter().await? {
        Some(name) => Snapshots::new(&agent.runtime_socket, name).remove_of(pod::uid(pod)).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_from_flags() {
        let options = |list: &[&str]| data(&list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(options(&["ro", "rbind"]), (true, String::new()));
        assert_eq!(options(&["index=off", "lowerdir=/a:/b"]), (false, "index=off,lowerdir=/a:/b".into()));
    }

    #[test]
    fn only_a_single_mount_can_be_shown() {
        assert!(show(&[], Path::new("/nonexistent")).is_err());
    }
}
