//! The engine for more than one server: a real etcd, spoken to through etcd-client.
//!
//! Owns how the [`Store`] contract is put into etcd's requests: transactions, ranges, leases for expiry, and the watch that
//! survives a broken connection. Does not own the layout of keys and values, which is its caller's.
//!
//! Tasks: the compactor ([`compactor`]), until the engine is dropped; one driver for each watch ([`watch`]), until the
//! watch is dropped or has ended.

mod compactor;
mod error;
mod lease;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, GetResponse, Identity,
    KvClient, PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::task::AbortHandle;

use self::error::{Retry, failed};
use crate::store::{
    Committed, KeyValue, Op, Precondition, RangeRequest, RangeResponse, Revision, Store, StoreError, Watch,
};

/// Where etcd is and how it is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// URLs; one member that answers is enough.
    pub endpoints: Vec<String>,
    /// PEM of the authorities that etcd's certificates are checked against.
    pub ca: Option<Vec<u8>>,
    /// PEM of the client certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// How often history is cut, which then reaches back between one and two of these; `None`: it is left to others.
    pub compaction: Option<Duration>,
}

impl EtcdOptions {
    pub fn new(endpoints: Vec<String>) -> Self {
        EtcdOptions { endpoints, ca: None, identity: None, compaction: Some(Duration::from_secs(300)) }
    }

    fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(5))
            .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
            .with_keep_alive_while_idle(true);
        if self.ca.is_some() || self.identity.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &self.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        options
    }
}

/// No answer to a request that is not a watch takes longer, or it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A key that nobody writes: reading it tells revisions.
const NOWHERE: &[u8] = b"\x01";

/// The etcd engine. Cheap to make; dropping it ends its tasks.
pub struct Etcd {
    shared: Arc<Shared>,
    compactor: Option<AbortHandle>,
}

struct Shared {
    client: Client,
    leases: lease::Leases,
    /// The newest compaction that is known here; the real one may be newer.
    compacted: AtomicU64,
}

impl Etcd {
    /// Connects, and refuses an etcd whose watches cannot be asked how far they are: before 3.4.31 and 3.5.13 the answer
    /// may overtake events.
    pub async fn connect(options: &EtcdOptions) -> Result<Etcd, StoreError> {
        let client = Client::connect(&options.endpoints, Some(options.connect_options()));
        let client = client.await.map_err(|error| failed("connect to etcd", error))?;
        let status = timely("ask etcd for its version", client.maintenance_client().status()).await?;
        if !reports_progress(status.version()) {
            return Err(StoreError::Unsupported(format!(
                "etcd {} cannot tell how far a watch is: 3.4.31, 3.5.13 or newer can",
                status.version()
            )));
        }
        let shared = Arc::new(Shared { leases: lease::Leases::default(), client, compacted: AtomicU64::new(0) });
        let compactor =
            options.compaction.map(|every| tokio::spawn(compactor::run(shared.clone(), every)).abort_handle());
        Ok(Etcd { shared, compactor })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(compactor) = &self.compactor {
            compactor.abort();
        }
    }
}

fn reports_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version = (next(), next(), next());
    version >= (3, 5, 13) || ((3, 4, 31)..(3, 5, 0)).contains(&version)
}

/// Waits for an answer, but not for ever.
async fn timely<T>(
    action: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(|error| failed(action, error)),
        Err(_) => Err(error::unanswered(action)),
    }
}

/// The first key behind all that start with `prefix`, as etcd wants it: `\0` is the end of everything.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The first key of a range; etcd has no empty key.
fn range_start(prefix: &[u8], after: Option<&[u8]>) -> Vec<u8> {
    let next = after.map(|after| [after, b"\0"].concat()).filter(|next| next.as_slice() > prefix);
    match next {
        Some(next) => next,
        None if prefix.is_empty() => vec![0],
        None => prefix.to_vec(),
    }
}

fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision()))
}

