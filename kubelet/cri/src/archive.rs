//! Reads image archives, OCI layout or docker-save, plain or gzipped: which blobs they hold and which images those make.
//! No containerd here.

use crate::import::ImportError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Files up to this size are kept in memory: manifests and configurations are, layers are not.
const SMALL: u64 = 4 << 20;
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A content descriptor.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(default, skip_serializing)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path in the archive.
    Entry(String),
    /// Made here.
    Bytes(Vec<u8>),
}

/// A blob to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub digest: String,
    pub size: u64,
    pub source: Source,
    /// `containerd.io/gc.ref.content.*`: what must live as long as this blob.
    pub labels: BTreeMap<String, String>,
}

/// What an archive holds: blobs, and images as (name, descriptor).
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub blobs: Vec<Blob>,
    pub images: Vec<(String, Descriptor)>,
}

struct Entry {
    digest: String,
    size: u64,
    gzip: bool,
    bytes: Option<Vec<u8>>,
}

/// Opens an archive as a stream of tar, gunzipped if need be.
pub(crate) fn open(path: &Path) -> Result<tar::Archive<Box<dyn Read>>, ImportError> {
    let fail = |e| ImportError::Read(path.display().to_string(), e);
    let mut file = File::open(path).map_err(fail)?;
    let mut magic = [0u8; 2];
    let n = file.read(&mut magic).map_err(fail)?;
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    let file = BufReader::with_capacity(1 << 20, file);
    let reader: Box<dyn Read> = if n == 2 && magic == [0x1f, 0x8b] {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    Ok(tar::Archive::new(reader))
}

/// The path of an entry without `./`.
pub(crate) fn entry_name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches("./").trim_start_matches('/').to_string()
}

/// Reads the whole archive once.
pub(crate) fn scan(path: &Path) -> Result<Contents, ImportError> {
    let fail = |e| ImportError::Read(path.display().to_string(), e);
    let mut entries = BTreeMap::new();
    let mut links = Vec::new();
    for entry in open(path)?.entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let name = entry_name(&entry.path().map_err(fail)?);
        if entry.header().entry_type().is_symlink() || entry.header().entry_type().is_hard_link() {
            if let Some(target) = entry.link_name().map_err(fail)? {
                links.push((name, resolve_link(&entry_name(&entry.path().map_err(fail)?), &target)));
            }
            continue;
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        entries.insert(name, digest_entry(&mut entry).map_err(fail)?);
    }
    let links: BTreeMap<_, _> = links.into_iter().collect();
    if entries.contains_key("index.json") { oci(&entries) } else { docker(&entries, &links) }
}

fn resolve_link(name: &str, target: &Path) -> String {
    let mut parts: Vec<String> = name.split('/').map(str::to_string).collect();
    parts.pop();
    for part in target.to_string_lossy().split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_string()),
        }
    }
    parts.join("/")
}

fn digest_entry(reader: &mut impl Read) -> std::io::Result<Entry> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut kept = Some(Vec::new());
    let mut buffer = vec![0u8; 256 << 10];
    let mut gzip = false;
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if size == 0 {
            gzip = n >= 2 && buffer[..2] == [0x1f, 0x8b];
        }
        hash.update(&buffer[..n]);
        size += n as u64;
        if size > SMALL {
            kept = None;
        } else if let Some(kept) = &mut kept {
            kept.extend_from_slice(&buffer[..n]);
        }
    }
    Ok(Entry { digest: format!("sha256:{}", hex(&hash.finalize())), size, gzip, bytes: kept })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// sha256 digest in the form of registries.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn oci(entries: &BTreeMap<String, Entry>) -> Result<Contents, ImportError> {
    let index: Index = parse(entries, "index.json")?;
    let mut contents = Contents::default();
    for descriptor in index.manifests {
        let Some(name) = image_name(&descriptor) else { continue };
        collect(entries, &descriptor, &mut contents)?;
        contents.images.push((name, descriptor));
    }
    if contents.images.is_empty() {
        return Err(ImportError::Format("no manifest of index.json carries an image name".into()));
    }
    Ok(contents)
}

/// Adds the blob of a descriptor and of everything it refers to. Blobs that the archive leaves out (other platforms)
/// are left out.
fn collect(
    entries: &BTreeMap<String, Entry>,
    descriptor: &Descriptor,
    contents: &mut Contents,
) -> Result<(), ImportError> {
    let path = format!("blobs/{}", descriptor.digest.replacen(':', "/", 1));
    let Some(entry) = entries.get(&path) else { return Ok(()) };
    if entry.digest != descriptor.digest {
        return Err(ImportError::Format(format!("{path} has digest {}", entry.digest)));
    }
    let mut labels = BTreeMap::new();
    let is_manifest = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&descriptor.media_type.as_str());
    if is_manifest {
        let manifest: Manifest = parse(entries, &path)?;
        for (kind, children) in [
            ("config", manifest.config.iter().collect::<Vec<_>>()),
            ("l", manifest.layers.iter().collect()),
            ("m", manifest.manifests.iter().collect()),
        ] {
            for (i, child) in children.into_iter().enumerate() {
                collect(entries, child, contents)?;
                let key = if kind == "config" { "config".to_string() } else { format!("{kind}.{i}") };
                labels.insert(format!("containerd.io/gc.ref.content.{key}"), child.digest.clone());
            }
        }
    }
    if !contents.blobs.iter().any(|b| b.digest == descriptor.digest) {
        let source = Source::Entry(path);
        contents.blobs.push(Blob { digest: descriptor.digest.clone(), size: entry.size, source, labels });
    }
    Ok(())
}

