//! skeg-kubelet
