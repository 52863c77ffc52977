//! How much of a shared device's capacity a claim may ask for.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::quantity::Quantity;

use crate::check::{Report, quantity};
use crate::json::Read;

/// The policy of a capacity: some values, or a range of them; of either the default is one.
pub(super) fn check_policy(e: &mut ErrorList, path: &Path, capacity: &Value) {
    let policy = capacity.at("requestPolicy");
    let (values, range) = (policy.list("validValues"), policy.has("validRange"));
    if !values.is_empty() && range {
        let detail =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        e.forbidden(path, detail);
        return;
    }
    let name = match (values.is_empty(), range) {
        (false, _) => "validValues",
        (true, true) => "validRange",
        (true, false) => return,
    };
    let (Some(default), Some(most)) = (quantity(policy.at("default")), quantity(capacity.at("value"))) else {
        e.required(&path.child("default"), &format!("required when {name} is defined"));
        return;
    };
    match name {
        "validValues" => check_values(e, &path.child(name), values, &default, &most),
        _ => check_range(e, &path.child(name), policy.at(name), &default, &most),
    }
}

fn check_values(e: &mut ErrorList, path: &Path, values: &[Value], default: &Quantity, most: &Quantity) {
    let values: Vec<Quantity> = values.iter().filter_map(quantity).collect();
    for (index, pair) in values.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        e.invalid(&path.index(index + 1), pair[1].to_string(), "values must be sorted in ascending order");
    }
    if values.len() > 10 {
        e.add(Error::too_many(path, values.len() as i64, 10));
    } else {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| *value > most) {
            let detail = format!("option is larger than capacity value: {most}");
            e.invalid(&path.index(index), value.to_string(), detail);
        }
        for (index, value) in values.iter().enumerate() {
            if values[..index].iter().any(|other| other.value() == value.value()) {
                e.duplicate(&path.index(index), value.value().to_string());
            }
        }
    }
    if values.len() > 10 || !values.contains(default) {
        e.invalid(path, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

fn check_range(e: &mut ErrorList, path: &Path, range: &Value, default: &Quantity, most: &Quantity) {
    let Some(min) = quantity(range.at("min")) else {
        e.required(&path.child("min"), "required when validRange is defined");
        return;
    };
    let max = quantity(range.at("max"));
    if min > *most {
        e.invalid(&path.child("min"), min.to_string(), format!("min is larger than capacity value: {most}"));
    }
    if *default < min {
        e.invalid(&path.child("min"), default.to_string(), format!("default is less than min: {min}"));
    }
    if let Some(max) = &max {
        let at = path.child("max");
        if min > *max {
            e.invalid(&at, min.to_string(), format!("min is larger than max: {max}"));
        }
        if max > most {
            e.invalid(&at, max.to_string(), format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            e.invalid(&at, default.to_string(), format!("default is more than max: {max}"));
        }
    }
    let Some(step) = quantity(range.at("step")) else { return };
    let at = path.child("step");
    let mut first = min.clone();
    first.add(&step);
    if first > *most {
        let detail = format!("one step {first} is larger than capacity value: {most}");
        e.invalid(&at, step.to_string(), detail);
    }
    // A step of nothing leads nowhere.
    for value in [Some(default), max.as_ref()].into_iter().flatten() {
        let on_a_step = (value.value() - min.value()).checked_rem(step.value()) == Some(0);
        if !on_a_step {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            e.invalid(&at, value.to_string(), detail);
        }
    }
}
