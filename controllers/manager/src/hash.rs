//! Short names for templates: the hash in `pod-template-hash` and in revision names.

use serde_json::Value;
use skeg_controller_runtime::objects::canonical;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A number as text without vowels or look-alikes.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// The name part for a template; `collisions` makes it another one when the name is taken.
pub fn template_hash(template: &Value, collisions: Option<i64>) -> String {
    let mut text = canonical(template).to_string();
    if let Some(collisions) = collisions {
        text.push_str(&collisions.to_string());
    }
    safe_encode(&fnv1a(text.bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_ignores_field_order_and_changes_with_content_and_collisions() {
        let a = template_hash(&json!({"spec": {"a": 1, "b": 2}}), None);
        assert_eq!(a, template_hash(&json!({"spec": {"b": 2, "a": 1}}), None));
        assert_ne!(a, template_hash(&json!({"spec": {"b": 2, "a": 2}}), None));
        assert_ne!(a, template_hash(&json!({"spec": {"b": 2, "a": 1}}), Some(1)));
        assert!(a.bytes().all(|b| ALPHABET.contains(&b)));
    }
}
