//! What people read of types and fields, with what only OpenAPI tells of them: schema/descriptions.txt, which hack/schema-gen
//! writes from the definitions of upstream's own server. Kept compressed, and read for as long as a document is being made.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

/// The texts of all models.
pub(super) struct Texts {
    text: String,
    /// Where a model's lines are.
    models: HashMap<String, (usize, usize)>,
}

/// The texts of one model.
#[derive(Default)]
pub(super) struct Model {
    pub description: Option<Value>,
    /// `x-kubernetes-unions`
    pub unions: Option<Value>,
    /// By JSON name.
    pub fields: Map<String, Value>,
    /// List types of members that are no lists in JSON.
    pub list_types: Map<String, Value>,
}

impl Texts {
    pub fn read() -> Self {
        let mut text = String::new();
        GzDecoder::new(COMPRESSED).read_to_string(&mut text).expect("what build.rs has compressed");
        let mut models = HashMap::new();
        let (mut at, mut open) = (0, None);
        for line in text.split_inclusive('\n') {
            if let Some(name) = line.strip_prefix("T\t")
                && let Some((name, from)) = open.replace((name.trim_end().to_owned(), at + line.len()))
            {
                models.insert(name, (from, at));
            }
            at += line.len();
        }
        models.extend(open.map(|(name, from)| (name, (from, at))));
        Self { text, models }
    }

    pub fn model(&self, name: &str) -> Model {
        let mut model = Model::default();
        let Some((from, to)) = self.models.get(name) else { return model };
        let read = |text: &str| serde_json::from_str::<Value>(text).expect("hack/schema-gen writes JSON");
        for line in self.text[*from..*to].lines() {
            match line.splitn(3, '\t').collect::<Vec<_>>()[..] {
                ["D", text] => model.description = Some(read(text)),
                ["U", unions] => model.unions = Some(read(unions)),
                ["F", name, text] => {
                    model.fields.insert(name.to_owned(), read(text));
                }
                ["L", name, list_type] => {
                    model.list_types.insert(name.to_owned(), list_type.into());
                }
                _ => {}
            }
        }
        model
    }
}
