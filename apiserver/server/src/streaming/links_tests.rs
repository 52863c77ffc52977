use super::*;
use http_body_util::BodyExt;

fn links() -> Links {
    Links { prefix: "/api/p/proxy".into(), backend: "10.0.0.1:80".into(), asked: "localhost:8001".into() }
}

#[test]
fn a_link_of_the_same_host_goes_through_the_proxy() {
    for (link, expected) in [
        ("/a", Some("/api/p/proxy/a")),
        ("/", Some("/api/p/proxy/")),
        ("/a/?q=/x#f", Some("/api/p/proxy/a/?q=/x#f")),
        ("http://10.0.0.1:80/a", Some("/api/p/proxy/a")),
        ("//10.0.0.1:80/a", Some("/api/p/proxy/a")),
        ("http://localhost:8001/a", Some("http://localhost:8001/api/p/proxy/a")),
        ("http://localhost:8001/api/p/proxy/a", Some("http://localhost:8001/api/p/proxy/a")),
        ("/api/p/proxy/a", Some("/api/p/proxy/a")),
        ("http://example.org/a", None),
        ("a/b", None),
        ("#x", None),
        ("mailto:a@b", None),
        ("javascript:x('/y')", None),
        ("not a url", None),
    ] {
        assert_eq!(links().rewrite(link).as_deref(), expected, "{link}");
    }
}

/// The page in pieces of every size.
fn check(page: &str, expected: &str) {
    for size in 1..=page.len() {
        let mut through = Page::new(links());
        let mut out = Vec::new();
        for piece in page.as_bytes().chunks(size) {
            out.extend(through.push(piece));
        }
        out.extend(through.end());
        assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {size}");
    }
}

#[test]
fn only_links_of_a_page_change() {
    check(r#"<a href="/x">test</a>"#, r#"<a href="/api/p/proxy/x">test</a>"#);
    check("<A  HREF = '/x?a=1&amp;b=2' >", "<A  HREF = '/api/p/proxy/x?a=1&amp;b=2' >");
    check("<img alt=/y src=/x longdesc='/z'/>", "<img alt=/y src=/api/p/proxy/x longdesc='/api/p/proxy/z'/>");
    check("<!-- <a href='/x'> --><!DOCTYPE html>", "<!-- <a href='/x'> --><!DOCTYPE html>");
    check(
        r#"<script src="/s">"<a href='/x'>"</script><a href="/x">"#,
        r#"<script src="/api/p/proxy/s">"<a href='/x'>"</script><a href="/api/p/proxy/x">"#,
    );
    check(
        "a < b <p title='>' a href='/x'> </a href='/x'> <a href='/x'",
        "a < b <p title='>' a href='/x'> </a href='/x'> <a href='/x'",
    );
    check("<a disabled href=\"http://example.org/x\">ü", "<a disabled href=\"http://example.org/x\">ü");
}

async fn body(encoding: &str, bytes: Vec<u8>) -> Vec<u8> {
    let answer = Response::builder()
        .header("content-type", "text/html; charset=utf-8")
        .header("content-encoding", encoding)
        .header("content-length", bytes.len())
        .body(Body::from(bytes))
        .unwrap();
    let answer = links().pass(answer);
    assert!(answer.headers().get("content-length").is_none());
    answer.into_body().collect().await.unwrap().to_bytes().to_vec()
}

#[tokio::test]
async fn a_compressed_page_is_rewritten_too() {
    let (page, expected) = (b"<a href='/x'>".as_slice(), b"<a href='/api/p/proxy/x'>".to_vec());
    assert_eq!(body("", page.to_vec()).await, expected);
    let mut coding = Coding::new("gzip").unwrap();
    let packed = [coding.encode(page).unwrap(), coding.encode_end().unwrap()].concat();
    let out = body("gzip", packed).await;
    assert_eq!([coding.decode(&out).unwrap(), coding.decode_end().unwrap()].concat(), expected);
}

#[test]
fn a_redirect_goes_through_the_proxy() {
    let answer = Response::builder().status(302).header("location", "/there").body(Body::empty()).unwrap();
    assert_eq!(links().pass(answer).headers()["location"], "/api/p/proxy/there");
}
