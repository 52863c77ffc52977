//! `Debug` for the messages that may carry secrets: names are shown, values never.

use crate::v1::{AuthConfig, KeyValue};
use std::fmt;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password_and_no_environment_value() {
        let auth = AuthConfig { username: "u".into(), password: "hunter2".into(), ..Default::default() };
        let env = KeyValue { key: "TOKEN".into(), value: b"hunter2".to_vec() };
        let shown = format!("{auth:?} {env:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    }
}
