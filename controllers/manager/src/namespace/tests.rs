use super::plan::Content;
use serde_json::json;
use skeg_controller_runtime::objects::Condition;
use skeg_controller_runtime::{Meta, Object, Timestamp, objects::Pod};

fn meta(value: serde_json::Value) -> Meta {
    serde_json::from_value(value).unwrap()
}

#[test]
fn an_empty_namespace_is_clear_and_says_so_once() {
    let content = Content::default();
    assert!(content.is_clear());
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let conditions = content.status(now, &[]).unwrap();
    let current: Vec<Condition> = serde_json::from_value(conditions).unwrap();
    assert_eq!(current.len(), 5);
    assert_eq!(content.status(now, &current), None);
}

#[test]
fn what_remains_is_named_with_its_finalizers() {
    let mut content = Content::default();
    content
        .add(&Pod::RESOURCE, &[meta(json!({"finalizers": ["a/b"]})), meta(json!({"deletionGracePeriodSeconds": 30}))]);
    assert!(!content.is_clear());
    assert_eq!(content.estimate, 30);
    let conditions = content.status("2026-01-01T00:00:00Z".parse().unwrap(), &[]).unwrap();
    assert_eq!(conditions[3]["message"], "Some resources are remaining: pods. has 2 resource instances");
    assert_eq!(
        conditions[4]["message"],
        "Some content in the namespace has finalizers remaining: a/b in 1 resource instances"
    );
}
