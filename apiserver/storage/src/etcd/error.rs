//! etcd's errors as the contract's, and which of them are worth another try.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::Error;

use crate::store::StoreError;

/// etcd tells kinds of errors apart by text; the numbers of the two about revisions are filled in by who knows them.
pub(super) fn failed(action: &str, error: Error) -> StoreError {
    if let Error::GRpcStatus(status) = &error {
        let says = |text: &str| status.message().contains(text);
        if says("required revision has been compacted") {
            return StoreError::Compacted { requested: 0, compacted: 0 };
        }
        if says("required revision is a future revision") {
            return StoreError::FutureRevision { requested: 0, current: 0 };
        }
        if says("database space exceeded") {
            return StoreError::ReadOnly("etcd's database is full".to_owned());
        }
    }
    StoreError::Unavailable { action: action.to_owned(), source: Arc::new(error) }
}

pub(super) fn unanswered(action: &str) -> StoreError {
    let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "etcd did not answer in time");
    StoreError::Unavailable { action: action.to_owned(), source: Arc::new(Error::IoError(source)) }
}

/// How often and how soon a read is tried again.
#[derive(Default)]
pub(super) struct Retry(u32);

impl Retry {
    const TRIES: u32 = 4;

    /// Whether the error says that etcd was not reached or had no leader, and there were not too many of them.
    pub fn worthwhile(&mut self, error: &StoreError) -> bool {
        self.0 += 1;
        let StoreError::Unavailable { source, .. } = error else { return false };
        let passing = match &**source {
            // Unavailable: no connection, or no leader. Unknown: a connection that broke under the request.
            Error::GRpcStatus(status) => matches!(i32::from(status.code()), 2 | 14),
            Error::TransportError(_) => true,
            _ => false,
        };
        passing && self.0 < Self::TRIES
    }

    pub async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(25) * 2_u32.pow(self.0)).await;
    }
}
