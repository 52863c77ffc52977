//! Image import through containerd's content and image services, which every version since 1.6 has. The layers are
//! unpacked by the runtime when a container first needs them.

use crate::archive::{self, Blob, Contents, Descriptor, Source};
use crate::client::channel;
use crate::containerd::services::content::v1 as content;
use crate::containerd::services::images::v1 as images;
use crate::containerd::services::leases::v1 as leases;
use crate::containerd::types;
use crate::{Client, Error, ImageService, NAMESPACE};
use content::content_client::ContentClient;
use images::images_client::ImagesClient;
use leases::leases_client::LeasesClient;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const CHUNK: usize = 1 << 20;
/// containerd shows an image with this label as pinned (since 1.7.3).
const PINNED: &str = "io.cri-containerd.pinned";

/// Why an archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    /// The file is not an image archive.
    #[error("{0}")]
    Format(String),
    /// containerd refused.
    #[error("containerd refused the image")]
    Runtime(#[from] Error),
    /// containerd has the image, its CRI plug-in does not show it.
    #[error("containerd has {0}, but its CRI plug-in did not take notice of it")]
    NotNoticed(String),
}

/// Stores every image of an archive (OCI layout or docker-save, plain or gzipped) in the containerd at `socket`, where
/// CRI finds it. Returns the images' full names.
pub async fn import_oci_archive(socket: &Path, archive: &Path) -> Result<Vec<String>, ImportError> {
    let path = archive.to_path_buf();
    let contents = blocking(move || archive::scan(&path)).await?;
    let import = Import { channel: channel(socket), lease: lease_id() };
    import.hold().await?;
    let stored = import.store(archive, &contents).await;
    import.release().await;
    stored?;
    let client = Client::new(socket);
    let mut names = Vec::new();
    for (name, descriptor) in contents.images {
        noticed(&client, &name, &descriptor).await?;
        names.push(name);
    }
    Ok(names)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ImportError::Format(format!("reading the archive failed: {e}"))),
    }
}

fn lease_id() -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("skeg-import-{}-{nanos}", std::process::id())
}

/// Waits until CRI shows the image: its plug-in learns of it by an event.
async fn noticed(client: &Client, name: &str, descriptor: &Descriptor) -> Result<(), ImportError> {
    for attempt in 0..60u64 {
        if let Some(image) = client.image_status(name).await?
            && (image.repo_digests.is_empty()
                || image.repo_digests.iter().any(|d| d.ends_with(&descriptor.digest))
                || attempt > 5)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10 + attempt * 10)).await;
    }
    Err(ImportError::NotNoticed(name.into()))
}

struct Import {
    channel: Channel,
    lease: String,
}

impl Import {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Ok(lease) = MetadataValue::try_from(self.lease.as_str()) {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Takes a lease, so that what is written is not collected before an image refers to it.
    async fn hold(&self) -> Result<(), Error> {
        let mut request = Request::new(leases::CreateRequest {
            id: self.lease.clone(),
            // Never outlives a crash of ours for long.
            labels: [("containerd.io/gc.expire".to_string(), in_an_hour())].into(),
        });
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        LeasesClient::new(self.channel.clone())
            .create(request)
            .await
            .map_err(|status| Error::status("CreateLease", &status))?;
        Ok(())
    }

    async fn release(&self) {
        let mut request = Request::new(leases::DeleteRequest { id: self.lease.clone(), sync: false });
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Err(status) = LeasesClient::new(self.channel.clone()).delete(request).await {
            tracing::debug!(lease = %self.lease, error = %status.message(), "import lease not released; it expires");
        }
    }

    async fn store(&self, archive: &Path, contents: &Contents) -> Result<(), ImportError> {
        self.store_entries(archive, contents).await?;
        for blob in &contents.blobs {
            if let Source::Bytes(bytes) = &blob.source {
                let (tx, rx) = mpsc::channel(1);
                let chunk = bytes.clone();
                tokio::spawn(async move { tx.send(chunk).await });
                self.write(blob, rx).await?;
            }
        }
        // Labels last: a manifest's children exist by now, also if the manifest itself was there before.
        for blob in contents.blobs.iter().filter(|blob| !blob.labels.is_empty()) {
            self.label(blob).await?;
        }
        for (name, descriptor) in &contents.images {
            self.name(name, descriptor).await?;
        }
        Ok(())
    }

