//! Directories for local volumes: made and removed for the cluster's local-path provisioner, which alone knows whose they
//! are. They lie under one directory of the node's data, each under the name of its volume.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::body::Body;
use http::{Response, StatusCode, header};

use super::Refusal;

/// The directory of a volume; `None` if the name is none that a volume can have.
fn directory(data_dir: &Path, name: &str) -> Option<PathBuf> {
    let usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let valid = !name.is_empty() && name.len() <= 253 && name.chars().all(usual) && !name.starts_with('.');
    valid.then(|| data_dir.join("storage").join(name))
}

fn checked(data_dir: &Path, name: &str) -> Result<PathBuf, Refusal> {
    directory(data_dir, name).ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "this is no name of a volume"))
}

fn failed(what: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what}: {error}"))
}

/// Makes the directory, open to any user as the volume's pods may be, and says where it is.
pub(super) async fn make(data_dir: &Path, name: &str) -> Result<Response<Body>, Refusal> {
    let path = checked(data_dir, name)?;
    let made = async {
        tokio::fs::create_dir_all(&path).await?;
        tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).await?;
        tokio::fs::canonicalize(&path).await
    };
    let path = made.await.map_err(|error| failed("make the directory of the volume", &error))?;
    let mut response = Response::new(Body::from(serde_json::json!({ "path": path }).to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Removes the directory and all that is in it; one that is gone already is no error. Links are removed, not followed.
pub(super) async fn remove(data_dir: &Path, name: &str) -> Result<Response<Body>, Refusal> {
    let path = checked(data_dir, name)?;
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
    match removed.map_err(std::io::Error::other).and_then(|result| result) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove the directory of the volume", &error)),
        _ => Ok(Response::new(Body::from("{}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_made_open_to_all_and_removed_with_what_is_in_it() {
        let dir = std::env::temp_dir().join(format!("skeg-volumes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let outside = dir.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        for _ in 0..2 {
            make(&dir, "pvc-1").await.unwrap();
        }
        let made = dir.join("storage/pvc-1");
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o777);
        std::os::unix::fs::symlink(&outside, made.join("link")).unwrap();
        for _ in 0..2 {
            remove(&dir, "pvc-1").await.unwrap();
        }
        assert!(!made.exists() && outside.join("kept").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for bad in ["", ".", "..", "a/b", "%2e", "A", ".hidden"] {
            assert_eq!(directory(Path::new("/d"), bad), None, "{bad}");
        }
        assert_eq!(directory(Path::new("/d"), "pvc-1.x"), Some(PathBuf::from("/d/storage/pvc-1.x")));
    }
}