fn image_name(descriptor: &Descriptor) -> Option<String> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let name = full.or_else(|| descriptor.annotations.get("org.opencontainers.image.ref.name"))?;
    // A bare tag names no image.
    (full.is_some() || name.contains([':', '/'])).then(|| normalize(name))
}

/// The full form of a docker-style image name.
pub(crate) fn normalize(name: &str) -> String {
    let (domain, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_string()),
        Some(_) => ("docker.io", name.to_string()),
        None => ("docker.io", format!("library/{name}")),
    };
    let last = rest.rsplit('/').next().unwrap_or(&rest);
    let tag = if last.contains([':', '@']) { "" } else { ":latest" };
    format!("{domain}/{rest}{tag}")
}

fn docker(entries: &BTreeMap<String, Entry>, links: &BTreeMap<String, String>) -> Result<Contents, ImportError> {
    let images: Vec<DockerImage> = parse(entries, "manifest.json")?;
    let find = |name: &str| {
        let name = links.get(name).map_or(name, String::as_str);
        entries
            .get(name)
            .map(|entry| (name.to_string(), entry))
            .ok_or_else(|| ImportError::Format(format!("manifest.json names {name}, which the archive does not hold")))
    };
    let mut contents = Contents::default();
    for image in images {
        let mut labels = BTreeMap::new();
        let mut add = |name: &str, media: &str, label: String| -> Result<Descriptor, ImportError> {
            let (path, entry) = find(name)?;
            labels.insert(format!("containerd.io/gc.ref.content.{label}"), entry.digest.clone());
            contents.blobs.push(Blob {
                digest: entry.digest.clone(),
                size: entry.size,
                source: Source::Entry(path),
                labels: BTreeMap::new(),
            });
            let size = i64::try_from(entry.size).unwrap_or(i64::MAX);
            let media_type = if entry.gzip { format!("{media}.gzip") } else { media.to_string() };
            Ok(Descriptor { media_type, digest: entry.digest.clone(), size, annotations: BTreeMap::new() })
        };
        let config = add(&image.config, "application/vnd.docker.container.image.v1+json", "config".into())?;
        let mut layers = Vec::new();
        for (i, layer) in image.layers.iter().enumerate() {
            layers.push(add(layer, "application/vnd.docker.image.rootfs.diff.tar", format!("l.{i}"))?);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let descriptor = Descriptor {
            media_type: DOCKER_MANIFEST.into(),
            digest: digest(&bytes),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            annotations: BTreeMap::new(),
        };
        let size = bytes.len() as u64;
        contents.blobs.push(Blob { digest: descriptor.digest.clone(), size, source: Source::Bytes(bytes), labels });
        for tag in image.repo_tags.unwrap_or_default() {
            contents.images.push((normalize(&tag), descriptor.clone()));
        }
    }
    if contents.images.is_empty() {
        return Err(ImportError::Format("no image in manifest.json has a name".into()));
    }
    Ok(contents)
}

fn parse<T: serde::de::DeserializeOwned>(entries: &BTreeMap<String, Entry>, name: &str) -> Result<T, ImportError> {
    let bytes = entries.get(name).and_then(|entry| entry.bytes.as_deref()).ok_or_else(|| {
        ImportError::Format(format!("no {name} in the archive: neither an OCI layout nor a docker archive"))
    })?;
    let value: Value = serde_json::from_slice(bytes).map_err(|e| ImportError::Format(format!("{name}: {e}")))?;
    serde_json::from_value(value).map_err(|e| ImportError::Format(format!("{name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(name: &str, files: &[(&str, &[u8])], gzip: bool) -> std::path::PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        let mut bytes = tar.into_inner().unwrap();
        if gzip {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            bytes = encoder.finish().unwrap();
        }
        let path = std::env::temp_dir().join(format!("skeg-archive-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn names_take_their_full_form() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("library/nginx:1", "docker.io/library/nginx:1"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b@sha256:00", "localhost:5000/a/b@sha256:00"),
        ] {
            assert_eq!(normalize(short), full);
        }
    }

    #[test]
    fn a_docker_archive_becomes_a_manifest_that_keeps_its_blobs() {
        let manifest = br#"[{"Config":"c.json","RepoTags":["busybox:1"],"Layers":["l/layer.tar"]}]"#;
        for gzip in [false, true] {
            let files: &[(&str, &[u8])] = &[("manifest.json", manifest), ("c.json", b"{}"), ("l/layer.tar", b"layer")];
            let path = archive(&format!("docker-{gzip}"), files, gzip);
            let contents = scan(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert_eq!(contents.images[0].0, "docker.io/library/busybox:1");
            assert_eq!(contents.blobs.len(), 3);
            let labels = &contents.blobs[2].labels;
            assert_eq!(labels["containerd.io/gc.ref.content.config"], digest(b"{}"));
            assert_eq!(labels["containerd.io/gc.ref.content.l.0"], digest(b"layer"));
        }
    }

    #[test]
    fn a_blob_that_is_not_what_its_name_says_is_refused() {
        let right = digest(b"{}");
        let index = format!(
            r#"{{"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{right}","size":2,
            "annotations":{{"io.containerd.image.name":"a/b:1"}}}}]}}"#
        );
        let blob = format!("blobs/{}", right.replacen(':', "/", 1));
        let path = archive("oci", &[("index.json", index.as_bytes()), (&blob, b"[]")], false);
        let error = scan(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.to_string().contains("has digest"), "{error}");
    }

    #[test]
    fn something_else_is_named_as_such() {
        let path = archive("other", &[("readme", b"hello")], false);
        let error = scan(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.to_string().contains("neither an OCI layout nor a docker archive"), "{error}");
    }
}
