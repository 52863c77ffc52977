//! What the kubelet asks of a runtime: CRI's calls as two async traits.

use crate::{EventStream, Result, v1};
use async_trait::async_trait;
use std::time::Duration;

/// Pods and containers.
#[async_trait]
pub trait RuntimeService: Send + Sync {
    /// Names and versions of the runtime.
    async fn version(&self) -> Result<v1::VersionResponse>;
    /// `RuntimeReady` and `NetworkReady`, and the handlers' features.
    async fn status(&self) -> Result<v1::StatusResponse>;
    /// The cgroup driver the runtime uses; `Unimplemented` before containerd 2.0.
    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse>;
    /// The snapshotter through which images can be mounted as volumes; none where the runtime mounts them itself.
    async fn image_snapshotter(&self) -> Result<Option<String>>;
    /// Creates and starts a sandbox with its network; returns its id.
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String>;
    /// Ends everything in a sandbox and gives its network back. Idempotent.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a sandbox and its containers. Idempotent.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    /// State and addresses of a sandbox.
    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus>;
    /// Sandboxes that match.
    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>>;
    /// Creates a container in a sandbox; returns its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal and, after `grace`, KILL. Idempotent.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a container, killing it if it runs. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Containers that match.
    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>>;
    /// State of one container.
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus>;
    /// Changes cgroup limits in place.
    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()>;
    /// Changes the sandbox's idea of the pod's resources; `Unimplemented` in older runtimes.
    async fn update_pod_sandbox_resources(&self, request: v1::UpdatePodSandboxResourcesRequest) -> Result<()>;
    /// Writes a container's state to the file `location`. A zero `timeout` is none; `Unimplemented` in older runtimes.
    async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> Result<()>;
    /// Makes the runtime open a rotated log anew.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;
    /// Runs a command to its end. A zero `timeout` is none.
    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Duration) -> Result<v1::ExecSyncResponse>;
    /// Prepares an exec stream; returns its URL at the runtime's streaming server.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String>;
    /// Prepares an attach stream; returns its URL.
    async fn attach(&self, request: v1::AttachRequest) -> Result<String>;
    /// Prepares port forwarding; returns its URL.
    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String>;
    /// Usage of one container.
    async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats>;
    /// Usage of the containers that match.
    async fn list_container_stats(&self, filter: v1::ContainerStatsFilter) -> Result<Vec<v1::ContainerStats>>;
    /// Usage of the sandboxes that match.
    async fn list_pod_sandbox_stats(&self, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>>;
    /// What happens to containers from now on.
    async fn events(&self) -> Result<EventStream>;
}

/// Images.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// All images.
    async fn list_images(&self) -> Result<Vec<v1::Image>>;
    /// One image, or none if it is not present.
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>>;
    /// Pulls; returns the reference (id) of what was pulled.
    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String>;
    /// Removes an image. Idempotent.
    async fn remove_image(&self, image: &str) -> Result<()>;
    /// Usage of the filesystems that hold images and writable layers.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse>;
}
