//! Declares a resource type in a few lines: `Def::new(group, version, plural, kind)…build()`. What is not said is
//! what most types have.

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::GroupVersionKind;
use skeg_machinery::schema::{Schema, TypeRef};

use crate::columns::{self, Printed, Table};
use crate::rules::{Part, Rules};
use crate::spec::{
    Backing, Conversion, FieldValue, ResourceSpec, Scope, SelectableField, Subresource, SubresourceSpec, Verb,
    VersionSpec,
};

pub const ALL_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
pub const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// A resource type being declared.
pub struct Def {
    group: &'static str,
    versions: Vec<(&'static str, Option<Conversion>)>,
    storage: &'static str,
    resource: &'static str,
    kind: &'static str,
    scope: Scope,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [Verb],
    subresources: Vec<SubresourceSpec>,
    fields: Vec<SelectableField>,
    columns: Table,
    rules: Rules,
    backing: Backing,
    deprecated: Option<&'static str>,
    converted_annotations: &'static [(&'static str, &'static str)],
    zeros: &'static [&'static str],
    rows_by: &'static str,
    unknown_field: fn(&str) -> String,
}

impl Def {
    pub fn new(group: &'static str, version: &'static str, resource: &'static str, kind: &'static str) -> Self {
        Self {
            group,
            versions: vec![(version, None)],
            storage: version,
            resource,
            kind,
            scope: Scope::Namespaced,
            short_names: &[],
            categories: &[],
            verbs: ALL_VERBS,
            subresources: Vec::new(),
            fields: Vec::new(),
            columns: columns::DEFAULT,
            rules: Rules::BASE,
            backing: Backing::Stored,
            deprecated: None,
            converted_annotations: &[],
            zeros: &[],
            rows_by: "",
            unknown_field,
        }
    }

    /// See [`ResourceSpec::converted_annotations`].
    pub fn converted_annotations(mut self, annotations: &'static [(&'static str, &'static str)]) -> Self {
        self.converted_annotations = annotations;
        self
    }

    /// See [`ResourceSpec::unknown_field`].
    pub fn unknown_field(mut self, message: fn(&str) -> String) -> Self {
        self.unknown_field = message;
        self
    }

