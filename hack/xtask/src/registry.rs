//! A registry that nodes pull from: it serves the images of the archives in a directory under their own names, read-only,
//! by the OCI distribution protocol. containerd asks it on behalf of other registries and says which (`?ns=registry.k8s.io`).
//! An archive that comes or changes is seen at the next request. Owns no images: what is not in an archive is not found.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// Where the bytes of a blob are.
#[derive(Clone, Debug, PartialEq)]
struct Blob {
    archive: PathBuf,
    offset: u64,
    size: u64,
}

/// What the archives hold.
#[derive(Default)]
struct Index {
    /// Image name with its tag, to the manifest's descriptor.
    names: HashMap<String, Value>,
    /// `sha256:…`, to where it is.
    blobs: HashMap<String, Blob>,
}

impl Index {
    fn read(dir: &Path) -> Result<Self> {
        let mut index = Self::default();
        for path in archives(dir)? {
            index.add(&path).with_context(|| format!("read {}", path.display()))?;
        }
        Ok(index)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(BufReader::new(fs::File::open(path)?));
        for entry in archive.entries_with_seek()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            if name == "index.json" {
                let mut text = Vec::new();
                entry.read_to_end(&mut text)?;
                let list: Value = serde_json::from_slice(&text)?;
                for manifest in list["manifests"].as_array().into_iter().flatten() {
                    let name = manifest["annotations"]["io.containerd.image.name"].as_str().unwrap_or_default();
                    self.names.insert(name.to_string(), manifest.clone());
                }
            } else if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                let blob = Blob { archive: path.into(), offset: entry.raw_file_position(), size: entry.size() };
                self.blobs.insert(format!("sha256:{digest}"), blob);
            }
        }
        Ok(())
    }
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    paths.sort();
    Ok(paths)
}

/// An answer without its body.
#[derive(Debug, PartialEq)]
enum Answer {
    /// Status, content type and bytes.
    Text(u16, &'static str, Vec<u8>),
    /// Content type, digest, and where the bytes are.
    Bytes(String, String, Blob),
}

/// Decides what a request gets. Pure.
fn answer(index: &Index, method: &str, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if method != "GET" && method != "HEAD" {
        return error(405, "UNSUPPORTED", "this registry is read-only");
    }
    if path.trim_end_matches('/') == "/v2" {
        return Answer::Text(200, "application/json", b"{}".to_vec());
    }
    let registry = query.split('&').find_map(|pair| pair.strip_prefix("ns=")).unwrap_or("docker.io");
    let Some(path) = path.strip_prefix("/v2/") else { return error(404, "NAME_UNKNOWN", "no such page") };
    if let Some((name, reference)) = path.rsplit_once("/manifests/") {
        let described = match reference.starts_with("sha256:") {
            true => index.names.values().find(|manifest| manifest["digest"] == reference),
            false => index.names.get(&format!("{registry}/{name}:{reference}")),
        };
        let found = described.and_then(|manifest| {
            let digest = manifest["digest"].as_str()?;
            Some((manifest["mediaType"].as_str()?.to_string(), digest.to_string(), index.blobs.get(digest)?.clone()))
        });
        return match found {
            Some((media_type, digest, blob)) => Answer::Bytes(media_type, digest, blob),
            None => error(404, "MANIFEST_UNKNOWN", "no archive has this image"),
        };
    }
    if let Some((_, digest)) = path.rsplit_once("/blobs/")
        && let Some(blob) = index.blobs.get(digest)
    {
        return Answer::Bytes("application/octet-stream".into(), digest.into(), blob.clone());
    }
    error(404, "BLOB_UNKNOWN", "no archive has this")
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({ "errors": [{ "code": code, "message": message }] });
    Answer::Text(status, "application/json", body.to_string().into_bytes())
}

/// Serves until the process is ended.
pub fn serve(dir: &Path, listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen at {listen}"))?;
    let registry = Arc::new(Registry { dir: dir.into(), state: std::sync::Mutex::default() });
    registry.index()?;
    for connection in listener.incoming() {
        let (registry, connection) = (registry.clone(), connection?);
        std::thread::spawn(move || {
            // A client that goes away is no error of ours.
            let _ = registry.connection(connection);
        });
    }
    Ok(())
}

/// The archives with their times of change, and the index made from them.
type State = (Vec<(PathBuf, SystemTime)>, Arc<Index>);

struct Registry {
    dir: PathBuf,
    state: std::sync::Mutex<State>,
}

impl Registry {
    fn index(&self) -> Result<Arc<Index>> {
        let now = archives(&self.dir)?
            .into_iter()
            .map(|path| fs::metadata(&path).and_then(|m| m.modified()).map(|time| (path, time)))
            .collect::<io::Result<Vec<_>>>()?;
        let mut state = self.state.lock().expect("no holder panics");
        if state.0 != now {
            *state = (now, Arc::new(Index::read(&self.dir)?));
        }
        Ok(state.1.clone())
    }

