//! The configuration of a container: command, environment, mounts, limits, security.

use crate::agent::Agent;
use crate::image_volumes::{ImageVolume, ImageVolumes};
use crate::observed::Observed;
use crate::security::{self, ImageUser};
use crate::volumes::{Volumes, subpath};
use crate::{env, hosts, labels, pod, resources};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use skeg_cri::v1;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Everything a container's configuration is made from, beside the agent.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Restarts before this one.
    pub restarts: u32,
    /// What runs.
    pub observed: &'a Observed,
    /// Addresses of the pod.
    pub pod_ips: &'a [String],
    /// Volumes that are ready.
    pub volumes: &'a Volumes,
    /// Image volumes that are ready.
    pub images: &'a ImageVolumes,
    /// Id of the image.
    pub image_id: &'a str,
    /// Its user.
    pub image_user: &'a ImageUser,
}

/// Makes the configuration and the files it needs. An error is for the pod's user (CreateContainerConfigError).
pub async fn config(agent: &Agent, request: &Request<'_>) -> Result<v1::ContainerConfig, String> {
    let (pod, container) = (request.pod, request.container);
    security::verify_non_root(pod, container, request.image_user)?;
    let view = agent.node_view();
    let services = agent.services.snapshot();
    let context = env::Context {
        pod,
        pod_ips: request.pod_ips,
        node_ips: &view.ips,
        allocatable: &view.allocatable,
        services: &services,
        volumes: request.volumes,
    };
    let variables = env::variables(&context, container, &*agent.references).await?;
    let value = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| env::expand(text, &value)).collect();
    let logs = agent.config.pod_logs(pod::namespace(pod), pod::name(pod), pod::uid(pod)).join(&container.name);
    make_dir(&logs, 0o755)?;
    let target = security::target_of(pod, &container.name, request.observed);
    let security =
        security::container(pod, container, request.image_user, target.as_deref(), &agent.config.seccomp_dir())?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: request.restarts }),
        image: Some(v1::ImageSpec {
            image: request.image_id.into(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts(agent, request, &value)?,
        envs: variables.iter().map(|(k, v)| v1::KeyValue { key: k.clone(), value: v.clone().into_bytes() }).collect(),
        labels: labels::container(pod, &container.name),
        annotations: labels::container_annotations(pod, container, request.restarts),
        log_path: format!("{}/{}.log", container.name, request.restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container_resources(
                pod,
                container,
                agent.machine.memory,
                &agent.machine.hugepages,
            )),
            security_context: Some(security),
        }),
        stop_signal: stop_signal(container),
        ..Default::default()
    })
}

fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    v1::Signal::from_str_name(&name.replace('+', "PLUS").replace('-', "MINUS")).map_or(0, |s| s as i32)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), String> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|e| format!("cannot make {}: {e}", path.display()))
}

fn mounts(
    agent: &Agent,
    request: &Request<'_>,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, String> {
    let container = request.container;
    let pod_dir = agent.config.pod_dir(pod::uid(request.pod));
    let mut mounts = Vec::new();
    let mut hosts_mounted = false;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        hosts_mounted |= mount.mount_path == "/etc/hosts";
        mounts.push(one_mount(request, &pod_dir, index, mount, value)?);
    }
    // The hosts file needs addresses: those of the host, or the pod's own.
    if !hosts_mounted && (pod::host_network(request.pod) || !request.pod_ips.is_empty()) {
        let path = pod_dir.join("etc-hosts");
        let host_file = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let text = hosts::file(request.pod, request.pod_ips, &agent.config.cluster_domain, &host_file);
        make_dir(&pod_dir, 0o750)?;
        write_in_place(&path, &text)?;
        mounts.push(bind("/etc/hosts", &path));
    }
    if let Some(inside) = container.termination_message_path.as_deref().filter(|p| !p.is_empty()) {
        let dir = pod_dir.join("containers").join(&container.name);
        make_dir(&dir, 0o750)?;
        let path = dir.join(format!("{:08x}", rand::random::<u32>()));
        let make = fs::File::create(&path).and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o666)));
        make.map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        mounts.push(bind(inside, &path));
    }
    Ok(mounts)
}

/// Writes without replacing the file: containers have it mounted.
fn write_in_place(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn bind(inside: &str, path: &Path) -> v1::Mount {
    v1::Mount { container_path: inside.into(), host_path: path.to_string_lossy().into_owned(), ..Default::default() }
}

fn one_mount(
    request: &Request<'_>,
    pod_dir: &Path,
    index: usize,
    mount: &VolumeMount,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<v1::Mount, String> {
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => expand_sub_path(expression, value)?,
        _ => String::new(),
    };
    let container_path =
        if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
    let (path, read_only) = match request.images.get(&mount.name) {
        Some(ImageVolume::Runtime(image)) => {
            let (image, image_sub_path) = (Some(image.clone()), sub);
            return Ok(v1::Mount { container_path, image, image_sub_path, readonly: true, ..Default::default() });
        }
        Some(ImageVolume::Host(path)) => (path, true),
        None => {
            let volume = request.volumes.get(&mount.name).ok_or_else(|| {
                format!("cannot find volume {:?} to mount into container {:?}", mount.name, request.container.name)
            })?;
            (&volume.path, volume.read_only)
        }
    };
    let host_path: PathBuf = if sub.is_empty() {
        path.clone()
    } else {
        let target =
            pod_dir.join("volume-subpaths").join(&mount.name).join(&request.container.name).join(index.to_string());
        subpath::bind(path, &sub, &target).map_err(|e| {
            format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                mount.name, request.container.name
            )
        })?
    };
    if !host_path.exists() {
        // As upstream and docker do: a hostPath without a type that is not there is made.
        fs::create_dir_all(&host_path).map_err(|e| format!("cannot make {}: {e}", host_path.display()))?;
    }
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    Ok(v1::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only == Some(true) || read_only,
        propagation: propagation as i32,
        recursive_read_only: mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..Default::default()
    })
}

fn expand_sub_path(expression: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(Vec::new());
    let lookup = |name: &str| {
        let found = value(name);
        if found.is_none() {
            missing.borrow_mut().push(name.to_string());
        }
        found
    };
    let expanded = env::expand(expression, &lookup);
    let missing = missing.into_inner();
    if missing.is_empty() {
        Ok(expanded)
    } else {
        Err(format!("missing value for {:?} in subPathExpr {expression:?}", missing[0]))
    }
}
