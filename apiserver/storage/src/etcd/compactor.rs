//! Cuts etcd's history every few minutes. Servers on one etcd, kube-apiserver among them, agree by the key
//! `compact_rev_key` (upstream's storage/etcd3/compact.go): who finds its version as they left it compacts, the others
//! wait for their next turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use super::{Shared, revision_of, signed, timely};
use crate::store::{Revision, StoreError};

const KEY: &str = "compact_rev_key";

/// What this server knew after its last turn.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// The version of the key.
    version: i64,
    /// The store's revision, up to which history is cut in the next turn.
    revision: Revision,
}

pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let mut last = Turn::default();
    loop {
        tokio::time::sleep(every).await;
        match turn(&shared, last).await {
            Ok(next) => last = next,
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "etcd's history was not cut"),
        }
    }
}

async fn turn(shared: &Shared, last: Turn) -> Result<Turn, StoreError> {
    let mut kv = shared.kv();
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, last.version)])
        .and_then([TxnOp::put(KEY, last.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let response = timely("agree with others about etcd's history", kv.txn(txn)).await?;
    let revision = revision_of(response.header());
    if !response.succeeded() {
        let version = match response.op_responses().first() {
            Some(TxnOpResponse::Get(get)) => get.kvs().first().map_or(0, etcd_client::KeyValue::version),
            _ => 0,
        };
        return Ok(Turn { version, revision });
    }
    if last.revision > 0 {
        match timely("compact etcd", kv.compact(signed(last.revision), None)).await {
            Ok(_) => {
                shared.compacted.fetch_max(last.revision, Ordering::AcqRel);
            }
            Err(StoreError::Compacted { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Turn { version: last.version + 1, revision })
}
