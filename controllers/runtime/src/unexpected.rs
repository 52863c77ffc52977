//! What an answer means that is an error and no Status: nobody serves the path, or something between us and the server answered.
//! Says it as client-go does (apimachinery/pkg/api/errors: NewGenericServerResponse), since such messages end up in conditions
//! and events.

use kube::core::Status;

/// The error for a code and the text that came with it.
pub(crate) fn status(method: &str, path: &str, code: u16, text: &str) -> Status {
    let said = |fixed: &'static str, reason: &'static str| (fixed.to_owned(), reason);
    let (message, reason) = match code {
        400 => said("the server rejected our request for an unknown reason", "BadRequest"),
        401 => said("the server has asked for the client to provide credentials", "Unauthorized"),
        403 => (text.to_owned(), "Forbidden"),
        404 => said("the server could not find the requested resource", "NotFound"),
        405 => said("the server does not allow this method on the requested resource", "MethodNotAllowed"),
        409 => said("the server reported a conflict", if method == "POST" { "AlreadyExists" } else { "Conflict" }),
        422 => said("the server rejected our request due to an error in our request", "Invalid"),
        429 => said("the server has received too many requests and has asked us to try again later", "TooManyRequests"),
        503 => said("the server is currently unable to handle the request", "ServiceUnavailable"),
        504 => said(
            "the server was unable to return a response in the time allotted, but may still be processing the request",
            "Timeout",
        ),
        500.. => {
            (format!("an error on the server ({text:?}) has prevented the request from succeeding"), "InternalError")
        }
        _ => {
            (format!("the server responded with the status code {code} but did not return more information"), "Unknown")
        }
    };
    let about = about(path).map(|about| format!(" ({} {about})", method.to_lowercase())).unwrap_or_default();
    Status::failure(&(message + &about), reason).with_code(code)
}

/// The resource of a path, with its group, and the name of the object if there is one.
fn about(path: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let rest: Vec<&str> = parts.skip(1).collect();
    let rest = match rest.as_slice() {
        ["namespaces", _, resource @ ..] if !resource.is_empty() => resource,
        all => all,
    };
    let (resource, name) = (rest.first()?, rest.get(1));
    let dot = if group.is_empty() { "" } else { "." };
    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
    Some(format!("{resource}{dot}{group}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_status_says_what_was_asked() {
        for (method, path, code, text, expected) in [
            (
                "GET",
                "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods?labelSelector=a",
                404,
                "404 page not found",
                "the server could not find the requested resource (get pods.metrics.k8s.io)",
            ),
            (
                "GET",
                "/api/v1/namespaces/n",
                404,
                "",
                "the server could not find the requested resource (get namespaces n)",
            ),
            ("POST", "/api/v1/nodes", 409, "", "the server reported a conflict (post nodes)"),
            (
                "GET",
                "/version",
                502,
                "bad",
                "an error on the server (\"bad\") has prevented the request from succeeding",
            ),
            (
                "GET",
                "/version",
                418,
                "",
                "the server responded with the status code 418 but did not return more information",
            ),
            ("PUT", "/apis/apps/v1/namespaces/n/deployments/d/scale", 403, "no", "no (put deployments.apps d)"),
        ] {
            let status = status(method, path, code, text);
            assert_eq!((status.message.as_str(), status.code), (expected, code), "{path}");
        }
    }
}
