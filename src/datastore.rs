//! Where the API server keeps everything: the embedded engine in a directory, or an etcd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use skeg_server::layout::Layout;
use skeg_storage::embedded::{Embedded, Options};
use skeg_storage::{Etcd, EtcdOptions, Store};

/// Which store; without servers of etcd, the embedded one.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DatastoreArgs {
    /// URLs of an etcd to keep everything in, as kube-apiserver does, instead of the data directory
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Authorities of etcd's certificates
    #[arg(long, requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate that etcd is shown
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What keys in etcd begin with
    #[arg(long, default_value = "/registry", requires = "etcd_servers")]
    pub etcd_prefix: String,
    /// How often etcd's history is cut; 0: others do that
    #[arg(skip = Duration::from_secs(300))]
    pub compaction: Duration,
}

/// A store that is open.
pub struct Opened {
    pub store: Arc<dyn Store>,
    /// The same, where it is the embedded engine.
    pub embedded: Option<Arc<Embedded>>,
}

/// Opens the store; `directory` is the embedded engine's.
pub async fn open(args: &DatastoreArgs, directory: PathBuf) -> anyhow::Result<Opened> {
    if args.etcd_servers.is_empty() {
        let open = tokio::task::spawn_blocking(move || Embedded::open(directory, Options::default()));
        let embedded = Arc::new(open.await?.context("cannot open the store")?);
        return Ok(Opened { store: embedded.clone(), embedded: Some(embedded) });
    }
    let mut options = EtcdOptions::new(args.etcd_servers.clone());
    options.compaction = (!args.compaction.is_zero()).then_some(args.compaction);
    options.ca = args.etcd_cafile.as_deref().map(read).transpose()?;
    options.identity = match (&args.etcd_certfile, &args.etcd_keyfile) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        (None, None) => None,
        _ => bail!("--etcd-certfile and --etcd-keyfile belong together"),
    };
    let store = Etcd::connect(&options).await;
    let store = store.with_context(|| format!("cannot use etcd at {}", args.etcd_servers.join(", ")))?;
    Ok(Opened { store: Arc::new(Layout::new(Arc::new(store), &args.etcd_prefix)), embedded: None })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
