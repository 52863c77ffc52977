//! Every document of OpenAPI that upstream serves, compared member by member: what kubectl explain, validation of clients and
//! generators of clients read.

use serde_json::Value;

use crate::request::{Request, Scenario};
use crate::side::Side;

/// The documents of v3 that upstream's index names, and that of v2. Asked before anything is made, so that no custom resource
/// is in them.
pub async fn scenario(upstream: &Side) -> anyhow::Result<Scenario> {
    let index = upstream.read("/openapi/v3", "application/json").await?;
    Ok(documents(&index))
}

fn documents(index: &Value) -> Scenario {
    let mut scenario = Scenario { resource: "openapi".to_owned(), ..Scenario::default() };
    let names = index["paths"].as_object().into_iter().flat_map(|paths| paths.keys());
    let ask = |case: String, path: String| Request::new("openapi", case, "GET", path).accept("application/json");
    scenario.steps.extend(names.map(|name| ask(format!("v3 {name}"), format!("/openapi/v3/{name}"))));
    scenario.steps.push(ask("v2".to_owned(), "/openapi/v2".to_owned()));
    scenario
}

#[cfg(test)]
mod tests {
    use super::documents;
    use serde_json::json;

    #[test]
    fn each_document_of_the_index_is_asked_for() {
        let found = documents(&json!({"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=1"}}}));
        let paths: Vec<&str> = found.steps.iter().map(|request| request.path.as_str()).collect();
        assert_eq!(paths, ["/openapi/v3/api/v1", "/openapi/v2"]);
    }
}
