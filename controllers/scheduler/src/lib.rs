//! skeg-scheduler
