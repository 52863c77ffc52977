//! Why a node agent cannot run, each in one line that says what to do.

use std::path::PathBuf;

/// A failure that ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("the node agent must run as root: start it with sudo, or run only the control plane with --disable-agent")]
    NotRoot,
    /// No containerd on the machine.
    #[error(
        "no containerd found in PATH: install it (on Debian: apt-get install containerd runc), or name a running one with --container-runtime-endpoint"
    )]
    NoContainerd,
    /// No runc on the machine.
    #[error("no runc found in PATH: install it (on Debian: apt-get install runc)")]
    NoRunc,
    /// A cgroup controller is missing.
    #[error(
        "the cgroup controller {0:?} is not available: enable it in the kernel (cgroup_enable={0}) or mount the cgroup file system at /sys/fs/cgroup"
    )]
    NoCgroupController(String),
    /// containerd does not come up.
    #[error("containerd does not start: {reason}; see {}", log.display())]
    ContainerdDoesNotStart {
        /// What is known.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The runtime given by the user does not answer.
    #[error("the container runtime at {} does not answer CRI v1: check --container-runtime-endpoint", endpoint.display())]
    RuntimeDoesNotAnswer {
        /// Its socket.
        endpoint: PathBuf,
        /// The call's error.
        #[source]
        source: skeg_cri::Error,
    },
    /// A file or directory of ours cannot be written.
    #[error("cannot {action} {}: check its permissions and the space left", path.display())]
    Files {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The pause image cannot be stored.
    #[error("cannot import the pause image into containerd")]
    PauseImage(#[from] skeg_cri::ImportError),
    /// No usable address.
    #[error("no address for this node found: give one with --node-ip")]
    NoNodeAddress,
    /// The node server cannot listen.
    #[error("the node server cannot listen on {address}: another kubelet may run here; end it or choose another port")]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The API refused what the agent cannot do without.
    #[error("the API server refused to {0}")]
    Api(&'static str, #[source] Box<kube::Error>),
    /// The node server failed.
    #[error("the node server failed: {0}")]
    Server(String),
}

impl Error {
    /// Wraps an IO error with what was tried and where.
    pub fn files(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { action, path, source }
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