/// etcd counts in i64 and never below zero.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn key_value(kv: etcd_client::KeyValue) -> KeyValue {
    let (create_revision, mod_revision, version) = (kv.create_revision(), kv.mod_revision(), kv.version());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: unsigned(create_revision),
        mod_revision: unsigned(mod_revision),
        version: unsigned(version),
    }
}

impl Shared {
    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    }

    /// A read; asked again when etcd could not be reached, which changes nothing.
    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, StoreError> {
        let mut retry = Retry::default();
        loop {
            let mut kv = self.kv();
            match timely("read from etcd", kv.get(key.clone(), Some(options.clone()))).await {
                Err(error) if retry.worthwhile(&error) => retry.pause().await,
                answer => return answer,
            }
        }
    }

    /// A read at a revision of the past, with etcd's refusals given their numbers.
    async fn read_at(
        &self,
        key: Vec<u8>,
        options: GetOptions,
        revision: Option<Revision>,
    ) -> Result<GetResponse, StoreError> {
        let Some(requested) = revision.filter(|revision| *revision > 0) else { return self.read(key, options).await };
        match self.read(key, options.with_revision(signed(requested))).await {
            Err(StoreError::Compacted { .. }) => {
                let compacted = self.compacted().await?;
                Err(StoreError::Compacted { requested, compacted })
            }
            Err(StoreError::FutureRevision { .. }) => {
                let current = self.current().await?;
                Err(StoreError::FutureRevision { requested, current })
            }
            answer => answer,
        }
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        let response = self.read(NOWHERE.to_vec(), GetOptions::new().with_count_only()).await?;
        Ok(revision_of(response.header()))
    }

    /// etcd does not say what it has compacted, but refuses a watch that starts before it and names it then.
    async fn compacted(&self) -> Result<Revision, StoreError> {
        let known = self.compacted.load(Ordering::Acquire);
        let at = GetOptions::new().with_count_only().with_revision(signed(known.max(1)));
        match self.read(NOWHERE.to_vec(), at).await {
            Err(StoreError::Compacted { .. }) => {}
            answer => return answer.map(|_| self.compacted.load(Ordering::Acquire)),
        }
        let compacted = watch::compaction(&self.client, known.max(1)).await?;
        Ok(self.compacted.fetch_max(compacted, Ordering::AcqRel).max(compacted))
    }

    /// The transaction that makes `op`, or reads the key.
    async fn transaction(&self, op: Op) -> Result<Txn, StoreError> {
        let key = op.key().to_vec();
        let unchanged = |pre: Precondition| match pre {
            Precondition::Any => None,
            Precondition::Absent => Some(Compare::mod_revision(key.clone(), CompareOp::Equal, 0)),
            Precondition::ModRevision(expected) => {
                Some(Compare::mod_revision(key.clone(), CompareOp::Equal, signed(expected)))
            }
        };
        let (compare, change) = match op {
            Op::Put { value, pre, ttl, .. } => {
                let mut options = PutOptions::new().with_prev_key();
                if let Some(ttl) = ttl {
                    options = options.with_lease(self.leases.lease(&self.client, ttl).await?);
                }
                (unchanged(pre), TxnOp::put(key.clone(), value, Some(options)))
            }
            Op::Delete { pre, .. } => {
                let there = Compare::create_revision(key.clone(), CompareOp::Greater, 0);
                let options = DeleteOptions::new().with_prev_key();
                (Some(unchanged(pre).unwrap_or(there)), TxnOp::delete(key.clone(), Some(options)))
            }
        };
        let compare: Vec<Compare> = compare.into_iter().collect();
        Ok(Txn::new().when(compare).and_then([change]).or_else([TxnOp::get(key, None)]))
    }
}

