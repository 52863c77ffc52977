//! What an access review must hold to be answered (kubernetes/pkg/apis/authorization/validation), and what of its selectors
//! cannot be read. Pure.

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::fields;
use skeg_machinery::labels::{self, Requirement};
use skeg_machinery::validation::{is_qualified_name, is_valid_label_value};

use super::reviews::{strings, text};

/// The faults of a review of `resource`, e.g. localsubjectaccessreviews.
pub fn faults(resource: &str, review: &Value) -> ErrorList {
    let spec = &review["spec"];
    let root = Path::new("spec");
    let mut errors = ErrorList::default();
    let (attributes, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    // As Go shows a struct that has no names for JSON.
    let shown = || json!({"Path": text(other, "path"), "Verb": text(other, "verb")});
    if attributes.is_object() && other.is_object() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(Error::invalid(&root.child("nonResourceAttributes"), shown(), why));
    }
    if !attributes.is_object() && !other.is_object() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(Error::invalid(&root.child("resourceAttributes"), Value::Null, why));
    }
    let own = resource == "selfsubjectaccessreviews";
    if !own && text(spec, "user").is_empty() && strings(&spec["groups"]).is_empty() {
        errors.push(Error::invalid(&root.child("user"), "", "at least one of user or group must be specified"));
    }
    let path = root.child("resourceAttributes");
    field_selector(&mut errors, &path.child("fieldSelector"), &attributes["fieldSelector"]);
    label_selector(&mut errors, &path.child("labelSelector"), &attributes["labelSelector"]);
    let local = resource == "localsubjectaccessreviews";
    metadata(&mut errors, &review["metadata"], local);
    if local {
        let namespace = text(attributes, "namespace");
        if attributes.is_object() && namespace != text(&review["metadata"], "namespace") {
            errors.push(Error::invalid(&path.child("namespace"), namespace, "must match metadata.namespace"));
        }
        if other.is_object() {
            let why = "disallowed on this kind of request";
            errors.push(Error::invalid(&root.child("nonResourceAttributes"), shown(), why));
        }
    }
    errors
}

fn metadata(errors: &mut ErrorList, metadata: &Value, local: bool) {
    let may = |key: &str| key == "managedFields" || (local && key == "namespace");
    let filled = |value: &Value| !value.is_null() && value != "" && value != 0;
    let mut members = metadata.as_object().into_iter().flatten();
    if members.any(|(key, value)| !may(key) && filled(value)) {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(Error::invalid(&Path::new("metadata"), metadata.clone(), why));
    }
}

/// Either the text or the requirements; those are returned.
fn one_form<'a>(errors: &mut ErrorList, path: &Path, selector: &'a Value) -> &'a [Value] {
    if !selector.is_object() {
        return &[];
    }
    let raw = text(selector, "rawSelector");
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.push(Error::invalid(&path.child("rawSelector"), raw, why));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(Error::required(&path.child("requirements"), why));
    }
    requirements
}

fn operator(errors: &mut ErrorList, path: &Path, requirement: &Value) {
    let values = strings(&requirement["values"]);
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(&path.child("values"), why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&path.child("values"), why));
        }
        // A client may know operators that the server does not.
        _ => {}
    }
}

fn field_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    for (index, requirement) in one_form(errors, path, selector).iter().enumerate() {
        let at = path.child("requirements").index(index);
        if text(requirement, "key").is_empty() {
            errors.push(Error::required(&at.child("key"), "must be specified"));
        }
        operator(errors, &at, requirement);
    }
}

fn label_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    for (index, requirement) in one_form(errors, path, selector).iter().enumerate() {
        let at = path.child("requirements").index(index);
        operator(errors, &at, requirement);
        let key = text(requirement, "key");
        errors.extend(is_qualified_name(key).into_iter().map(|why| Error::invalid(&at.child("key"), key, why)));
        for (index, value) in strings(&requirement["values"]).iter().enumerate() {
            let at = at.child("values").index(index);
            errors.extend(is_valid_label_value(value).into_iter().map(|why| Error::invalid(&at, value.as_str(), why)));
        }
    }
}

/// What the answer says of selectors that could not be read: they count as if they were not there.
pub fn unread_selectors(attributes: &Value) -> Vec<String> {
    let fields = unread(&attributes["fieldSelector"], |raw| fields::Selector::parse(raw).is_ok(), readable_field);
    let labels = unread(&attributes["labelSelector"], |raw| labels::Selector::parse(raw).is_ok(), readable_label);
    let told = [("fieldSelector", fields), ("labelSelector", labels)].into_iter();
    told.filter_map(|(name, how)| Some(format!("spec.resourceAttributes.{name} {} due to parse error", how?))).collect()
}

