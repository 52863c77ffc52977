//! Makes a container's image present: pull policy, credentials, back-off, one pull per image at a time.

use crate::backoff::Backoff;
use crate::env::Lookup;
use crate::events::{Recorder, Type};
use crate::pod;
use crate::security::ImageUser;
use base64::Engine;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use skeg_cri::{ImageService, v1};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Pulls at once.
const PARALLEL: usize = 8;

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its id.
    pub id: String,
    /// The user it names.
    pub user: ImageUser,
}

/// Why an image is not present: the reason a container waits with, and its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `ErrImagePull` and its like.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to try again.
    pub retry: Option<Timestamp>,
}

#[derive(Default)]
struct State {
    backoff: Backoff,
    /// Last errors by pod and image.
    errors: HashMap<String, String>,
    /// Locks by image, so that two pods do not pull the same one twice.
    running: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

/// Pulls images.
pub struct Puller {
    images: Arc<dyn ImageService>,
    recorder: Recorder,
    slots: Semaphore,
    state: Mutex<State>,
}

impl Puller {
    /// A puller.
    pub fn new(images: Arc<dyn ImageService>, recorder: Recorder) -> Self {
        Self { images, recorder, slots: Semaphore::new(PARALLEL), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes the image of a container of `list` present.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        list: &str,
        sandbox: &v1::PodSandboxConfig,
        lookup: &dyn Lookup,
    ) -> Result<Present, Failure> {
        let event = |kind, reason: &'static str, text: String| {
            self.recorder.container(pod, list, &container.name, kind, reason, text);
        };
        let requested = container.image.as_deref().unwrap_or_default();
        self.ensure_image(pod, requested, container.image_pull_policy.as_deref(), sandbox, lookup, &event).await
    }

    /// Makes the image of a volume present.
    pub async fn ensure_volume(
        &self,
        pod: &Pod,
        source: &ImageVolumeSource,
        sandbox: &v1::PodSandboxConfig,
        lookup: &dyn Lookup,
    ) -> Result<Present, Failure> {
        let event = |kind, reason: &'static str, text: String| self.recorder.pod(pod, kind, reason, text);
        let requested = source.reference.as_deref().unwrap_or_default();
        self.ensure_image(pod, requested, source.pull_policy.as_deref(), sandbox, lookup, &event).await
    }

