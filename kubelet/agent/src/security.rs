//! Security contexts of sandboxes and containers. Pure.

use crate::observed::Observed;
use crate::pod;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use skeg_cri::v1;
use std::path::Path;
use std::sync::LazyLock;

static NONE: LazyLock<PodSecurityContext> = LazyLock::new(PodSecurityContext::default);
static NONE_OF_CONTAINER: LazyLock<SecurityContext> = LazyLock::new(SecurityContext::default);

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_MORE: &str = "/sys/devices/virtual/powercap";
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn of_pod(pod: &Pod) -> &PodSecurityContext {
    pod::spec(pod).security_context.as_ref().unwrap_or(&NONE)
}

fn of_container(container: &Container) -> &SecurityContext {
    container.security_context.as_ref().unwrap_or(&NONE_OF_CONTAINER)
}

/// Whether a container is privileged.
pub fn privileged(container: &Container) -> bool {
    of_container(container).privileged == Some(true)
}

fn any_privileged(pod: &Pod) -> bool {
    let all = pod::spec(pod).containers.iter().chain(pod::init_containers(pod));
    all.into_iter().any(privileged) || pod::ephemeral_containers(pod).iter().any(privileged)
}

/// Namespaces of a pod; a container of it may aim at another container's processes.
fn namespaces(pod: &Pod, target: Option<&str>) -> v1::NamespaceOption {
    let spec = pod::spec(pod);
    let node = |on: Option<bool>| if on == Some(true) { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = if target.is_some() {
        v1::NamespaceMode::Target
    } else if spec.host_pid == Some(true) {
        v1::NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: node(spec.host_network) as i32,
        ipc: node(spec.host_ipc) as i32,
        pid: pid as i32,
        target_id: target.unwrap_or_default().to_string(),
        userns_options: None,
    }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, profiles: &Path) -> Result<v1::SecurityProfile, String> {
    use v1::security_profile::ProfileType;
    let of = |kind: ProfileType| v1::SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() };
    if privileged {
        return Ok(of(ProfileType::Unconfined));
    }
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        None | Some(("Unconfined", _)) => Ok(of(ProfileType::Unconfined)),
        Some(("RuntimeDefault", _)) => Ok(of(ProfileType::RuntimeDefault)),
        Some(("Localhost", Some(file))) if !file.is_empty() => {
            // Fails closed: a profile that cannot be found is never replaced by none.
            if Path::new(file).is_absolute() || file.split('/').any(|part| part == "..") {
                return Err(format!("seccomp profile {file:?} must be a path beneath the profile directory"));
            }
            let path = profiles.join(file);
            if !path.is_file() {
                return Err(format!("cannot load seccomp profile {file:?}: no such file"));
            }
            let mut profile = of(ProfileType::Localhost);
            profile.localhost_ref = path.to_string_lossy().into_owned();
            Ok(profile)
        }
        Some(("Localhost", _)) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        Some((other, _)) => Err(format!("unknown seccomp profile type {other:?}")),
    }
}

fn selinux(options: Option<&k8s_openapi::api::core::v1::SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    let options = options?;
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    Some(v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    })
}

fn value(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

/// Groups that volumes add.
fn supplemental(pod: &Pod) -> Vec<i64> {
    let context = of_pod(pod);
    let mut groups = Vec::new();
    groups.extend(context.fs_group);
    groups.extend(context.supplemental_groups.iter().flatten());
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let strict = of_pod(pod).supplemental_groups_policy.as_deref() == Some("Strict");
    (if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge }) as i32
}

/// The sandbox's context.
pub fn sandbox(pod: &Pod, profiles: &Path) -> Result<v1::LinuxSandboxSecurityContext, String> {
    let context = of_pod(pod);
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: value(context.run_as_user),
        run_as_group: value(context.run_as_user.and(context.run_as_group)),
        supplemental_groups: supplemental(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: any_privileged(pod),
        // The pause program needs nothing: upstream confines it with the runtime's default.
        seccomp: Some(seccomp(
            Some(&SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            any_privileged(pod),
            profiles,
        )?),
        ..Default::default()
    })
}

/// The user of an image, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// Numeric user.
    pub uid: Option<i64>,
    /// User's name.
    pub name: String,
}

