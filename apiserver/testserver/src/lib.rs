//! skeg-testserver