    /// Streams the blobs that lie in the archive, in the archive's order.
    async fn store_entries(&self, archive: &Path, contents: &Contents) -> Result<(), ImportError> {
        let wanted: Vec<(String, usize)> = contents
            .blobs
            .iter()
            .enumerate()
            .filter_map(|(i, blob)| match &blob.source {
                Source::Entry(path) => Some((path.clone(), i)),
                Source::Bytes(_) => None,
            })
            .collect();
        let (tx, mut rx) = mpsc::channel::<(usize, mpsc::Receiver<Vec<u8>>)>(1);
        let path = archive.to_path_buf();
        let reader = tokio::task::spawn_blocking(move || read_entries(path, &wanted, &tx));
        while let Some((i, chunks)) = rx.recv().await {
            self.write(&contents.blobs[i], chunks).await?;
        }
        reader.await.map_err(|e| ImportError::Format(format!("reading the archive failed: {e}")))?
    }

    /// Writes one blob; one that is there already is as good.
    async fn write(&self, blob: &Blob, mut chunks: mpsc::Receiver<Vec<u8>>) -> Result<(), ImportError> {
        let (tx, rx) = mpsc::channel(2);
        let reference = format!("{}-{}", self.lease, blob.digest);
        let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
        let expected = blob.digest.clone();
        let feed = tokio::spawn(async move {
            let mut offset = 0i64;
            let message = |action, offset, data| content::WriteContentRequest {
                action: action as i32,
                r#ref: reference.clone(),
                total,
                expected: expected.clone(),
                offset,
                data,
                ..Default::default()
            };
            while let Some(chunk) = chunks.recv().await {
                let length = i64::try_from(chunk.len()).unwrap_or(0);
                if tx.send(message(content::WriteAction::Write, offset, chunk)).await.is_err() {
                    return;
                }
                offset += length;
            }
            let _ = tx.send(message(content::WriteAction::Commit, offset, Vec::new())).await;
        });
        let stream = tokio_stream_of(rx);
        let result: Result<(), Status> = async {
            let mut answers = ContentClient::new(self.channel.clone()).write(self.request(stream)).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        }
        .await;
        // Dropping the stream's receiver ends the feeder, and with it the reader's wait for it.
        let _ = feed.await;
        match result {
            Err(status) if status.code() != Code::AlreadyExists => Err(Error::status("WriteContent", &status).into()),
            _ => Ok(()),
        }
    }

    async fn label(&self, blob: &Blob) -> Result<(), ImportError> {
        let paths = blob.labels.keys().map(|key| format!("labels.{key}")).collect();
        let labels = blob.labels.clone().into_iter().collect();
        let request = content::UpdateRequest {
            info: Some(content::Info { digest: blob.digest.clone(), labels, ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        ContentClient::new(self.channel.clone())
            .update(self.request(request))
            .await
            .map_err(|status| Error::status("UpdateContent", &status))?;
        Ok(())
    }

    /// Creates or moves an image's name.
    async fn name(&self, name: &str, descriptor: &Descriptor) -> Result<(), ImportError> {
        let image = images::Image {
            name: name.into(),
            target: Some(types::Descriptor {
                media_type: descriptor.media_type.clone(),
                digest: descriptor.digest.clone(),
                size: descriptor.size,
                annotations: Default::default(),
            }),
            // What was brought by hand may have no registry to come from again: it is not for the garbage collector.
            labels: [(PINNED.to_string(), "pinned".to_string())].into(),
        };
        let mut client = ImagesClient::new(self.channel.clone());
        let create = images::CreateImageRequest { image: Some(image.clone()) };
        match client.create(self.request(create)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let update_mask =
                    Some(prost_types::FieldMask { paths: vec!["target".into(), format!("labels.{PINNED}")] });
                let update = images::UpdateImageRequest { image: Some(image), update_mask };
                client.update(self.request(update)).await.map_err(|status| Error::status("UpdateImage", &status))?;
                Ok(())
            }
            Err(status) => Err(Error::status("CreateImage", &status).into()),
        }
    }
}

fn tokio_stream_of<T: Send + 'static>(rx: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send {
    futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|item| (item, rx)) })
}

fn read_entries(
    path: PathBuf,
    wanted: &[(String, usize)],
    blobs: &mpsc::Sender<(usize, mpsc::Receiver<Vec<u8>>)>,
) -> Result<(), ImportError> {
    let fail = |e| ImportError::Read(path.display().to_string(), e);
    for entry in archive::open(&path)?.entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let name = archive::entry_name(&entry.path().map_err(fail)?);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some((_, index)) = wanted.iter().find(|(path, _)| *path == name) else { continue };
        let (tx, rx) = mpsc::channel(2);
        if blobs.blocking_send((*index, rx)).is_err() {
            return Ok(());
        }
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut entry).take(CHUNK as u64).read_to_end(&mut chunk).map_err(fail)?;
            if chunk.is_empty() || tx.blocking_send(chunk).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// RFC 3339 time an hour from now.
fn in_an_hour() -> String {
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() + 3600;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(0));
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Gregorian date of a day counted from 1970-01-01 (Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }
}
