//! skeg-controller-runtime
