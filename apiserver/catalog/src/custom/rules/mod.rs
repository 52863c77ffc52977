//! x-kubernetes-validations (apiextensions-apiserver/pkg/apiserver/schema/cel): the rules of one level of a schema,
//! compiled, with what is wrong with them. Whether a definition may have them is `apiextensions`'; running them on an
//! object is [`Validator`]'s.

mod field_path;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;
use skeg_cel::schema::Declared;
use skeg_cel::{Env, Program, Type, compile_over};

use crate::json::Read;
pub use field_path::{field_path, named_field};
pub use run::{Run, Validator, has_rules};

/// The member of a schema that holds its rules.
pub const MEMBER: &str = "x-kubernetes-validations";
const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";

/// An expression that compiled, and the most that it may cost.
pub struct Compiled {
    pub program: Program,
    text: String,
    pub cost: u64,
}

/// One rule. A message expression is only looked at where its rule compiled.
pub struct Rule {
    /// `Err` is the detail of a field error; absent where the rule is empty.
    pub rule: Option<Result<Compiled, String>>,
    pub message_expression: Option<Result<Compiled, String>>,
    pub uses_old: bool,
    optional_old: bool,
    /// The text of errors about it: its message, or itself.
    shown: String,
    message: Option<String>,
    reason: Option<String>,
    /// The field that it is about, below its own.
    at: Option<String>,
}

/// The rules of a schema whose values are `declared`.
pub fn compile(schema: &Value, declared: &Declared) -> Vec<Rule> {
    let rules = schema.list(MEMBER);
    if rules.is_empty() {
        return Vec::new();
    }
    let ty = declared.ty.clone();
    let env = Env::default().with(SELF, ty.clone());
    let plain = env.clone().with(OLD_SELF, ty.clone());
    let optional = env.with(OLD_SELF, Type::Optional(Arc::new(ty)));
    rules.iter().map(|rule| one(rule, schema, declared, [&plain, &optional])).collect()
}

fn one(rule: &Value, schema: &Value, declared: &Declared, [plain, optional]: [&Env; 2]) -> Rule {
    let optional_old = rule.flag("optionalOldSelf");
    let env = if optional_old { optional } else { plain };
    let (text, message) = (rule.text("rule"), rule.text("message"));
    let compiled = (!text.trim().is_empty()).then(|| {
        let (program, cost) =
            compile_over(text, env, declared).map_err(|error| format!("compilation failed: {error}"))?;
        match program.result() {
            Type::Bool => Ok(Compiled { program, text: text.to_owned(), cost }),
            _ => Err("cel expression must evaluate to a bool".to_owned()),
        }
    });
    let good = matches!(compiled, Some(Ok(_)));
    let expression = rule.text("messageExpression");
    let message_expression = (good && !expression.is_empty()).then(|| {
        let (program, cost) = compile_over(expression, env, declared)
            .map_err(|error| format!("messageExpression compilation failed: {error}"))?;
        match program.result() {
            Type::String => Ok(Compiled { program, text: expression.to_owned(), cost }),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    let uses_old = matches!(&compiled, Some(Ok(compiled)) if compiled.program.uses(OLD_SELF));
    Rule {
        rule: compiled,
        message_expression,
        uses_old,
        optional_old,
        shown: if message.is_empty() { text.trim().to_owned() } else { message.trim().to_owned() },
        message: (!message.is_empty()).then(|| message.trim().to_owned()),
        reason: rule.opt_text("reason").map(str::to_owned),
        at: Some(rule.text("fieldPath"))
            .filter(|path| !path.is_empty())
            .and_then(|path| field_path(path, schema).ok())
            .map(|path| path.as_str().to_owned()),
    }
}