/// Refuses a container that must not run as root and would, or might.
pub fn verify_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let own = of_container(container);
    let required = own.run_as_non_root.or(of_pod(pod).run_as_non_root);
    if required != Some(true) {
        return Ok(());
    }
    let title = pod::title(pod);
    let name = &container.name;
    match own.run_as_user.or(of_pod(pod).run_as_user) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy (pod: \"{title}\", container: {name})")),
        Some(_) => Ok(()),
        None => match image.uid {
            Some(0) => Err(format!(
                "container has runAsNonRoot and image will run as root (pod: \"{title}\", container: {name})"
            )),
            None if !image.name.is_empty() => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root (pod: \"{title}\", container: {name})",
                image.name
            )),
            _ => Ok(()),
        },
    }
}

/// A container's context. `target` is the container whose processes an ephemeral container wants to see.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    profiles: &Path,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let own = of_container(container);
    let shared = of_pod(pod);
    let privileged = privileged(container);
    let user = own.run_as_user.or(shared.run_as_user);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    let mut masked: Vec<String> = MASKED.iter().map(ToString::to_string).collect();
    masked.push(MASKED_MORE.into());
    let mut context = v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: list(&c.add),
            drop_capabilities: list(&c.drop),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(shared.se_linux_options.as_ref())),
        run_as_group: value(own.run_as_group.or(shared.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: if unmasked { Vec::new() } else { masked },
        readonly_paths: if unmasked { Vec::new() } else { READ_ONLY.iter().map(ToString::to_string).collect() },
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()), privileged, profiles)?),
        ..Default::default()
    };
    match user.or(image.uid) {
        Some(uid) => context.run_as_user = value(Some(uid)),
        None => context.run_as_username = image.name.clone(),
    }
    Ok(context)
}

/// The id of the container that an ephemeral container aims at.
pub fn target_of(pod: &Pod, name: &str, observed: &Observed) -> Option<String> {
    let ephemeral = pod::spec(pod).ephemeral_containers.iter().flatten().find(|e| e.name == name)?;
    let target = ephemeral.target_container_name.as_deref().filter(|t| !t.is_empty())?;
    observed.container(target).map(|c| c.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(context: serde_json::Value, of_container: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "securityContext": context, "containers": [{"name": "c", "securityContext": of_container}]}}))
        .unwrap()
    }

    #[test]
    fn run_as_non_root_is_checked_against_spec_and_image() {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let image = |uid: Option<i64>, name: &str| ImageUser { uid, name: name.into() };
        for (shared, own, user, fine) in [
            ("{}", "{}", image(Some(0), ""), true),
            (r#"{"runAsNonRoot":true}"#, "{}", image(Some(0), ""), false),
            (r#"{"runAsNonRoot":true}"#, "{}", image(Some(1000), ""), true),
            (r#"{"runAsNonRoot":true}"#, "{}", image(None, "nginx"), false),
            (r#"{"runAsNonRoot":true}"#, r#"{"runAsUser":7}"#, image(Some(0), ""), true),
            (r#"{"runAsNonRoot":true,"runAsUser":7}"#, r#"{"runAsUser":0}"#, image(None, ""), false),
            (r#"{"runAsNonRoot":true}"#, r#"{"runAsNonRoot":false}"#, image(Some(0), ""), true),
        ] {
            let pod = pod(json(shared), json(own));
            let verdict = verify_non_root(&pod, &pod::spec(&pod).containers[0], &user);
            assert_eq!(verdict.is_ok(), fine, "{shared} {own} {user:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_missing_local_seccomp_profile_fails_closed() {
        let local = serde_json::json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}});
        let pod = pod(local, serde_json::json!({}));
        let made =
            container(&pod, &pod::spec(&pod).containers[0], &ImageUser::default(), None, Path::new("/nonexistent"));
        assert!(made.unwrap_err().contains("cannot load seccomp profile"));
    }

    #[test]
    fn a_privileged_container_is_not_masked_and_makes_its_sandbox_privileged() {
        let pod = pod(serde_json::json!({}), serde_json::json!({"privileged": true}));
        let made =
            container(&pod, &pod::spec(&pod).containers[0], &ImageUser::default(), None, Path::new("/")).unwrap();
        assert!(made.privileged && made.masked_paths.is_empty() && made.readonly_paths.is_empty());
        assert!(sandbox(&pod, Path::new("/")).unwrap().privileged);
    }
}