fn unread(selector: &Value, parses: impl Fn(&str) -> bool, readable: impl Fn(&Value) -> bool) -> Option<&'static str> {
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    let good = requirements.iter().filter(|requirement| readable(requirement)).count();
    let raw = text(selector, "rawSelector");
    match requirements.len() {
        0 if raw.is_empty() || parses(raw) => None,
        0 => Some("ignored"),
        all if good == all => None,
        _ if good > 0 => Some("partially ignored"),
        _ => Some("ignored"),
    }
}

fn readable_field(requirement: &Value) -> bool {
    matches!(text(requirement, "operator"), "In" | "NotIn") && strings(&requirement["values"]).len() == 1
}

fn readable_label(requirement: &Value) -> bool {
    let operator = match text(requirement, "operator") {
        "In" => labels::Operator::In,
        "NotIn" => labels::Operator::NotIn,
        "Exists" => labels::Operator::Exists,
        "DoesNotExist" => labels::Operator::DoesNotExist,
        _ => return false,
    };
    Requirement::new(text(requirement, "key"), operator, strings(&requirement["values"])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(resource: &str, review: &Value) -> String {
        faults(resource, review).aggregate().unwrap_or_default()
    }

    #[test]
    fn a_review_asks_about_one_thing() {
        let attributes = json!({"verb": "get", "resource": "pods", "namespace": "n"});
        let spec = json!({"user": "a", "resourceAttributes": attributes});
        let mut review = json!({"metadata": {"managedFields": [{}]}, "spec": spec});
        assert_eq!(told("subjectaccessreviews", &review), "");
        assert_eq!(told("selfsubjectaccessreviews", &json!({"spec": {"resourceAttributes": attributes}})), "");
        assert_eq!(
            told("subjectaccessreviews", &json!({"metadata": {}, "spec": {"user": "a"}})),
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must \
             be specified"
        );
        review["metadata"]["namespace"] = json!("n");
        assert_eq!(told("localsubjectaccessreviews", &review), "");
        assert!(told("subjectaccessreviews", &review).contains("metadata: Invalid value: {"));
        review["spec"]["nonResourceAttributes"] = json!({"path": "/p", "verb": "get"});
        assert!(
            told("localsubjectaccessreviews", &review)
                .contains("spec.nonResourceAttributes: Invalid value: {\"Path\":\"/p\",\"Verb\":\"get\"}: disallowed")
        );
    }

    #[test]
    fn selectors_are_text_or_requirements() {
        let with = |selector: Value| {
            let attributes = json!({"labelSelector": selector});
            told("selfsubjectaccessreviews", &json!({"spec": {"resourceAttributes": attributes}}))
        };
        let path = "spec.resourceAttributes.labelSelector";
        assert_eq!(
            with(json!({})),
            format!(
                "{path}.requirements: Required value: when {path} is specified, requirements or rawSelector is required"
            )
        );
        let one = json!([{"key": "a", "operator": "In", "values": ["b"]}]);
        assert_eq!(with(json!({"requirements": one})), "");
        assert!(with(json!({"requirements": one, "rawSelector": "a"})).contains("may not specified at the same time"));
        assert!(with(json!({"requirements": [{"key": "a", "operator": "In"}]})).contains("values: Required value"));
    }

    #[test]
    fn what_cannot_be_read_of_a_selector_is_told() {
        let good = json!({"key": "a", "operator": "In", "values": ["b"]});
        let odd = json!({"key": "a", "operator": "Near", "values": ["b"]});
        let told = |selector: Value| unread_selectors(&json!({"fieldSelector": selector})).join("; ");
        assert_eq!(told(json!({"requirements": [good]})), "");
        assert_eq!(told(json!({"rawSelector": "a=b"})), "");
        assert!(told(json!({"requirements": [odd]})).ends_with("fieldSelector ignored due to parse error"));
        assert!(told(json!({"requirements": [good, odd]})).ends_with("partially ignored due to parse error"));
        assert!(told(json!({"rawSelector": "a"})).ends_with("fieldSelector ignored due to parse error"));
        assert_eq!(unread_selectors(&Value::Null).len(), 0);
    }
}
