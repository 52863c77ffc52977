//! `/logs/`: the files beneath the node's log directory, as Go's file server shows them. No link leads out of it.

use super::Refusal;
use axum::body::Body;
use http::{Response, StatusCode, header};
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

const CHUNK: usize = 64 << 10;

fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Answers for `path`, the URL's part after `/logs`.
pub(super) async fn serve(root: &Path, path: &str) -> Result<Response<Body>, Refusal> {
    let at = resolve(root, path).ok_or_else(not_found)?;
    if at.is_dir() {
        if !path.ends_with('/') {
            return redirect(path);
        }
        return Ok(page("text/html; charset=utf-8", Body::from(listing(&at))));
    }
    let file = tokio::fs::File::open(&at).await.map_err(|_| not_found())?;
    let length = file.metadata().await.map(|m| m.len()).unwrap_or(0);
    // What is appended meanwhile is not part of the answer.
    let stream = futures::stream::unfold(file.take(length), async |mut rest| {
        let mut chunk = vec![0; CHUNK];
        match rest.read(&mut chunk).await {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(bytes::Bytes::from(chunk)), rest))
            }
            Err(error) => Some((Err(error), rest)),
        }
    });
    Ok(page("text/plain; charset=utf-8", Body::from_stream(stream)))
}

fn page(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn redirect(path: &str) -> Result<Response<Body>, Refusal> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = header::HeaderValue::from_str(&format!("{name}/")).map_err(|_| not_found())?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// The file or directory that a path of a URL names; none if there is none, or it is outside.
fn resolve(root: &Path, path: &str) -> Option<PathBuf> {
    let path = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    let root = root.canonicalize().ok()?;
    let at = root.join(path.trim_start_matches('/')).canonicalize().ok()?;
    at.starts_with(&root).then_some(at)
}

fn listing(dir: &Path) -> String {
    let entry = |e: std::fs::DirEntry| {
        let slash = if e.path().is_dir() { "/" } else { "" };
        format!("{}{slash}", e.file_name().to_string_lossy())
    };
    let mut names: Vec<String> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(entry).collect();
    names.sort();
    let line = |name: &String| {
        let href = percent_encoding::utf8_percent_encode(name, &UNSAFE);
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        format!("<a href=\"{href}\">{shown}</a>\n")
    };
    let lines: String = names.iter().map(line).collect();
    format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n")
}

/// What may not stand in a link.
static UNSAFE: percent_encoding::AsciiSet =
    percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'#').add(b'?').add(b'%').add(b'`');

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn files_are_shown_and_nothing_outside_is() {
        let root = std::env::temp_dir().join(format!("skeg-logs-{}", std::process::id()));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("pods/a b.log"), "line\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("way-out")).unwrap();
        let body = async |path: &str| {
            let response = serve(&root, path).await.map_err(|r| r.0)?;
            let status = response.status();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, StatusCode>((status.as_u16(), String::from_utf8(bytes.to_vec()).unwrap()))
        };
        assert_eq!(body("/pods/a%20b.log").await, Ok((200, "line\n".into())));
        assert!(body("/").await.unwrap().1.contains("<a href=\"pods/\">pods/</a>"));
        assert!(body("/pods/").await.unwrap().1.contains("<a href=\"a%20b.log\">a b.log</a>"));
        assert_eq!(body("/pods").await.unwrap().0, 301);
        for outside in ["/way-out", "/../etc/passwd", "/none"] {
            assert_eq!(body(outside).await, Err(StatusCode::NOT_FOUND), "{outside}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
