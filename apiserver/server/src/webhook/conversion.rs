//! Conversion of custom resources by webhook: the ConversionReview, and what is allowed to come back
//! (apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go).

use std::time::Duration;

use serde_json::{Map, Value, json};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::meta;
use uuid::Uuid;

use super::{ClientConfig, Webhooks};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Converts `objects` of one kind to `desired` (an apiVersion), in their order. Those that are of that version already
/// are not sent. `versions` are the CRD's `conversionReviewVersions`. `Err` is the cause of a 500.
pub async fn convert(
    webhooks: &Webhooks,
    config: &ClientConfig,
    versions: &[String],
    desired: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, String> {
    let (other, mut done): (Vec<_>, Vec<_>) =
        objects.into_iter().enumerate().partition(|(_, object)| object["apiVersion"] != desired);
    let Some((_, first)) = other.first() else { return Ok(done.into_iter().map(|(_, object)| object).collect()) };
    let about = kind_of(first);
    let version = versions.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1"));
    let version = version.ok_or_else(|| "no supported conversion review versions".to_owned())?;
    let uid = Uuid::new_v4().to_string();
    let sent: Vec<&Value> = other.iter().map(|(_, object)| object).collect();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": sent}, "response": null,
    });
    let failed = |why: &dyn std::fmt::Display| format!("conversion webhook for {about} failed: {why}");
    let answer = webhooks.call(config, &review, TIMEOUT).await.map_err(|error| failed(&error))?;
    let converted = converted(answer, version, &uid).map_err(|why| failed(&why))?;
    if converted.len() != other.len() {
        let (got, wanted) = (converted.len(), other.len());
        return Err(format!("conversion webhook for {about} returned {got} objects, expected {wanted}"));
    }
    for (at, ((place, original), object)) in other.into_iter().zip(converted).enumerate() {
        let object = accept(&original, object, desired).map_err(|why| {
            format!("conversion webhook for {about} returned invalid converted object at index {at}: {why}")
        })?;
        done.push((place, object));
    }
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, object)| object).collect())
}

fn kind_of(object: &Value) -> GroupVersionKind {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    GroupVersionKind::parse(text("apiVersion"), text("kind")).unwrap_or_default()
}

/// The objects of a good answer.
fn converted(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let expected = GroupVersionKind::new("apiextensions.k8s.io", version.to_owned(), "ConversionReview");
    let got = kind_of(&answer);
    if version == "v1" && got != expected {
        return Err(format!("expected webhook response of {expected}, got {got}"));
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let answered = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let result = &response["result"];
    let status = result["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match result["message"].as_str().unwrap_or_default() {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// The converted object with the original's metadata; only labels and annotations may be the webhook's.
fn accept(original: &Value, mut object: Value, desired: &str) -> Result<Value, String> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let version = text(&object, "apiVersion");
    if version != desired {
        return Err(format!("invalid groupVersion (expected {desired}, received {version})"));
    }
    let (kind, received) = (text(original, "kind"), text(&object, "kind"));
    if kind != received {
        return Err(format!("invalid kind (expected {kind}, received {received})"));
    }
    type Read = fn(&Value) -> &str;
    let fields: [(&str, Read); 3] = [("name", meta::name), ("namespace", meta::namespace), ("UID", meta::uid)];
    for (what, read) in fields {
        let (before, after) = (read(original), read(&object));
        if before != after {
            return Err(format!("must have the same {what}: {before} != {after}"));
        }
    }
    let Some(metadata) = object.get("metadata") else {
        return Err("missing metadata in converted object".to_owned());
    };
    let Value::Object(theirs) = metadata.clone() else {
        return Err("invalid metadata in converted object".to_owned());
    };
    let mut kept = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match theirs.get(field) {
            None | Some(Value::Null) => {
                kept.shift_remove(field);
            }
            Some(Value::Object(map)) => set_map(&mut kept, field, map)?,
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    object["metadata"] = Value::Object(kept);
    Ok(object)
}

fn set_map(kept: &mut Map<String, Value>, field: &str, map: &Map<String, Value>) -> Result<(), String> {
    if let Some((key, _)) = map.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
    }
    kept.insert(field.to_owned(), Value::Object(map.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, labels: Value) -> Value {
        json!({"apiVersion": version, "kind": "Car", "metadata": {"name": "a", "uid": "1", "labels": labels}})
    }

    #[test]
    fn only_labels_and_annotations_of_metadata_are_the_webhooks() {
        let original = object("x.io/v1", json!({"old": "1"}));
        let mut object = object("x.io/v2", json!({"new": "2"}));
        object["metadata"]["finalizers"] = json!(["theirs"]);
        let got = accept(&original, object, "x.io/v2").unwrap();
        assert_eq!(got["metadata"], json!({"name": "a", "uid": "1", "labels": {"new": "2"}}));
    }

    #[test]
    fn what_a_webhook_may_not_answer_is_refused() {
        let original = object("x.io/v1", json!({}));
        let mut renamed = object("x.io/v2", json!({}));
        renamed["metadata"]["name"] = json!("b");
        assert_eq!(accept(&original, renamed, "x.io/v2").unwrap_err(), "must have the same name: a != b");
        let same = object("x.io/v1", json!({}));
        let why = "invalid groupVersion (expected x.io/v2, received x.io/v1)";
        assert_eq!(accept(&original, same, "x.io/v2").unwrap_err(), why);

        let answer = |result: Value| {
            json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
                "response": {"uid": "u", "result": result, "convertedObjects": [1]}})
        };
        assert_eq!(converted(answer(json!({"status": "Success"})), "v1", "u").unwrap().len(), 1);
        let table = [
            (json!({"status": "Failure", "message": "no"}), "u", "no"),
            (json!({"status": "Failed"}), "u", "response.result.status was 'Failed', not 'Success'"),
            (json!({"status": "Success"}), "w", "expected response.uid=\"w\", got \"u\""),
        ];
        for (result, uid, why) in table {
            assert_eq!(converted(answer(result), "v1", uid).unwrap_err(), why);
        }
    }
}
