//! A runtime in memory that records every call and fails when told to.

use crate::{Error, EventKind, EventStream, ImageService, Result, RuntimeEvent, RuntimeService, v1};
use async_trait::async_trait;
use futures::StreamExt;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Code;

/// A recorded call: the CRI operation and what it was about (a name, an image or an id).
pub type Call = (&'static str, String);

/// The fake. Clones share one state.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    failures: HashMap<&'static str, VecDeque<Error>>,
    sandboxes: BTreeMap<String, (v1::PodSandbox, v1::PodSandboxConfig)>,
    containers: BTreeMap<String, (v1::ContainerStatus, v1::ContainerConfig, String)>,
    images: BTreeMap<String, v1::Image>,
    exec: VecDeque<v1::ExecSyncResponse>,
    watchers: Vec<mpsc::UnboundedSender<RuntimeEvent>>,
    next: u64,
    now: i64,
}

impl State {
    fn begin(&mut self, operation: &'static str, about: &str) -> Result<()> {
        self.calls.push((operation, about.to_string()));
        self.now += 1_000_000;
        match self.failures.get_mut(operation).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    fn emit(&mut self, id: &str, kind: EventKind) {
        self.watchers.retain(|w| w.send(RuntimeEvent { id: id.into(), kind }).is_ok());
    }
}

fn not_found(operation: &'static str, id: &str) -> Error {
    Error::new(operation, Code::NotFound, format!("{id} not found"))
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

impl FakeRuntime {
    /// An empty runtime.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes the next call of `operation` that has no failure queued before it fail.
    pub fn fail_next(&self, operation: &'static str, code: Code, message: &str) {
        let error = Error::new(operation, code, message);
        self.lock().failures.entry(operation).or_default().push_back(error);
    }

    /// Takes the calls recorded so far.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    /// Makes an image present.
    pub fn add_image(&self, name: &str) {
        let image =
            v1::Image { id: format!("sha256:{name}"), repo_tags: vec![name.into()], size: 1000, ..Default::default() };
        self.lock().images.insert(name.into(), image);
    }

    /// Ends a running container by itself.
    pub fn exit(&self, container: &str, code: i32) {
        let mut state = self.lock();
        state.now += 1_000_000;
        let now = state.now;
        if let Some((status, ..)) = state.containers.get_mut(container) {
            status.state = v1::ContainerState::ContainerExited as i32;
            status.exit_code = code;
            status.finished_at = now;
            status.reason = if code == 0 { "Completed" } else { "Error" }.into();
        }
        state.emit(container, EventKind::Stopped);
    }

    /// The answer of the next ExecSync; without one it is success and no output.
    pub fn answer_exec(&self, exit_code: i32, stdout: &str) {
        let stdout = stdout.as_bytes().to_vec();
        self.lock().exec.push_back(v1::ExecSyncResponse { stdout, stderr: Vec::new(), exit_code });
    }

    /// Ids of the containers with this name in their metadata, oldest first.
    pub fn containers_named(&self, name: &str) -> Vec<String> {
        let state = self.lock();
        let mut found: Vec<_> = state
            .containers
            .values()
            .filter(|(s, ..)| s.metadata.as_ref().is_some_and(|m| m.name == name))
            .map(|(s, ..)| (s.created_at, s.id.clone()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The configuration a container was created with.
    pub fn container_config(&self, id: &str) -> Option<v1::ContainerConfig> {
        self.lock().containers.get(id).map(|(_, config, _)| config.clone())
    }

    /// The configuration a sandbox was created with.
    pub fn sandbox_config(&self, id: &str) -> Option<v1::PodSandboxConfig> {
        self.lock().sandboxes.get(id).map(|(_, config)| config.clone())
    }
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self) -> Result<v1::VersionResponse> {
        self.lock().begin("Version", "")?;
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1.0".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn image_snapshotter(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        self.lock().begin("Status", "")?;
        let conditions = ["RuntimeReady", "NetworkReady"]
            .map(|t| v1::RuntimeCondition { r#type: t.into(), status: true, ..Default::default() })
            .to_vec();
        Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
    }

    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse> {
        self.lock().begin("RuntimeConfig", "")?;
        Err(Error::new("RuntimeConfig", Code::Unimplemented, "unknown method"))
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut state = self.lock();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        state.begin("RunPodSandbox", &name)?;
        let id = state.id("sandbox");
        let sandbox = v1::PodSandbox {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at: state.now,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: handler.into(),
        };
        state.sandboxes.insert(id.clone(), (sandbox, config));
        state.emit(&id, EventKind::Started);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.lock();
        state.begin("StopPodSandbox", id)?;
        let now = state.now;
        if let Some((sandbox, _)) = state.sandboxes.get_mut(id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        }
        for (status, _, sandbox) in state.containers.values_mut() {
            if sandbox == id && status.state == v1::ContainerState::ContainerRunning as i32 {
                status.state = v1::ContainerState::ContainerExited as i32;
                status.exit_code = 137;
                status.finished_at = now;
            }
        }
        state.emit(id, EventKind::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.lock();
        state.begin("RemovePodSandbox", id)?;
        state.sandboxes.remove(id);
        state.containers.retain(|_, (_, _, sandbox)| sandbox != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let mut state = self.lock();
        state.begin("PodSandboxStatus", id)?;
        let (sandbox, config) = state.sandboxes.get(id).ok_or_else(|| not_found("PodSandboxStatus", id))?;
        let options =
            config.linux.as_ref().and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.clone());
        let host = options.as_ref().is_some_and(|o| o.network == v1::NamespaceMode::Node as i32);
        let ip = if host { String::new() } else { "10.0.0.2".into() };
        Ok(v1::PodSandboxStatus {
            id: id.into(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: sandbox.labels.clone(),
            annotations: sandbox.annotations.clone(),
            runtime_handler: sandbox.runtime_handler.clone(),
        })
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let mut state = self.lock();
        state.begin("ListPodSandbox", "")?;
        let matches = |s: &v1::PodSandbox| {
            (filter.id.is_empty() || filter.id == s.id)
                && filter.state.as_ref().is_none_or(|v| v.state == s.state)
                && selected(&s.labels, &filter.label_selector)
        };
        Ok(state.sandboxes.values().map(|(s, _)| s).filter(|s| matches(s)).cloned().collect())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        _sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let mut state = self.lock();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        state.begin("CreateContainer", &name)?;
        if !state.sandboxes.contains_key(sandbox) {
            return Err(not_found("CreateContainer", sandbox));
        }
        let id = state.id("container");
        let image = config.image.clone().unwrap_or_default();
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: state.now,
            image_ref: image.image.clone(),
            image_id: image.image.clone(),
            image: Some(image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), (status, config, sandbox.into()));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut state = self.lock();
        state.begin("StartContainer", id)?;
        let now = state.now;
        let (status, ..) = state.containers.get_mut(id).ok_or_else(|| not_found("StartContainer", id))?;
        status.state = v1::ContainerState::ContainerRunning as i32;
        status.started_at = now;
        state.emit(id, EventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let mut state = self.lock();
        state.begin("StopContainer", &format!("{id} {}", grace.as_secs()))?;
        let now = state.now;
        if let Some((status, ..)) = state.containers.get_mut(id)
            && status.state == v1::ContainerState::ContainerRunning as i32
        {
            status.state = v1::ContainerState::ContainerExited as i32;
            status.exit_code = 137;
            status.finished_at = now;
            status.reason = "Error".into();
            state.emit(id, EventKind::Stopped);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.lock();
        state.begin("RemoveContainer", id)?;
        state.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let mut state = self.lock();
        state.begin("ListContainers", "")?;
        let matches = |s: &v1::ContainerStatus, sandbox: &str| {
            (filter.id.is_empty() || filter.id == s.id)
                && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == sandbox)
                && filter.state.as_ref().is_none_or(|v| v.state == s.state)
                && selected(&s.labels, &filter.label_selector)
        };
        let found = state.containers.values().filter(|(s, _, sandbox)| matches(s, sandbox));
        Ok(found
            .map(|(s, _, sandbox)| v1::Container {
                id: s.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: s.metadata.clone(),
                image: s.image.clone(),
                image_ref: s.image_ref.clone(),
                image_id: s.image_id.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let mut state = self.lock();
        state.begin("ContainerStatus", id)?;
        state.containers.get(id).map(|(s, ..)| s.clone()).ok_or_else(|| not_found("ContainerStatus", id))
    }

    async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let mut state = self.lock();
        state.begin("UpdateContainerResources", id)?;
        let (status, ..) = state.containers.get_mut(id).ok_or_else(|| not_found("UpdateContainerResources", id))?;
        status.resources = Some(v1::ContainerResources { linux: Some(linux) });
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, request: v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.lock().begin("UpdatePodSandboxResources", &request.pod_sandbox_id)
    }

    async fn checkpoint_container(&self, id: &str, _: &str, _: Duration) -> Result<()> {
        self.lock().begin("CheckpointContainer", id)?;
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.lock().begin("ReopenContainerLog", id)
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, _timeout: Duration) -> Result<v1::ExecSyncResponse> {
        let mut state = self.lock();
        state.begin("ExecSync", &format!("{id} {}", command.join(" ")))?;
        Ok(state.exec.pop_front().unwrap_or_default())
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        self.lock().begin("Exec", &request.container_id)?;
        Ok("http://127.0.0.1:0/exec".into())
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        self.lock().begin("Attach", &request.container_id)?;
        Ok("http://127.0.0.1:0/attach".into())
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        self.lock().begin("PortForward", &request.pod_sandbox_id)?;
        Ok("http://127.0.0.1:0/portforward".into())
    }

    async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        self.lock().begin("ContainerStats", id)?;
        Err(not_found("ContainerStats", id))
    }

    async fn list_container_stats(&self, _filter: v1::ContainerStatsFilter) -> Result<Vec<v1::ContainerStats>> {
        self.lock().begin("ListContainerStats", "")?;
        Ok(Vec::new())
    }

    async fn list_pod_sandbox_stats(&self, _filter: v1::PodSandboxStatsFilter) -> Result<Vec<v1::PodSandboxStats>> {
        self.lock().begin("ListPodSandboxStats", "")?;
        Ok(Vec::new())
    }

    async fn events(&self) -> Result<EventStream> {
        let mut state = self.lock();
        state.begin("Events", "")?;
        let (tx, rx) = mpsc::unbounded_channel();
        state.watchers.push(tx);
        Ok(futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|event| (Ok(event), rx)) }).boxed())
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        let mut state = self.lock();
        state.begin("ListImages", "")?;
        Ok(state.images.values().cloned().collect())
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>> {
        let mut state = self.lock();
        state.begin("ImageStatus", image)?;
        Ok(state.images.get(image).cloned())
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        _auth: Option<v1::AuthConfig>,
        _sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String> {
        self.lock().begin("PullImage", &image.image)?;
        self.add_image(&image.image);
        Ok(format!("sha256:{}", image.image))
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let mut state = self.lock();
        state.begin("RemoveImage", image)?;
        state.images.retain(|name, i| name != image && i.id != image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        self.lock().begin("ImageFsInfo", "")?;
        Ok(v1::ImageFsInfoResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn queued_failures_come_in_order_and_once() {
        let fake = FakeRuntime::new();
        fake.fail_next("Version", Code::Unavailable, "first");
        fake.fail_next("Version", Code::Unknown, "second");
        assert_eq!(fake.version().await.unwrap_err().message, "first");
        assert_eq!(fake.version().await.unwrap_err().to_string(), "rpc error: code = Unknown desc = second");
        assert!(fake.version().await.is_ok());
        assert_eq!(fake.take_calls().len(), 3);
    }
}
