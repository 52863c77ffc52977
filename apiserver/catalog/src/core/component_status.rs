//! Component statuses: read-only, computed by the server; deprecated.

use serde_json::Value;

use crate::builder::Def;
use crate::columns::{NAME, Table, name, text};
use crate::json::Read;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "componentstatuses", "ComponentStatus")
        .cluster()
        .short(&["cs"])
        .verbs(&[Verb::Get, Verb::List])
        .not_stored()
        .deprecated("v1 ComponentStatus is deprecated in v1.19+")
        .columns(Table {
            columns: const { &[NAME, text("Status"), text("Message"), text("Error")] },
            cells: |object, _| cells(object),
        })
        .rules(Rules::PLAIN)
        .build()
}

fn cells(object: &Value) -> Vec<Value> {
    let healthy = object.list("conditions").iter().find(|condition| condition.text("type") == "Healthy");
    let (status, message, error) = match healthy {
        Some(condition) if condition.text("status") == "True" => {
            ("Healthy", condition.text("message"), condition.text("error"))
        }
        Some(condition) => ("Unhealthy", condition.text("message"), condition.text("error")),
        None => ("Unknown", "", ""),
    };
    vec![name(object), status.into(), message.into(), error.into()]
}