    fn connection(&self, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                    break;
                }
            }
            let mut words = request.split_whitespace();
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let answer = match self.index() {
                Ok(index) => answer(&index, method, target),
                Err(problem) => error(500, "UNKNOWN", &format!("{problem:#}")),
            };
            send(&mut writer, &answer, method == "HEAD")?;
        }
    }
}

fn send(writer: &mut TcpStream, answer: &Answer, head: bool) -> Result<()> {
    match answer {
        Answer::Text(status, media_type, body) => {
            let reason = if *status == 200 { "OK" } else { "Not Found" };
            write!(
                writer,
                "HTTP/1.1 {status} {reason}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            if !head {
                writer.write_all(body)?;
            }
        }
        Answer::Bytes(media_type, digest, blob) => {
            write!(
                writer,
                "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nDocker-Content-Digest: {digest}\r\n\r\n",
                blob.size
            )?;
            if !head {
                let mut file = fs::File::open(&blob.archive)?;
                file.seek(SeekFrom::Start(blob.offset))?;
                io::copy(&mut file.take(blob.size), writer)?;
            }
        }
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci;

    fn archive(dir: &Path) -> Result<()> {
        let root = dir.join("root");
        fs::create_dir(&root)?;
        fs::write(root.join("file"), "content")?;
        let config = oci::ImageConfig {
            entrypoint: vec![],
            cmd: vec![],
            env: vec![],
            user: None,
            workdir: None,
            stop_signal: None,
            expose: vec![],
        };
        oci::pack(&root, &["registry.k8s.io/a/b:1".into()], &config, None, &dir.join("b.tar"))
    }

    #[test]
    fn a_pull_by_another_registrys_name_finds_manifest_config_and_layers() -> Result<()> {
        let dir = tempfile::tempdir()?;
        archive(dir.path())?;
        let index = Index::read(dir.path())?;
        let Answer::Bytes(media_type, digest, blob) = answer(&index, "GET", "/v2/a/b/manifests/1?ns=registry.k8s.io")
        else {
            anyhow::bail!("the image was not found");
        };
        assert_eq!(media_type, "application/vnd.oci.image.manifest.v1+json");
        let mut text = Vec::new();
        let mut file = fs::File::open(&blob.archive)?;
        file.seek(SeekFrom::Start(blob.offset))?;
        file.take(blob.size).read_to_end(&mut text)?;
        let manifest: Value = serde_json::from_slice(&text)?;
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let target = format!("/v2/a/b/blobs/{}?ns=registry.k8s.io", part["digest"].as_str().unwrap_or_default());
            assert!(matches!(answer(&index, "GET", &target), Answer::Bytes(_, _, blob) if part["size"] == blob.size));
        }
        let by_digest = answer(&index, "HEAD", &format!("/v2/a/b/manifests/{digest}?ns=registry.k8s.io"));
        assert!(matches!(by_digest, Answer::Bytes(..)));
        Ok(())
    }

    #[test]
    fn what_no_archive_has_is_not_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        archive(dir.path())?;
        let index = Index::read(dir.path())?;
        for (target, status) in [
            ("/v2/", 200),
            ("/v2/a/b/manifests/2?ns=registry.k8s.io", 404),
            ("/v2/a/b/manifests/1?ns=docker.io", 404),
            ("/v2/a/b/blobs/sha256:00?ns=registry.k8s.io", 404),
            ("/", 404),
        ] {
            assert!(matches!(answer(&index, "GET", target), Answer::Text(is, ..) if is == status), "{target}");
        }
        assert!(matches!(answer(&index, "PUT", "/v2/a/b/manifests/1"), Answer::Text(405, ..)));
        Ok(())
    }
}
