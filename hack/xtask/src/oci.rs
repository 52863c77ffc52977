//! Writes an OCI image layout as one tar: a layer, a config, a manifest and an index that carries the names.
//! The same input gives the same bytes: entries are sorted, times and owners fixed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub stop_signal: Option<String>,
    pub expose: Vec<String>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Packs `root` under `names` into the archive `output` (written beside and renamed).
pub fn pack(root: &Path, names: &[String], config: &ImageConfig, output: &Path) -> Result<()> {
    let layer_tar = layer(root)?;
    let diff_id = digest(&layer_tar);
    let layer = gzip(&layer_tar)?;
    let config = serde_json::to_vec(&config_json(config, &diff_id))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config), "layers": [descriptor(LAYER, &layer)],
    }))?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": names.iter().map(|name| named(&manifest, name)).collect::<Vec<_>>(),
    }))?;
    let partial = output.with_extension("partial");
    let mut archive = tar::Builder::new(io::BufWriter::new(fs::File::create(&partial)?));
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", &index)?;
    for blob in [&manifest, &config, &layer] {
        append(&mut archive, &format!("blobs/sha256/{}", digest(blob)), blob)?;
    }
    archive.into_inner()?.flush()?;
    fs::rename(&partial, output).with_context(|| format!("rename to {}", output.display()))
}

fn config_json(config: &ImageConfig, diff_id: &str) -> Value {
    let mut run = json!({ "WorkingDir": config.workdir });
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string();
    run["Env"] = json!(std::iter::once(&path).chain(&config.env).collect::<Vec<_>>());
    for (name, list) in [("Entrypoint", &config.entrypoint), ("Cmd", &config.cmd)] {
        if !list.is_empty() {
            run[name] = json!(list);
        }
    }
    if !config.user.is_empty() {
        run["User"] = json!(config.user);
    }
    if let Some(signal) = &config.stop_signal {
        run["StopSignal"] = json!(signal);
    }
    if !config.expose.is_empty() {
        run["ExposedPorts"] = config.expose.iter().map(|port| (port.clone(), json!({}))).collect();
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "created": "1970-01-01T00:00:00Z", "architecture": architecture, "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "hack/images" }],
    })
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", digest(blob)), "size": blob.len() })
}

fn named(manifest: &[u8], name: &str) -> Value {
    let mut entry = descriptor(MANIFEST, manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    entry
}

fn layer(root: &Path) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    for path in walk(root)? {
        let name = path.strip_prefix(root).context("a path outside of the root")?;
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(0);
        header.set_size(0);
        header.set_uid(u64::from(metadata.uid()));
        header.set_gid(u64::from(metadata.gid()));
        let kind = metadata.file_type();
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, name, fs::read_link(&path)?)?;
        } else if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, name, io::empty())?;
        } else if kind.is_file() {
            header.set_size(metadata.len());
            builder.append_data(&mut header, name, fs::File::open(&path)?)?;
        } else if kind.is_socket() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            bail!("{} is neither a file, a directory nor a link", path.display());
        }
    }
    Ok(builder.into_inner()?)
}

/// All paths beneath `root`, parents first, sorted.
fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(root)
        .with_context(|| format!("read {}", root.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    let mut all = Vec::new();
    for entry in entries {
        let is_dir = fs::symlink_metadata(&entry)?.is_dir();
        all.push(entry.clone());
        if is_dir {
            all.extend(walk(&entry)?);
        }
    }
    Ok(all)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, name, data)?)
}

fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data)?;
    Ok(encoder.finish()?)
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
