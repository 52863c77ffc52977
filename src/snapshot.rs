//! `skeg snapshot`: the cluster's state to a file and back.
//!
//! ```text
//! skeg snapshot save ── path ──▶ snapshot.sock of the running server ──▶ store.snapshot(path) ── revision ──▶
//!                    └─ no server: opens the store itself
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use skeg_storage::embedded::{Embedded, Options};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Write the state of a cluster to a file, whether its server runs or not
    Save {
        file: PathBuf,
        #[command(flatten)]
        data: DataDir,
    },
    /// Make the store of a server that does not run, and has none, from a file
    Restore {
        file: PathBuf,
        #[command(flatten)]
        data: DataDir,
        /// By how much revisions go on after that of the file: more than the writes that are lost, so that no client takes
        /// a new revision for one that it has seen
        #[arg(long, default_value_t = 1_000_000)]
        bump_revision: u64,
    },
}

#[derive(clap::Args)]
struct DataDir {
    /// The server's data directory
    #[arg(long, default_value = "/var/lib/skeg")]
    data_dir: PathBuf,
}

/// The longest path that is taken.
const LONGEST: u64 = 8 * 1024;
/// How long one who connects may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);

fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshot.sock")
}

fn store(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Save { file, data } => {
            let file = std::path::absolute(&file)?;
            let revision = save(&file, &data.data_dir).await?;
            println!("saved revision {revision} to {}", file.display());
        }
        Action::Restore { file, data, bump_revision } => {
            let directory = store(&data.data_dir);
            if directory.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                bail!("there is a store in {}: stop its server and move it away first", directory.display());
            }
            std::fs::create_dir_all(&data.data_dir)
                .with_context(|| format!("cannot make {}", data.data_dir.display()))?;
            let restored = tokio::task::spawn_blocking(move || Embedded::restore(&file, directory, bump_revision));
            let revision = restored.await?.context("cannot restore the snapshot")?;
            println!("restored up to revision {revision}; start the server now");
        }
    }
    Ok(())
}

async fn save(file: &Path, data_dir: &Path) -> anyhow::Result<u64> {
    if let Ok(stream) = UnixStream::connect(socket(data_dir)).await {
        return ask(stream, file).await;
    }
    let directory = store(data_dir);
    if !directory.is_dir() {
        bail!("no store in {}: is this the data directory of a server?", data_dir.display());
    }
    let opened = tokio::task::spawn_blocking(move || Embedded::open(directory, Options::default()));
    let embedded = opened.await?.context("cannot open the store")?;
    embedded.snapshot(file).await.context("cannot write the snapshot")
}

async fn ask(mut stream: UnixStream, file: &Path) -> anyhow::Result<u64> {
    let path = file.to_str().context("the path of a snapshot must be text")?;
    stream.write_all(format!("{path}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.trim().split_once(' ') {
        Some(("ok", revision)) => Ok(revision.parse()?),
        Some(("error", why)) => bail!("{why}"),
        _ => bail!("the server ended before it had written the snapshot"),
    }
}

/// Answers `skeg snapshot save` until the server ends. Only the server's own user and root are answered.
pub async fn serve(store: Arc<Embedded>, data_dir: PathBuf, shutdown: CancellationToken) {
    let path = socket(&data_dir);
    // Left by a server that was killed; two servers cannot have one store.
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "snapshots can be saved only while the server is stopped");
            return;
        }
    };
    let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                // One after the other: each reads the whole store.
                Ok((stream, _)) => answer(&store, stream).await,
                Err(error) => tracing::debug!(%error, "a connection of `skeg snapshot` was lost"),
            },
        }
    }
    let _ = std::fs::remove_file(&path);
}

async fn answer(store: &Embedded, mut stream: UnixStream) {
    let own = rustix::process::geteuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
        return;
    }
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LONGEST));
    if tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await.is_err() || !line.ends_with('\n') {
        return;
    }
    let answer = match store.snapshot(line.trim_end_matches('\n')).await {
        Ok(revision) => format!("ok {revision}\n"),
        Err(error) => {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let shown: Vec<String> = causes.map(ToString::to_string).collect();
            format!("error cannot write the snapshot: {}\n", shown.join(": "))
        }
    };
    if let Err(error) = write.write_all(answer.as_bytes()).await {
        tracing::debug!(%error, "`skeg snapshot` did not wait for its answer");
    }
}

#[cfg(test)]
mod tests {
    use skeg_storage::{Op, Store};

    use super::*;

    async fn put(store: &Embedded, key: &str) {
        store.apply(Op::put(key.as_bytes().to_vec(), b"{}".to_vec())).await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_of_a_running_and_of_a_stopped_server_is_what_a_new_one_starts_with() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let embedded = Arc::new(Embedded::open(store(&data), Options::default()).unwrap());
        put(&embedded, "/registry/a").await;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(embedded.clone(), data.clone(), stop.clone()));
        while !socket(&data).exists() {
            tokio::task::yield_now().await;
        }
        let (running, stopped) = (dir.path().join("running"), dir.path().join("stopped"));
        let first = save(&running, &data).await.unwrap();
        assert!(save(Path::new("/nowhere/at/all"), &data).await.unwrap_err().to_string().starts_with("cannot write"));
        put(&embedded, "/registry/b").await;
        stop.cancel();
        serving.await.unwrap();
        drop(embedded);
        assert!(save(&stopped, &data).await.unwrap() > first);
        for (file, count) in [(running, 1), (stopped, 2)] {
            let data = dir.path().join(format!("restored-{count}"));
            let args = || Args {
                action: Action::Restore {
                    file: file.clone(),
                    data: DataDir { data_dir: data.clone() },
                    bump_revision: 10,
                },
            };
            run(args()).await.unwrap();
            let refused = run(args()).await.unwrap_err().to_string();
            assert!(refused.starts_with("there is a store in"), "{refused}");
            let restored = Embedded::open(store(&data), Options::default()).unwrap();
            assert_eq!(restored.count(b"/registry/").await.unwrap(), count);
        }
    }
}
