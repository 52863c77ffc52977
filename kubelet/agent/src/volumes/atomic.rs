//! Files that change all at once: each version in a directory of its own behind the link `..data`, so that a reader sees
//! the old set or the new one, never a mixture (upstream's pkg/volume/util/atomic_writer.go).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner, if not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// Makes a directory show exactly this payload. `finish` is run on a new version before it becomes visible. Returns
/// whether anything changed.
pub fn write(target: &Path, payload: &Payload, finish: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
    for path in payload.keys() {
        validate(path)?;
    }
    let current = fs::read_link(target.join(DATA)).ok().map(|name| target.join(name));
    if let Some(current) = &current
        && same(current, payload)?
    {
        link_visible(target, payload)?;
        return Ok(false);
    }
    let version = new_version(target)?;
    for (path, file) in payload {
        let at = version.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, &file.data)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            chown(&at, Some(owner), None)?;
        }
    }
    finish(&version)?;
    let temporary = target.join(DATA_NEW);
    let _ = fs::remove_file(&temporary);
    let name = version.file_name().map(PathBuf::from).unwrap_or_default();
    symlink(name, &temporary)?;
    fs::rename(&temporary, target.join(DATA))?;
    link_visible(target, payload)?;
    remove_stale(target, payload)?;
    if let Some(old) = current {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

/// A payload path stays beneath its directory and does not look like one of ours.
fn validate(path: &str) -> io::Result<()> {
    let fine = !path.is_empty()
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && !path.starts_with("..");
    if fine { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}"))) }
}

fn new_version(target: &Path) -> io::Result<PathBuf> {
    let stamp = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    let version = target.join(format!("..{stamp}"));
    fs::create_dir(&version)?;
    fs::set_permissions(&version, fs::Permissions::from_mode(0o755))?;
    Ok(version)
}

fn same(current: &Path, payload: &Payload) -> io::Result<bool> {
    let mut present = BTreeSet::new();
    list(current, current, &mut present)?;
    if present.len() != payload.len() || !payload.keys().all(|path| present.contains(path)) {
        return Ok(false);
    }
    for (path, file) in payload {
        if fs::read(current.join(path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(root: &Path, dir: &Path, into: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), into)?;
        } else if let Ok(relative) = entry.path().strip_prefix(root) {
            into.insert(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn first(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_visible(target: &Path, payload: &Payload) -> io::Result<()> {
    for name in payload.keys().map(|p| first(p)).collect::<BTreeSet<_>>() {
        let link = target.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    Ok(())
}

fn remove_stale(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|p| first(p)).collect();
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| (path.to_string(), file(data))).collect()
    }

    fn shown(dir: &Path) -> String {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|n| !n.starts_with(".."));
        names.sort();
        names.join(" ")
    }

    #[test]
    fn a_new_version_replaces_the_old_one_whole() {
        let dir = std::env::temp_dir().join(format!("skeg-atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let put = |files: &[(&str, &str)]| write(&dir, &payload(files), &|_| Ok(())).unwrap();
        assert!(put(&[("a", "1"), ("d/b", "2")]));
        assert!(!put(&[("a", "1"), ("d/b", "2")]), "the same again changes nothing");
        let version = fs::read_link(dir.join("..data")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert!(put(&[("a", "3")]));
        assert_eq!((shown(&dir).as_str(), fs::read_to_string(dir.join("a")).unwrap().as_str()), ("a", "3"));
        assert!(!dir.join(version).exists(), "the old version is gone");
        assert!(write(&dir, &payload(&[("../x", "")]), &|_| Ok(())).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
