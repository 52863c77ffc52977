//! [`RuntimeService`] and [`ImageService`] over a unix socket. The connection is made when it is first needed and again
//! whenever the runtime has been restarted.

use crate::service::{ImageService, RuntimeService};
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Error, EventStream, Result, events, v1};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// How long a call may take that has no reason to take longer (upstream's `runtimeRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(120);
/// Largest answer taken (upstream's maxMsgSize).
const MAX_MESSAGE: usize = 16 << 20;

/// A CRI client.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    socket: PathBuf,
}

impl Client {
    /// A client for the runtime that listens, or will listen, at `socket`. `unix://` in front is allowed.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        let socket = socket.as_ref();
        let socket = match socket.to_str().and_then(|s| s.strip_prefix("unix://")) {
            Some(path) => PathBuf::from(path),
            None => socket.to_path_buf(),
        };
        Self { channel: channel(&socket), socket }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn image(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A channel over a unix socket.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_path_buf();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// Runs one unary call with a deadline and names the operation in its error.
macro_rules! call {
    ($client:expr, $method:ident, $operation:literal, $message:expr) => {
        call!($client, $method, $operation, $message, Some(TIMEOUT))
    };
    ($client:expr, $method:ident, $operation:literal, $message:expr, $timeout:expr) => {{
        let mut client = $client;
        let mut request = Request::new($message);
        let timeout: Option<Duration> = $timeout;
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        client
            .$method(request)
            .await
            .map(|response| response.into_inner())
            .map_err(|status| Error::status($operation, &status))?
    }};
}

/// Whether a containerd of this version can mount images into containers.
fn mounts_images(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (2, 1)
}

fn missing(operation: &'static str) -> Error {
    Error::new(operation, Code::Internal, "the runtime's answer is empty")
}

#[async_trait]
impl RuntimeService for Client {
    async fn version(&self) -> Result<v1::VersionResponse> {
        Ok(call!(self.runtime(), version, "Version", v1::VersionRequest { version: "0.1.0".into() }))
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        Ok(call!(self.runtime(), status, "Status", v1::StatusRequest::default()))
    }

    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse> {
        Ok(call!(self.runtime(), runtime_config, "RuntimeConfig", v1::RuntimeConfigRequest {}))
    }

    async fn image_snapshotter(&self) -> Result<Option<String>> {
        let version = self.version().await?;
        if version.runtime_name != "containerd" || mounts_images(&version.runtime_version) {
            return Ok(None);
        }
        let status = call!(self.runtime(), status, "Status", v1::StatusRequest { verbose: true });
        let config = status.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        let named = config.and_then(|c| c["containerd"]["snapshotter"].as_str().map(str::to_string));
        Ok(Some(named.filter(|name| !name.is_empty()).unwrap_or_else(|| "overlayfs".into())))
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        // Twice the usual time: upstream does the same, because networks can be slow.
        Ok(call!(self.runtime(), run_pod_sandbox, "RunPodSandbox", request, Some(TIMEOUT * 2)).pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        call!(self.runtime(), stop_pod_sandbox, "StopPodSandbox", request);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        call!(self.runtime(), remove_pod_sandbox, "RemovePodSandbox", request);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        call!(self.runtime(), pod_sandbox_status, "PodSandboxStatus", request)
            .status
            .ok_or_else(|| missing("PodSandboxStatus"))
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call!(self.runtime(), list_pod_sandbox, "ListPodSandbox", request).items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime(), create_container, "CreateContainer", request).container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: id.into() };
        call!(self.runtime(), start_container, "StartContainer", request);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.into(), timeout };
        call!(self.runtime(), stop_container, "StopContainer", request, Some(TIMEOUT.saturating_add(grace)));
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: id.into() };
        call!(self.runtime(), remove_container, "RemoveContainer", request);
        Ok(())
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        Ok(call!(self.runtime(), list_containers, "ListContainers", request).containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: false };
        call!(self.runtime(), container_status, "ContainerStatus", request)
            .status
            .ok_or_else(|| missing("ContainerStatus"))
    }

    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let request =
            v1::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
        call!(self.runtime(), update_container_resources, "UpdateContainerResources", request);
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, request: v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        call!(self.runtime(), update_pod_sandbox_resources, "UpdatePodSandboxResources", request);
        Ok(())
    }

    async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> Result<()> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request =
            v1::CheckpointContainerRequest { container_id: id.into(), location: location.into(), timeout: seconds };
        let deadline = if timeout.is_zero() { None } else { Some(TIMEOUT.saturating_add(timeout)) };
        call!(self.runtime(), checkpoint_container, "CheckpointContainer", request, deadline);
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.into() };
        call!(self.runtime(), reopen_container_log, "ReopenContainerLog", request);
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Duration) -> Result<v1::ExecSyncResponse> {
        let seconds = timeout.as_secs_f64().ceil() as i64;
        let request = v1::ExecSyncRequest { container_id: id.into(), cmd: command, timeout: seconds };
        let deadline = if timeout.is_zero() { None } else { Some(TIMEOUT.saturating_add(timeout)) };
        Ok(call!(self.runtime(), exec_sync, "ExecSync", request, deadline))
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        Ok(call!(self.runtime(), exec, "Exec", request).url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        Ok(call!(self.runtime(), attach, "Attach", request).url)
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        Ok(call!(self.runtime(), port_forward, "PortForward", request).url)
    }

    async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        let request = v1::ContainerStatsRequest { container_id: id.into() };
        call!(self.runtime(), container_stats, "ContainerStats", request).stats.ok_or_else(|| missing("ContainerStats"))
    }

    async fn list_container_stats(&self, filter: v1::ContainerStatsFilter) -> Result<Vec<v1::ContainerStats>> {
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        Ok(call!(self.runtime(), list_container_stats, "ListContainerStats", request).stats)
    }

    async fn list_pod_sandbox_stats(&self, filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>> {
        let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
        Ok(call!(self.runtime(), list_pod_sandbox_stats, "ListPodSandboxStats", request).stats)
    }

    async fn events(&self) -> Result<EventStream> {
        events::subscribe(self.channel.clone()).await
    }
}

#[async_trait]
impl ImageService for Client {
    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        Ok(call!(self.image(), list_images, "ListImages", v1::ListImagesRequest::default()).images)
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>> {
        let image = Some(v1::ImageSpec { image: image.into(), ..Default::default() });
        Ok(call!(self.image(), image_status, "ImageStatus", v1::ImageStatusRequest { image, verbose: false }).image)
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String> {
        let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config };
        Ok(call!(self.image(), pull_image, "PullImage", request, None).image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let image = Some(v1::ImageSpec { image: image.into(), ..Default::default() });
        call!(self.image(), remove_image, "RemoveImage", v1::RemoveImageRequest { image });
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(call!(self.image(), image_fs_info, "ImageFsInfo", v1::ImageFsInfoRequest {}))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn images_are_mounted_by_containerd_from_2_1_on() {
        for (version, mounts) in
            [("1.6.20~ds1", false), ("1.7.27", false), ("2.0.5", false), ("2.1.0", true), ("v2.4.2", true)]
        {
            assert_eq!(super::mounts_images(version), mounts, "{version}");
        }
    }
}
