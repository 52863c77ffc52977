//! skeg-proxy
