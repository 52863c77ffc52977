//! Requests that are written by hand, as text: `### resource | case`, then `METHOD path`, headers, an empty line, the body.

use anyhow::{Context, ensure};

use crate::request::{Request, Scenario};

pub fn parse(name: &str, text: &str) -> anyhow::Result<Scenario> {
    let mut scenario = Scenario { resource: name.to_owned(), ..Scenario::default() };
    for block in text.split("\n### ").skip(1) {
        scenario.steps.push(request(block).with_context(|| format!("{name}: {block}"))?);
    }
    ensure!(!scenario.steps.is_empty(), "{name} has no requests");
    Ok(scenario)
}

fn request(block: &str) -> anyhow::Result<Request> {
    let (head, body) = block.split_once("\n\n").unwrap_or((block, ""));
    let mut lines = head.lines().filter(|line| !line.starts_with('#'));
    let (resource, case) = lines.next().and_then(|line| line.split_once(" | ")).context("no `resource | case`")?;
    let (method, path) = lines.next().and_then(|line| line.split_once(' ')).context("no `METHOD path`")?;
    let mut request = Request::new(resource.trim(), case.trim(), method, path.trim());
    for line in lines {
        let (name, value) = line.split_once(':').context("no `header: value`")?;
        request = request.header(&name.trim().to_lowercase(), value.trim());
    }
    let body = body.trim();
    if !body.is_empty() && !request.headers.iter().any(|(name, _)| name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    request.body = body.as_bytes().to_vec();
    request.remember = !request.path.contains("dryRun") && request.method != "DELETE";
    Ok(request)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::parse;

    #[test]
    fn a_block_is_a_request() {
        let text = "# comment\n\n### pods | a case\nPOST /api?x=y\nAccept: a/b\n\n{\"a\": 1}\n\n### x | y\nGET /z\n";
        let scenario = parse("name", text).unwrap();
        let first = &scenario.steps[0];
        assert_eq!(
            (&*first.resource, &*first.case, &*first.method, &*first.path),
            ("pods", "a case", "POST", "/api?x=y")
        );
        assert_eq!(
            first.headers,
            [("accept".to_owned(), "a/b".to_owned()), ("content-type".into(), "application/json".into())]
        );
        assert_eq!(first.body, b"{\"a\": 1}");
        assert_eq!(scenario.steps[1].path, "/z");
    }
}