/// What a transaction of [`Shared::transaction`] came to.
fn outcome(succeeded: bool, revision: Revision, response: Option<TxnOpResponse>) -> Result<Committed, StoreError> {
    let first = |kvs: Vec<etcd_client::KeyValue>| kvs.into_iter().next().map(key_value);
    match (succeeded, response) {
        (true, Some(TxnOpResponse::Put(mut put))) => {
            Ok(Committed::Put { revision, previous: put.take_prev_key().map(key_value) })
        }
        (true, Some(TxnOpResponse::Delete(mut delete))) => match first(delete.take_prev_kvs()) {
            Some(previous) => Ok(Committed::Delete { revision, previous }),
            // Only with the precondition that the key is at revision 0, which no key is.
            None => Err(StoreError::Conflict { current: None, revision }),
        },
        (false, Some(TxnOpResponse::Get(mut get))) => {
            Err(StoreError::Conflict { current: first(get.take_kvs()).map(Box::new), revision })
        }
        _ => Err(StoreError::Corrupt { what: "etcd answered a transaction with something else".to_owned() }),
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let mut response = self.shared.read_at(key.to_vec(), GetOptions::new(), revision).await?;
        let at = revision.filter(|revision| *revision > 0).unwrap_or_else(|| revision_of(response.header()));
        Ok((response.take_kvs().into_iter().next().map(key_value), at))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let limit = request.limit.unwrap_or(0);
        let mut options = GetOptions::new().with_range(range_end(&request.prefix));
        if limit > 0 {
            options = options.with_limit(signed(limit as u64));
        }
        let start = range_start(&request.prefix, request.start_after.as_deref());
        let mut response = self.shared.read_at(start, options, request.revision).await?;
        let revision = request.revision.filter(|revision| *revision > 0);
        let revision = revision.unwrap_or_else(|| revision_of(response.header()));
        let (more, count) = (response.more(), unsigned(response.count()));
        let kvs: Vec<KeyValue> = response.take_kvs().into_iter().map(key_value).collect();
        let remaining = Some(count.saturating_sub(kvs.len() as u64));
        Ok(RangeResponse { revision, kvs, more, remaining })
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError> {
        let options = GetOptions::new().with_range(range_end(prefix)).with_count_only();
        Ok(unsigned(self.shared.read(range_start(prefix, None), options).await?.count()))
    }

    async fn apply(&self, op: Op) -> Result<Committed, StoreError> {
        if op.key().is_empty() || op.key().contains(&0) {
            return Err(StoreError::InvalidKey);
        }
        let shared = self.shared.clone();
        // A task of its own: who stops waiting for an operation does not stop it.
        let done = tokio::spawn(async move {
            let mut kv = shared.kv();
            let txn = shared.transaction(op).await?;
            let response = timely("write to etcd", kv.txn(txn)).await?;
            let revision = revision_of(response.header());
            outcome(response.succeeded(), revision, response.op_responses().into_iter().next())
        });
        done.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
        watch::open(&self.shared, prefix, after).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.shared.current().await
    }

    async fn compacted_revision(&self) -> Result<Revision, StoreError> {
        self.shared.compacted().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        if revision == 0 {
            return Ok(());
        }
        let mut kv = self.shared.kv();
        match timely("compact etcd", kv.compact(signed(revision), None)).await {
            Ok(_) => {
                self.shared.compacted.fetch_max(revision, Ordering::AcqRel);
                Ok(())
            }
            Err(StoreError::Compacted { .. }) => Ok(()),
            Err(StoreError::FutureRevision { .. }) => {
                let current = self.shared.current().await?;
                Err(StoreError::FutureRevision { requested: revision, current })
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_starts_with_the_prefix() {
        assert_eq!((range_start(b"/a/", None), range_end(b"/a/")), (b"/a/".to_vec(), b"/a0".to_vec()));
        assert_eq!(range_end(b"/a\xff\xff"), b"/b");
        assert_eq!((range_start(b"", None), range_end(b"")), (vec![0], vec![0]));
        assert_eq!(range_end(b"\xff"), [0]);
        assert_eq!(range_start(b"/a/", Some(b"/a/x")), b"/a/x\0");
        assert_eq!(range_start(b"/b/", Some(b"/a/x")), b"/b/", "never before the prefix");
    }

    #[test]
    fn versions_that_report_progress_in_order() {
        for (version, wanted) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(reports_progress(version), wanted, "{version}");
        }
    }
}
