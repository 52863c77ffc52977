//! The only door to the container runtime.
//!
//! Owns: the CRI v1 messages, the [`RuntimeService`] and [`ImageService`] traits, the client that speaks them over a
//! unix socket, the runtime's event stream, image import, images as snapshots, and the recording fake for tests. Does not own: any decision
//! about pods, or the life of the runtime's process.
//!
//! ```text
//! kubelet ── RuntimeService / ImageService ──┬── Client ── unix socket ── containerd, CRI-O
//!                                            └── FakeRuntime (tests)
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod archive;
mod client;
mod error;
mod events;
mod fake;
mod import;
mod redact;
mod service;
mod snapshots;

pub use client::Client;
pub use error::{Error, Result};
pub use events::{EventKind, EventStream, RuntimeEvent};
pub use fake::{Call, FakeRuntime};
pub use import::{ImportError, import_oci_archive};
pub use service::{ImageService, RuntimeService};
pub use snapshots::{SnapshotMount, Snapshots};

/// CRI v1 messages.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The parts of containerd's own API that CRI has no words for: events, content, images, leases, snapshots, diffs.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub(crate) mod containerd {
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    pub mod events {
        tonic::include_proto!("containerd.events");
    }
    pub mod services {
        pub mod events {
            pub mod v1 {
                tonic::include_proto!("containerd.services.events.v1");
            }
        }
        pub mod content {
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        pub mod images {
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        pub mod diff {
            pub mod v1 {
                tonic::include_proto!("containerd.services.diff.v1");
            }
        }
        pub mod snapshots {
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
        pub mod leases {
            pub mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
    }
}

/// The containerd namespace in which its CRI plug-in keeps everything.
pub(crate) const NAMESPACE: &str = "k8s.io";
