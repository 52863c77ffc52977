//! subPath: a part of a volume, opened beneath the volume's root and bound by descriptor, so that no link that a container
//! plants or swaps can lead out of the volume.

use crate::mounts;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Binds `sub` of the volume at `root` to `target` and returns `target`. What does not exist is made, as directories.
pub fn bind(root: &Path, sub: &str, target: &Path) -> io::Result<PathBuf> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let fd = open_or_make(&root, Path::new(sub))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    mounts::unmount(target)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let is_dir = fs::metadata(&source)?.is_dir();
    match (is_dir, fs::symlink_metadata(target).ok().map(|m| m.is_dir())) {
        (true, Some(true)) | (false, Some(false)) => {}
        (_, Some(true)) => fs::remove_dir(target)?,
        (_, Some(false)) => fs::remove_file(target)?,
        (_, None) => {}
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    mounts::bind(&source, target)?;
    Ok(target.to_path_buf())
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

fn open_beneath(dir: BorrowedFd, path: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

fn open_or_make(root: &OwnedFd, sub: &Path) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {sub:?} leads out of the volume"));
    if sub.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let explain = |error: rustix::io::Errno| if error == rustix::io::Errno::XDEV { outside() } else { error.into() };
    match open_beneath(root.as_fd(), sub.as_os_str()) {
        Ok(fd) => return Ok(fd),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(explain(error)),
    }
    let mut at = open_beneath(root.as_fd(), OsStr::new(".")).map_err(explain)?;
    let mode = rustix::fs::fstat(root)?.st_mode & 0o777;
    for part in sub.components().filter(|c| matches!(c, Component::Normal(_))) {
        let name = part.as_os_str();
        at = match open_beneath(at.as_fd(), name) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&at, name, Mode::from_raw_mode(mode))?;
                let made = openat2(
                    &at,
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                    BENEATH,
                )?;
                // Not the process's umask, but the volume's mode decides.
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                made
            }
            Err(error) => return Err(explain(error)),
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out_of_the_volume() {
        let dir = std::env::temp_dir().join(format!("skeg-subpath-{}", std::process::id()));
        fs::create_dir_all(dir.join("inside")).unwrap();
        symlink("/etc", dir.join("absolute")).unwrap();
        symlink("../..", dir.join("up")).unwrap();
        symlink("inside", dir.join("fine")).unwrap();
        let root = openat(CWD, &dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for (sub, allowed) in [
            ("inside", true),
            ("fine", true),
            ("new/deep", true),
            ("absolute", false),
            ("up", false),
            ("../x", false),
            ("/etc", false),
        ] {
            assert_eq!(open_or_make(&root, Path::new(sub)).is_ok(), allowed, "{sub}");
        }
        assert!(dir.join("new/deep").is_dir());
        fs::remove_dir_all(&dir).unwrap();
    }
}