    async fn ensure_image(
        &self,
        pod: &Pod,
        requested: &str,
        policy: Option<&str>,
        sandbox: &v1::PodSandboxConfig,
        lookup: &dyn Lookup,
        event: &(dyn Fn(Type, &'static str, String) + Sync),
    ) -> Result<Present, Failure> {
        let image = with_tag(requested);
        let fail = |reason, message: String| Failure { reason, message, retry: None };
        if !valid(requested) {
            let message = format!(
                "Failed to apply default image tag {requested:?}: couldn't parse image name {requested:?}: invalid reference format"
            );
            event(Type::Warning, "InspectFailed", message.clone());
            return Err(fail("InvalidImageName", message));
        }
        let policy = policy.filter(|p| !p.is_empty()).unwrap_or(default_policy(&image));
        let status = self.images.image_status(&image).await.map_err(|e| {
            let message = format!("Failed to inspect image {image:?}: {e}");
            event(Type::Warning, "InspectFailed", message.clone());
            fail("ImageInspectError", message)
        })?;
        match status {
            Some(found) if policy != "Always" => {
                let text =
                    format!("Container image {requested:?} already present on machine and can be accessed by the pod");
                event(Type::Normal, "Pulled", text);
                return Ok(present(found));
            }
            None if policy == "Never" => {
                let message = format!("Container image {requested:?} is not present with pull policy of Never");
                event(Type::Warning, "ErrImageNeverPull", message.clone());
                return Err(fail("ErrImageNeverPull", message));
            }
            _ => {}
        }
        let key = format!("{}_{image}", pod::uid(pod));
        let now = Timestamp::now();
        let waiting = self.lock().backoff.waiting_since_update(&key, now);
        if let Some((until, _)) = waiting {
            let text = format!("Back-off pulling image {requested:?}");
            event(Type::Normal, "BackOff", text.clone());
            let previous = self.lock().errors.get(&key).cloned();
            let message = previous.map_or(text.clone(), |p| format!("{text}: {p}"));
            return Err(Failure { reason: "ImagePullBackOff", message, retry: Some(until) });
        }
        event(Type::Normal, "Pulling", format!("Pulling image {requested:?}"));
        let begun = Instant::now();
        let pulled = self.pull(pod, &image, sandbox, lookup).await;
        match pulled {
            Ok((found, pulling)) => {
                {
                    let mut state = self.lock();
                    state.backoff.forget(&key);
                    state.errors.remove(&key);
                }
                let text = format!(
                    "Successfully pulled image {requested:?} in {} ({} including waiting). Image size: {} bytes.",
                    go_millis(pulling),
                    go_millis(begun.elapsed()),
                    found.size
                );
                event(Type::Normal, "Pulled", text);
                Ok(present(found))
            }
            Err(message) => {
                event(Type::Warning, "Failed", format!("Failed to pull image {requested:?}: {message}"));
                let mut state = self.lock();
                let now = Timestamp::now();
                state.backoff.next(&key, now, now);
                state.errors.insert(key.clone(), format!("ErrImagePull: {message}"));
                let retry = state.backoff.waiting_since_update(&key, now).map(|(until, _)| until);
                Err(Failure { reason: "ErrImagePull", message, retry })
            }
        }
    }

    async fn pull(
        &self,
        pod: &Pod,
        image: &str,
        sandbox: &v1::PodSandboxConfig,
        lookup: &dyn Lookup,
    ) -> Result<(v1::Image, std::time::Duration), String> {
        let turn = self.lock().running.entry(image.to_string()).or_default().clone();
        let _turn = turn.lock().await;
        let _slot = self.slots.acquire().await.map_err(|e| e.to_string())?;
        let begun = Instant::now();
        let credentials = self.credentials(pod, image, lookup).await;
        let attempts: Vec<Option<v1::AuthConfig>> =
            if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        let mut last = String::new();
        for auth in attempts {
            let spec = v1::ImageSpec { image: image.into(), user_specified_image: image.into(), ..Default::default() };
            match self.images.pull_image(spec, auth, Some(sandbox.clone())).await {
                Ok(reference) => {
                    let found = match self.images.image_status(image).await {
                        Ok(Some(found)) => Some(found),
                        _ => self.images.image_status(&reference).await.ok().flatten(),
                    };
                    let found = found.ok_or_else(|| format!("image {image:?} was pulled and is not there"))?;
                    self.lock().running.retain(|_, lock| Arc::strong_count(lock) > 1);
                    return Ok((found, begun.elapsed()));
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Credentials for an image from the pod's imagePullSecrets, best match first.
    async fn credentials(&self, pod: &Pod, image: &str, lookup: &dyn Lookup) -> Vec<v1::AuthConfig> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for secret in pod::spec(pod).image_pull_secrets.iter().flatten().filter(|s| !s.name.is_empty()) {
            match lookup.secret(pod::namespace(pod), &secret.name).await {
                Ok(Some(values)) => found.extend(matching(&values, image)),
                _ => missing.push(secret.name.clone()),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.recorder.pod(pod, Type::Warning, "FailedToRetrieveImagePullSecret", text);
        }
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        found.into_iter().map(|(_, auth)| auth).collect()
    }
}

fn present(image: v1::Image) -> Present {
    // An image that names nobody runs as root.
    let root = image.username.is_empty().then_some(0);
    Present { id: image.id, user: ImageUser { uid: image.uid.map(|v| v.value).or(root), name: image.username } }
}

fn go_millis(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{}.{:03}s", millis / 1000, millis % 1000).trim_end_matches('0').to_string()
    }
}

fn last_part(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

/// The image with `:latest` if it has neither tag nor digest.
fn with_tag(image: &str) -> String {
    if last_part(image).contains([':', '@']) { image.to_string() } else { format!("{image}:latest") }
}

fn default_policy(image: &str) -> &'static str {
    if last_part(image).ends_with(":latest") { "Always" } else { "IfNotPresent" }
}

/// Whether the name can be a reference at all.
fn valid(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut parts = path.split('/').peekable();
    let has_domain = path.contains('/')
        && path
            .split('/')
            .next()
            .is_some_and(|d| d.contains(['.', ':']) || d == "localhost" || d.chars().any(|c| c.is_ascii_uppercase()));
    if has_domain {
        parts.next();
    }
    let component = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-'))
    };
    parts.all(component)
        && tag.is_none_or(|t| !t.is_empty() && t.len() <= 128 && t.chars().all(word))
        && digest.is_none_or(|d| {
            d.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit()))
        })
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

/// Credentials in a Secret that fit an image, with the length of the match.
fn matching(values: &crate::env::Values, image: &str) -> Vec<(usize, v1::AuthConfig)> {
    let auths: HashMap<String, Entry> = if let Some(bytes) = values.get(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths).unwrap_or_default()
    } else if let Some(bytes) = values.get(".dockercfg") {
        serde_json::from_slice(bytes).unwrap_or_default()
    } else {
        HashMap::new()
    };
    auths
        .into_iter()
        .filter_map(|(server, entry)| fits(&server, image).map(|length| (length, auth(&server, entry))))
        .collect()
}

fn auth(server: &str, entry: Entry) -> v1::AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD.decode(&entry.auth).ok();
    let pair = decoded.and_then(|b| String::from_utf8(b).ok());
    let (user, password) = match pair.as_deref().and_then(|p| p.split_once(':')) {
        Some((user, password)) => (user.to_string(), password.trim_end_matches('\0').to_string()),
        None => (entry.username, entry.password),
    };
    v1::AuthConfig { username: user, password, server_address: server.to_string(), ..Default::default() }
}

/// Whether credentials for `server` are for `image`; the length of what they share.
fn fits(server: &str, image: &str) -> Option<usize> {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let server = server.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let (image_host, image_path) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_string()),
        Some(_) => ("docker.io", image.to_string()),
        None => ("docker.io", format!("library/{image}")),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let labels = (host.split('.').collect::<Vec<_>>(), image_host.split('.').collect::<Vec<_>>());
    let same = labels.0.len() == labels.1.len()
        && labels.0.iter().zip(&labels.1).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()));
    (same && image_path.starts_with(path)).then_some(host.len() + path.len())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|i| glob(rest, &text[i..])),
        Some((c, rest)) => text.split_first().is_some_and(|(t, more)| (*c == b'?' || c == t) && glob(rest, more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_completed() {
        for (image, fine) in [
            ("nginx", true),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", true),
            ("localhost:5000/a", true),
            ("a@sha256:0123456789abcdef0123456789abcdef", true),
            ("NGINX", false),
            ("a b", false),
            ("/x", false),
            ("", false),
            ("nginx:", false),
        ] {
            assert_eq!(valid(image), fine, "{image}");
        }
        assert_eq!((with_tag("nginx").as_str(), default_policy("nginx:latest")), ("nginx:latest", "Always"));
        assert_eq!((with_tag("h:5/a:1").as_str(), default_policy("h:5/a:1")), ("h:5/a:1", "IfNotPresent"));
    }

    #[test]
    fn credentials_fit_their_registry_alone() {
        for (server, image, fine) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("https://index.docker.io/v1/", "quay.io/a/b", false),
            ("registry.example.org", "registry.example.org/a", true),
            ("*.example.org", "registry.example.org/a", true),
            ("*.example.org", "example.org/a", false),
            ("registry.example.org/team", "registry.example.org/other/a", false),
        ] {
            assert_eq!(fits(server, image).is_some(), fine, "{server} {image}");
        }
    }
}
