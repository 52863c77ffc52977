//! fsGroup: who owns the files of a volume (upstream's pkg/volume/volume_linux.go).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const SETGID: u32 = 0o2000;

/// Gives a tree to a group: read (and write, unless `read_only`) for it, and new files inherit it.
pub fn set_group(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mask = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mask |= SETGID | 0o110;
    }
    let mode = meta.permissions().mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | mask))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            set_group(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Whether the top of a tree is as [`set_group`] leaves it, for `fsGroupChangePolicy: OnRootMismatch`.
pub fn root_matches(path: &Path, group: u32, read_only: bool) -> bool {
    let mask = SETGID | 0o110 | if read_only { 0o440 } else { 0o660 };
    fs::metadata(path).is_ok_and(|meta| meta.gid() == group && meta.permissions().mode() & mask == mask)
}
