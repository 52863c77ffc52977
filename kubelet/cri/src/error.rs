//! What a call to the runtime can fail with, in the words that clients of Kubernetes know.

use tonic::Code;

/// Result of a runtime call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A runtime call that failed. `Display` is the text upstream puts into events and statuses.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", name(*code))]
pub struct Error {
    /// The CRI call, as in `RunPodSandbox`.
    pub operation: &'static str,
    /// gRPC code.
    pub code: Code,
    /// The runtime's words.
    pub message: String,
}

impl Error {
    /// An error of `operation`.
    pub fn new(operation: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self { operation, code, message: message.into() }
    }

    pub(crate) fn status(operation: &'static str, status: &tonic::Status) -> Self {
        Self::new(operation, status.code(), status.message())
    }

    /// Whether the thing asked for does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// Whether the runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// Whether the runtime could not be reached.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }

    /// Whether the call ran out of time.
    pub fn is_timeout(&self) -> bool {
        matches!(self.code, Code::DeadlineExceeded | Code::Cancelled)
    }
}

/// The code's name as Go's gRPC prints it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
