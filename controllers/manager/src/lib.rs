//! skeg-controllers
