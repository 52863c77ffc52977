//! skeg-cri
