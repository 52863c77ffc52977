//! The storage.k8s.io group.

pub mod csi;
pub mod storage_class;
pub mod volume_attachment;

pub const GROUP: &str = "storage.k8s.io";
