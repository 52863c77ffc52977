//! skeg-machinery