    /// See [`ResourceSpec::zeros`].
    pub fn zeros(mut self, paths: &'static [&'static str]) -> Self {
        self.zeros = paths;
        self
    }

    /// See [`ResourceSpec::rows_by`].
    pub fn rows_by(mut self, path: &'static str) -> Self {
        self.rows_by = path;
        self
    }

    /// The server has a handler of its own for the type.
    pub fn not_stored(mut self) -> Self {
        self.backing = Backing::Server;
        self
    }

    /// Objects are stored as those of another type; `conversion` goes there and back.
    pub fn stored_as(mut self, group: &'static str, version: &'static str, conversion: Conversion) -> Self {
        let schema = lookup(group, version, self.kind);
        self.backing = Backing::StoredAs { group: group.into(), version: version.into(), schema };
        if let Some(own) = self.versions.first_mut() {
            own.1 = Some(conversion);
        }
        self
    }

    /// A warning for every request.
    pub fn deprecated(mut self, warning: &'static str) -> Self {
        self.deprecated = Some(warning);
        self
    }

    pub fn cluster(mut self) -> Self {
        self.scope = Scope::Cluster;
        self
    }

    pub fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    pub fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    pub fn verbs(mut self, verbs: &'static [Verb]) -> Self {
        self.verbs = verbs;
        self
    }

    /// A further served version, less preferred; it has a conversion to and from the storage version's shape.
    pub fn version(mut self, version: &'static str, conversion: Conversion) -> Self {
        self.versions.push((version, Some(conversion)));
        self
    }

    pub fn columns(mut self, columns: Table) -> Self {
        self.columns = columns;
        self
    }

    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Fields for `fieldSelector`, each (label, default where it is absent).
    pub fn fields(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        self.fields.extend(fields.iter().map(|&(label, absent)| SelectableField {
            label: label.into(),
            value: FieldValue::Path(label.into(), absent.into()),
        }));
        self
    }

    pub fn computed_field(mut self, label: &'static str, value: fn(&Value) -> String) -> Self {
        self.fields.push(SelectableField { label: label.into(), value: FieldValue::Computed(Arc::new(value)) });
        self
    }

    pub fn status(self, part: Part) -> Self {
        let mut def = self.unprinted_status(part);
        def.subresources.last_mut().expect("it was just added").printed = true;
        def
    }

    /// A status that is no Table (upstream: its storage has no ConvertToTable).
    pub fn unprinted_status(self, part: Part) -> Self {
        self.part("status", READ_WRITE, part)
    }

    /// A subresource that reads and writes the parent.
    pub fn part(mut self, name: &'static str, verbs: &'static [Verb], part: Part) -> Self {
        self.subresources.push(SubresourceSpec {
            name: name.into(),
            verbs: verbs.to_vec(),
            body: None,
            printed: false,
            behaviour: Subresource::Update(part.into()),
        });
        self
    }

    /// autoscaling/v1 Scale over `spec.replicas` and `status.replicas`; `selector` is a path to a LabelSelector or a
    /// plain map of labels.
    pub fn scale(mut self, selector: &'static str) -> Self {
        self.subresources.push(SubresourceSpec {
            name: "scale".into(),
            verbs: READ_WRITE.to_vec(),
            body: Some(("autoscaling".into(), "v1".into(), "Scale".into())),
            printed: true,
            behaviour: Subresource::Scale {
                spec_replicas: "spec.replicas".into(),
                status_replicas: "status.replicas".into(),
                selector: Some(selector.into()),
            },
        });
        self
    }

    /// A subresource that the server handles itself. `body` is (group, version, kind), `None`: the parent's kind.
    pub fn special(
        mut self,
        name: &'static str,
        verbs: &'static [Verb],
        body: Option<(&'static str, &'static str, &'static str)>,
    ) -> Self {
        self.subresources.push(SubresourceSpec {
            name: name.into(),
            verbs: verbs.to_vec(),
            body: body.map(|(group, version, kind)| (group.into(), version.into(), kind.into())),
            printed: false,
            behaviour: Subresource::Special,
        });
        self
    }

    pub fn build(self) -> ResourceSpec {
        let deprecated = self.deprecated;
        let versions = self
            .versions
            .into_iter()
            .map(|(version, conversion)| VersionSpec {
                version: version.into(),
                schema: lookup(self.group, version, self.kind),
                conversion,
                deprecation_warning: deprecated.map(Into::into),
                openapi: None,
            })
            .collect();
        let mut subresources = self.subresources;
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        ResourceSpec {
            group: self.group.into(),
            resource: self.resource.into(),
            singular: self.kind.to_lowercase().into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind).into(),
            short_names: self.short_names.iter().map(|&name| name.into()).collect(),
            categories: self.categories.iter().map(|&name| name.into()).collect(),
            scope: self.scope,
            versions,
            storage_version: self.storage.into(),
            verbs: self.verbs.to_vec(),
            subresources,
            selectable_fields: self.fields,
            columns: Arc::new(Printed { table: self.columns, group: self.group, kind: self.kind }),
            strategy: Arc::new(self.rules),
            backing: self.backing,
            converted_annotations: self.converted_annotations,
            zeros: self.zeros,
            rows_by: self.rows_by,
            unknown_field: self.unknown_field,
        }
    }
}

/// What most types say of a field that cannot be selected by.
pub fn unknown_field(label: &str) -> String {
    format!("field label not supported: {label}")
}

fn lookup(group: &'static str, version: &'static str, kind: &'static str) -> TypeRef {
    Schema::kubernetes()
        .lookup(&GroupVersionKind::new(group, version, kind))
        .unwrap_or_else(|| unreachable!("{group}/{version} {kind} is in the schema table"))
}
