//! Writes an OCI image layout as one tar: layers, configs, manifests and an index that carries the names. An image may be
//! put onto another one of the same archive, and shares its layers then.
//! The same input gives the same bytes: entries are sorted, times and owners fixed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
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
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub stop_signal: Option<String>,
    pub expose: Vec<String>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Packs `root` under `names` into the archive `output` (written beside and renamed). With `onto`, the name of an image that
/// the archive holds already, `root` becomes a layer on top of that image, and the archive keeps what it holds.
pub fn pack(root: &Path, names: &[String], config: &ImageConfig, onto: Option<&str>, output: &Path) -> Result<()> {
    let mut layout = if onto.is_some() { Layout::read(output)? } else { Layout::default() };
    let base = onto.map(|name| layout.image(name)).transpose()?;
    let layer_tar = layer(root)?;
    let diff_id = format!("sha256:{}", digest(&layer_tar));
    let layer = gzip(&layer_tar)?;
    let (base_config, mut layers) = base.unwrap_or((json!({}), Vec::new()));
    layers.push(descriptor(LAYER, &layer));
    let config = serde_json::to_vec(&config_json(config, &base_config, &diff_id))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": layers,
    }))?;
    layout.manifests.extend(names.iter().map(|name| named(&manifest, name)));
    for blob in [manifest, config, layer] {
        layout.blobs.insert(digest(&blob), blob);
    }
    layout.write(output)
}

/// What an archive holds.
#[derive(Default)]
struct Layout {
    manifests: Vec<Value>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    fn read(path: &Path) -> Result<Self> {
        let mut layout = Self::default();
        let file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        for entry in tar::Archive::new(io::BufReader::new(file)).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            if name == "index.json" {
                let index: Value = serde_json::from_slice(&data)?;
                layout.manifests = index["manifests"].as_array().cloned().unwrap_or_default();
            } else if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                layout.blobs.insert(digest.into(), data);
            }
        }
        Ok(layout)
    }

    /// The configuration and the layers of an image.
    fn image(&self, name: &str) -> Result<(Value, Vec<Value>)> {
        let entry = self.manifests.iter().find(|entry| entry["annotations"]["io.containerd.image.name"] == name);
        let manifest = self.json(entry.with_context(|| format!("the archive holds no {name}"))?)?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        Ok((self.json(&manifest["config"])?, layers))
    }

    fn json(&self, descriptor: &Value) -> Result<Value> {
        let digest = descriptor["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:");
        Ok(serde_json::from_slice(self.blobs.get(digest).with_context(|| format!("no blob {digest}"))?)?)
    }

    fn write(&self, output: &Path) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests });
        let partial = output.with_extension("partial");
        let mut archive = tar::Builder::new(io::BufWriter::new(fs::File::create(&partial)?));
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
        for (digest, blob) in &self.blobs {
            append(&mut archive, &format!("blobs/sha256/{digest}"), blob)?;
        }
        archive.into_inner()?.flush()?;
        fs::rename(&partial, output).with_context(|| format!("rename to {}", output.display()))
    }
}

/// The configuration of an image: what is not given comes from the image that it is put onto.
fn config_json(config: &ImageConfig, base: &Value, diff_id: &str) -> Value {
    let mut run = match base["config"].clone() {
        Value::Null => json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/",
        }),
        inherited => inherited,
    };
    let env = run["Env"].as_array().cloned().unwrap_or_default();
    run["Env"] = env.into_iter().chain(config.env.iter().map(|e| json!(e))).collect();
    if !config.entrypoint.is_empty() {
        run["Entrypoint"] = json!(config.entrypoint);
    }
    if !config.cmd.is_empty() {
        run["Cmd"] = json!(config.cmd);
    }
    let stop_signal = config.stop_signal.iter().map(|signal| ("StopSignal", signal));
    let user = config.user.iter().map(|user| ("User", user));
    let workdir = config.workdir.iter().map(|dir| ("WorkingDir", dir));
    for (name, value) in stop_signal.chain(user).chain(workdir) {
        run[name] = json!(value);
    }
    if !config.expose.is_empty() {
        run["ExposedPorts"] = config.expose.iter().map(|port| (port.clone(), json!({}))).collect();
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids = base["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let diff_ids: Vec<Value> = diff_ids.into_iter().chain([json!(diff_id)]).collect();
    let history: Vec<Value> =
        diff_ids.iter().map(|_| json!({ "created": "1970-01-01T00:00:00Z", "created_by": "hack/images" })).collect();
    json!({
        "created": "1970-01-01T00:00:00Z", "architecture": architecture, "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entrypoint: &str, user: Option<&str>) -> ImageConfig {
        ImageConfig {
            entrypoint: if entrypoint.is_empty() { vec![] } else { vec![entrypoint.into()] },
            cmd: vec![],
            env: vec![],
            user: user.map(Into::into),
            workdir: None,
            stop_signal: None,
            expose: vec![],
        }
    }

    #[test]
    fn an_image_put_onto_another_shares_its_layers_and_inherits_what_is_not_given() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (base, top, output) = (dir.path().join("base"), dir.path().join("top"), dir.path().join("i.tar"));
        for (root, file) in [(&base, "a"), (&top, "b")] {
            fs::create_dir(root)?;
            fs::write(root.join(file), file)?;
        }
        pack(&base, &["r/base:1".into()], &config("/a", Some("7")), None, &output)?;
        pack(&top, &["r/top:1".into(), "r/top:2".into()], &config("/b", None), Some("r/base:1"), &output)?;

        let layout = Layout::read(&output)?;
        let ((base_config, base_layers), (top_config, top_layers)) =
            (layout.image("r/base:1")?, layout.image("r/top:2")?);
        assert_eq!((base_layers.len(), top_layers.len()), (1, 2));
        assert_eq!(base_layers[0], top_layers[0]);
        assert_eq!(base_config["config"]["Entrypoint"], json!(["/a"]));
        assert_eq!(top_config["config"]["Entrypoint"], json!(["/b"]));
        assert_eq!(top_config["config"]["User"], "7");
        assert_eq!(top_config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
        assert!(layout.image("r/none:1").is_err());
        Ok(())
    }
}
