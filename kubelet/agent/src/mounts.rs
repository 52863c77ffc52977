//! Mounts of the agent's own: tmpfs volumes, sub-paths, propagation.

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Mounts a filesystem.
pub fn mount(source: &str, target: &Path, kind: &str, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    rustix::mount::mount(source, target, kind, MountFlags::empty(), options.as_c_str())?;
    Ok(())
}

/// Binds a file or directory to another place.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind_recursive(source, target)?;
    Ok(())
}

/// Mounts a filesystem that may only be read.
pub fn mount_read_only(source: &str, target: &Path, kind: &str, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    rustix::mount::mount(source, target, kind, MountFlags::RDONLY, options.as_c_str())?;
    Ok(())
}

/// Binds a directory to another place, where it may only be read.
pub fn bind_read_only(source: &Path, target: &Path) -> io::Result<()> {
    bind(source, target)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    if let Err(error) = rustix::mount::mount_remount(target, flags, c"") {
        unmount(target)?;
        return Err(error.into());
    }
    Ok(())
}

/// Ends a mount, lazily if it is in use. One that is not there is no error.
pub fn unmount(target: &Path) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(_) => Ok(rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?),
    }
}

/// Makes a directory a mount whose new mounts are seen in both directions, as bidirectional propagation needs.
pub fn make_shared(dir: &Path) -> io::Result<()> {
    let shared = fs::read_to_string("/proc/self/mountinfo")?.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.get(4).is_some_and(|at| Path::new(&unescape(at)) == dir) && line.contains(" shared:")
    });
    if shared {
        return Ok(());
    }
    if !is_mount_point(dir) {
        bind(dir, dir)?;
    }
    rustix::mount::mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    Ok(())
}

/// Whether something is mounted exactly there.
pub fn is_mount_point(path: &Path) -> bool {
    mount_points().iter().any(|at| at == path)
}

fn mount_points() -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    info.lines().filter_map(|line| line.split(' ').nth(4)).map(|at| PathBuf::from(unescape(at))).collect()
}

/// Unmounts all that is mounted beneath a directory, and the directory itself, last mounted first.
pub fn unmount_beneath(dir: &Path) {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    for at in mount_points().iter().rev().filter(|at| at.starts_with(&dir)) {
        if let Err(error) = unmount(at) {
            tracing::warn!(at = %at.display(), %error, "not unmounted");
        }
    }
}

/// Whether anything is mounted at or beneath a directory.
pub fn any_beneath(dir: &Path) -> bool {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    mount_points().iter().any(|at| at.starts_with(&dir))
}

/// Undoes mountinfo's octal escapes.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten();
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_of_mountinfo_are_undone() {
        assert_eq!(super::unescape(r"/a\040b\134c"), r"/a b\c");
    }
}
