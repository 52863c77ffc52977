//! Which objects a list or watch is about: label and field selectors over the headers of cached objects.

use std::sync::Arc;

use skeg_catalog::spec::SelectableField;
use skeg_machinery::status::Status;
use skeg_machinery::{fields, labels};

use crate::cache::{Fields, Item};
use crate::query::ListOptions;
use crate::registry::Resource;

#[derive(Clone)]
pub struct Selection {
    fields: Arc<Fields>,
    labels: labels::Selector,
    /// Each term with the place of its field among the item's fields.
    terms: Vec<(Place, fields::Requirement)>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Name,
    Namespace,
    Field(usize),
}

impl Selection {
    /// `name` is the one of the path or of `metadata.name=` in the selector; "" for none.
    pub fn of(resource: &Resource, options: &ListOptions, name: &str) -> Result<Selection, Status> {
        let labels =
            labels::Selector::parse(&options.label_selector).map_err(|error| Status::bad_request(error.to_string()))?;
        let selector =
            fields::Selector::parse(&options.field_selector).map_err(|error| Status::bad_request(error.to_string()))?;
        let mut terms = Vec::with_capacity(selector.requirements.len() + 1);
        for requirement in &selector.requirements {
            terms.push((place(resource, &requirement.field)?, requirement.clone()));
        }
        if !name.is_empty() {
            match selector.requires_exact_match("metadata.name") {
                Some(selected) if selected == name => {}
                None if selector.is_empty() => {
                    terms.extend(
                        fields::Selector::equals("metadata.name", name)
                            .requirements
                            .into_iter()
                            .map(|requirement| (Place::Name, requirement)),
                    );
                }
                _ => return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name")),
            }
        }
        Ok(Selection { fields: resource.cache.fields.clone(), labels, terms })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.terms.is_empty()
    }

    pub fn matches(&self, item: &Item) -> bool {
        let term_holds = |(place, requirement): &(Place, fields::Requirement)| {
            let value = match place {
                Place::Name => item.name(),
                Place::Namespace => item.namespace(),
                Place::Field(i) => self.fields.value(item, *i),
            };
            (value == requirement.value) == (requirement.operator == fields::Operator::Equals)
        };
        self.terms.iter().all(term_holds) && (self.labels.is_empty() || self.labels.matches(|key| item.label(key)))
    }

    /// The value of the indexed field that everything selected has, for [`skeg_storage::cacher::WatchRequest::index`].
    pub fn index(&self) -> Option<String> {
        let place = self.fields.index()?;
        self.terms.iter().find_map(|(term, requirement)| {
            let exact =
                matches!(term, Place::Field(i) if *i == place) && requirement.operator == fields::Operator::Equals;
            (exact && !requirement.value.is_empty()).then(|| requirement.value.clone())
        })
    }

    /// The key of the one object that can match beneath `prefix`, when the selector names it.
    pub fn single(&self, prefix: &str) -> Option<String> {
        let name = self.terms.iter().find_map(|(place, requirement)| {
            (matches!(place, Place::Name) && requirement.operator == fields::Operator::Equals)
                .then_some(requirement.value.as_str())
        })?;
        // All namespaces: the prefix alone does not make a key.
        let one_namespace = prefix.trim_start_matches("/registry/").matches('/').count() > 1;
        (one_namespace && !name.is_empty()).then(|| format!("{prefix}{name}"))
    }
}

fn place(resource: &Resource, label: &str) -> Result<Place, Status> {
    let selectable: &[SelectableField] = &resource.spec.selectable_fields;
    // Types that say for themselves what they may be selected by leave out the namespace that they have not; the rule of
    // all others knows both (apimachinery: DefaultMetaV1FieldSelectorConversion).
    let own_rule = resource.custom || !selectable.is_empty();
    match label {
        "metadata.name" => Ok(Place::Name),
        "metadata.namespace" if resource.namespaced() || !own_rule => Ok(Place::Namespace),
        _ => match selectable.iter().position(|field| field.label == label) {
            Some(i) => Ok(Place::Field(i)),
            None if !own_rule => Err(Status::bad_request(format!(
                "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            ))),
            None => Err(Status::bad_request((resource.spec.unknown_field)(label))),
        },
    }
}
