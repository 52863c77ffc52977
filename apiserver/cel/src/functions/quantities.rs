//! Quantities such as `1.5Gi` (apiserver/pkg/cel/library/quantity.go).

use std::any::Any;
use std::cmp::Ordering;
use std::sync::Arc;

use skeg_machinery::quantity::{Format, Quantity};

use super::Args;
use super::net::extension;
use crate::eval::{Outcome, failed};
use crate::value::{Extension, Value};

struct Amount(Quantity);

impl PartialEq for Amount {
    fn eq(&self, other: &Amount) -> bool {
        self.0.cmp(&other.0) == Ordering::Equal
    }
}

extension!(Amount, "kubernetes.Quantity", |amount| Some(amount.0.to_string()));

fn value<'a>(quantity: Quantity) -> Value<'a> {
    Value::Extension(Arc::new(Amount(quantity)))
}

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if !member {
        let [Value::String(text)] = args else { return None };
        return match name {
            "quantity" => Some(match Quantity::parse(text) {
                Ok(quantity) => Ok(value(quantity)),
                Err(error) => failed(error.to_string()),
            }),
            "isQuantity" => Some(Ok(Value::Bool(Quantity::parse(text).is_ok()))),
            _ => None,
        };
    }
    let (receiver, rest) = args.split_first()?;
    let Amount(quantity) = receiver.extension()?;
    let other = || match rest {
        [Value::Int(int)] => Some(Quantity::from_i64(*int, Format::DecimalSI)),
        [other] => other.extension::<Amount>().map(|other| other.0.clone()),
        _ => None,
    };
    let whole = || {
        let int = Quantity::from_i64(quantity.value(), quantity.format());
        (int.cmp(quantity) == Ordering::Equal).then(|| quantity.value())
    };
    Some(Ok(match name {
        "sign" => Value::Int(quantity.sign().into()),
        "isInteger" => Value::Bool(whole().is_some()),
        "asInteger" => match whole() {
            Some(int) => Value::Int(int),
            None => return Some(failed("cannot convert value to integer")),
        },
        "asApproximateFloat" => Value::Double(quantity.as_f64()),
        "add" | "sub" => {
            let mut sum = quantity.clone();
            if name == "add" {
                sum.add(&other()?)
            } else {
                sum.sub(&other()?)
            }
            value(sum)
        }
        "isLessThan" => Value::Bool(quantity.cmp(&other()?) == Ordering::Less),
        "isGreaterThan" => Value::Bool(quantity.cmp(&other()?) == Ordering::Greater),
        "compareTo" => Value::Int(quantity.cmp(&other()?) as i64),
        _ => return None,
    }))
}
