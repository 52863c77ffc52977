//! Evaluation: a walk over the syntax tree, each step paid for. Errors are values of `&&`, `||` and the folds made of
//! them, as the language has it: a side that decides is not spoilt by the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr, StructExpr,
    operators,
};

use crate::budget::Budget;
use crate::check::{Macro, identifier, macro_of};
use crate::functions;
use crate::program::Activation;
use crate::signatures::is_namespace;
use crate::value::{Key, List, Map, Text, Value};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("{0}")]
    Failed(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    OverBudget,
}

pub type Outcome<'a> = Result<Value<'a>, EvalError>;

pub fn failed<T>(why: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(why.into()))
}

pub fn no_overload<T>() -> Result<T, EvalError> {
    failed("no such overload")
}

pub struct Evaluator<'e, 'a> {
    pub activation: &'e Activation<'a>,
    pub budget: &'e mut Budget,
    /// Variables of comprehensions, innermost last.
    pub scope: Vec<(&'a str, Outcome<'a>)>,
}

/// The cost of making a list.
const LIST: u64 = 10;

/// The name that a fold accumulates in, `@result` of the parser's macros.
struct Fold<'a> {
    accu: &'a str,
}

impl<'a> Evaluator<'_, 'a> {
    pub fn eval(&mut self, expr: &'a IdedExpr) -> Outcome<'a> {
        self.budget.spend(match &expr.expr {
            Expr::Ident(_) => 1,
            Expr::Select(select) => u64::from(!select.test),
            Expr::List(_) => LIST,
            Expr::Map(_) => 30,
            Expr::Struct(_) => 40,
            _ => 0,
        })?;
        match &expr.expr {
            Expr::Literal(literal) => Ok(literal_value(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(literal) => self.struct_literal(literal),
            Expr::Comprehension(fold) => self.comprehension(fold),
            Expr::Unspecified => failed("an expression is missing"),
        }
    }

    fn local(&self, name: &str) -> Option<&Outcome<'a>> {
        self.scope.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    fn ident(&mut self, name: &'a str) -> Outcome<'a> {
        if let Some(value) = self.local(name) {
            return value.clone();
        }
        let name = name.trim_start_matches('.');
        if let Some(value) = self.activation.value(name) {
            return Ok(value);
        }
        match type_named(name) {
            Some(name) => Ok(Value::Type(name.into())),
            None => failed(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, select: &'a SelectExpr) -> Outcome<'a> {
        if let Expr::Ident(name) = &select.operand.expr
            && self.local(name).is_none()
        {
            if let Some(value) = self.activation.variable(name, &select.field, self.budget) {
                return if select.test { Ok(Value::Bool(true)) } else { value };
            }
            let full = format!("{name}.{}", select.field);
            if let Some(value) = self.activation.value(&full) {
                return Ok(value);
            }
            if self.activation.value(name).is_none()
                && let Some(ty) = type_named(&full)
            {
                return Ok(Value::Type(ty.into()));
            }
        }
        let operand = self.eval(&select.operand)?;
        if select.test {
            return has(&operand, &select.field).map(Value::Bool);
        }
        match &operand {
            Value::Optional(inner) => Ok(Value::Optional(match inner {
                Some(inner) => optional_field(inner, &select.field)?,
                None => None,
            })),
            _ => match field(&operand, &select.field)? {
                Some(value) => Ok(value),
                None => failed(format!("no such key: {}", select.field)),
            },
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Outcome<'a> {
        let args = &call.args;
        match (call.func_name.as_str(), args.as_slice()) {
            (operators::LOGICAL_AND, [left, right]) => return self.logic(left, right, false),
            (operators::LOGICAL_OR, [left, right]) => return self.logic(left, right, true),
            (operators::CONDITIONAL, [test, yes, no]) => {
                return match self.eval(test)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => no_overload(),
                };
            }
            (operators::NOT_STRICTLY_FALSE, [inner]) => {
                self.budget.spend(1)?;
                return match self.eval(inner) {
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    Err(EvalError::OverBudget) => Err(EvalError::OverBudget),
                    _ => Ok(Value::Bool(true)),
                };
            }
            (operators::OPT_SELECT, [operand, name]) => {
                let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return no_overload() };
                self.budget.spend(1)?;
                return match self.eval(operand)? {
                    Value::Optional(None) => Ok(Value::Optional(None)),
                    Value::Optional(Some(inner)) => optional_field(&inner, name.inner()).map(Value::Optional),
                    other => optional_field(&other, name.inner()).map(Value::Optional),
                };
            }
            _ => {}
        }
        if let Some(kind) = macro_of(call) {
            return self.macro_call(kind, call);
        }
        let mut name = call.func_name.as_str();
        let qualified;
        let mut values = Vec::with_capacity(args.len() + 1);
        let mut member = false;
        if let Some(target) = &call.target {
            match &target.expr {
                Expr::Ident(space) if is_namespace(space) && self.activation.value(space).is_none() => {
                    qualified = format!("{space}.{name}");
                    name = &qualified;
                }
                _ => {
                    member = true;
                    values.push(self.eval(target)?);
                }
            }
        }
        for arg in args {
            values.push(self.eval(arg)?);
        }
        functions::call(name, member, values, self.activation, self.budget)
    }

    /// `&&` and `||`: the side that is `decides` decides, whatever the other is.
    fn logic(&mut self, left: &'a IdedExpr, right: &'a IdedExpr, decides: bool) -> Outcome<'a> {
        let left = self.eval(left);
        match left {
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Err(EvalError::OverBudget) => return left,
            _ => {}
        }
        let right = self.eval(right);
        match (left, right) {
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(EvalError::OverBudget)) => Err(EvalError::OverBudget),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => no_overload(),
        }
    }

    fn list(&mut self, list: &'a ListExpr) -> Outcome<'a> {
        let mut items = Vec::with_capacity(list.elements.len());
        for (index, element) in list.elements.iter().enumerate() {
            let value = self.eval(element)?;
            if !list.optional_indices.contains(&index) {
                items.push(value);
                continue;
            }
            match value {
                Value::Optional(Some(value)) => items.push(Value::clone(&value)),
                Value::Optional(None) => {}
                _ => return no_overload(),
            }
        }
        Ok(Value::list(items))
    }

    /// The value of an entry; `None` for an absent optional one.
    fn entry(&mut self, value: &'a IdedExpr, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        let value = self.eval(value)?;
        match (optional, value) {
            (false, value) => Ok(Some(value)),
            (true, Value::Optional(value)) => Ok(value.map(|value| Value::clone(&value))),
            _ => no_overload(),
        }
    }

    fn map(&mut self, literal: &'a MapExpr) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for entry in &literal.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return no_overload() };
            let key = self.eval(&entry.key)?;
            let Some(key) = Key::of(&key) else { return failed("unsupported key type") };
            if let Some(value) = self.entry(&entry.value, entry.optional)?
                && map.insert(key.clone(), value).is_some()
            {
                return failed(format!("insert failed: key {key} already exists"));
            }
        }
        Ok(Value::Map(Map::Shared(Arc::new(map))))
    }

    fn struct_literal(&mut self, literal: &'a StructExpr) -> Outcome<'a> {
        let mut fields = BTreeMap::new();
        for entry in &literal.entries {
            let EntryExpr::StructField(entry) = &entry.expr else { return no_overload() };
            if let Some(value) = self.entry(&entry.value, entry.optional)? {
                fields.insert(entry.field.clone(), value);
            }
        }
        Ok(Value::Struct(literal.type_name.trim_start_matches('.').into(), Arc::new(fields)))
    }

    /// Runs `body` with variables of its own.
    fn with<T>(&mut self, variables: Vec<(&'a str, Outcome<'a>)>, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.len();
        self.scope.extend(variables);
        let result = body(self);
        self.scope.truncate(before);
        result
    }

    fn comprehension(&mut self, fold: &'a ComprehensionExpr) -> Outcome<'a> {
        let range = self.eval(&fold.iter_range)?;
        let pairs = pairs_of(&range)?;
        let mut accu = self.eval(&fold.accu_init);
        let plan = Fold { accu: &fold.accu_var };
        for (index, value) in pairs {
            let mut variables: Vec<(&'a str, Outcome<'a>)> = Vec::with_capacity(3);
            match &fold.iter_var2 {
                Some(second) => {
                    variables.push((&fold.iter_var, Ok(index)));
                    variables.push((second, Ok(value)));
                }
                // One variable is an element of a list, but a key of a map.
                None if matches!(range, Value::Map(_)) => variables.push((&fold.iter_var, Ok(index))),
                None => variables.push((&fold.iter_var, Ok(value))),
            }
            let before = self.scope.len();
            self.scope.push((&fold.accu_var, accu));
            self.scope.extend(variables);
            let goes_on = self.eval(&fold.loop_cond);
            let step = match goes_on {
                Ok(Value::Bool(true)) => Some(self.step(&fold.loop_step, &plan, before)),
                Ok(Value::Bool(false)) => None,
                Ok(_) => Some(no_overload()),
                Err(error) => Some(Err(error)),
            };
            let last = std::mem::replace(&mut self.scope[before].1, Ok(Value::Null));
            self.scope.truncate(before);
            match step {
                Some(Err(EvalError::OverBudget)) => return Err(EvalError::OverBudget),
                Some(next) => accu = next,
                None => {
                    accu = last;
                    break;
                }
            }
        }
        self.with(vec![(&fold.accu_var, accu)], |this| this.eval(&fold.result))
    }

    /// One step of a fold. Growing the accumulated list by one does not copy it.
    fn step(&mut self, step: &'a IdedExpr, fold: &Fold<'a>, slot: usize) -> Outcome<'a> {
        let Expr::Call(call) = &step.expr else {
            return match &step.expr {
                Expr::Ident(name) if name == fold.accu => {
                    self.budget.spend(1)?;
                    self.take(slot)
                }
                _ => self.eval(step),
            };
        };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::CONDITIONAL, [test, yes, no]) => match self.eval(test)? {
                Value::Bool(true) => self.step(yes, fold, slot),
                Value::Bool(false) => self.step(no, fold, slot),
                _ => no_overload(),
            },
            (operators::ADD, [IdedExpr { expr: Expr::Ident(name), .. }, IdedExpr { expr: Expr::List(one), .. }])
                if name == fold.accu && one.optional_indices.is_empty() =>
            {
                self.budget.spend(LIST + 2)?;
                let mut more = Vec::with_capacity(one.elements.len());
                for element in &one.elements {
                    more.push(self.eval(element)?);
                }
                match self.take(slot)? {
                    Value::List(List::Shared(mut items)) => {
                        Arc::make_mut(&mut items).extend(more);
                        Ok(Value::List(List::Shared(items)))
                    }
                    _ => no_overload(),
                }
            }
            _ => self.eval(step),
        }
    }

    fn take(&mut self, slot: usize) -> Outcome<'a> {
        std::mem::replace(&mut self.scope[slot].1, Ok(Value::Null))
    }

    fn macro_call(&mut self, kind: Macro<'a>, call: &'a CallExpr) -> Outcome<'a> {
        let Some(target) = &call.target else { return no_overload() };
        if let Macro::Bind { variable, init, body } = kind {
            self.budget.spend(LIST)?;
            // What is wrong with the value is wrong where it is used.
            let value = self.eval(init);
            return self.with(vec![(identifier(variable).unwrap_or_default(), value)], |this| this.eval(body));
        }
        let operand = self.eval(target)?;
        match kind {
            Macro::Bind { .. } => Ok(operand),
            Macro::OptMap { variable, body, flat } => {
                let Value::Optional(inner) = operand else { return no_overload() };
                self.budget.spend(LIST + 3)?;
                let Some(inner) = inner else { return Ok(Value::Optional(None)) };
                let value = self.with(vec![(variable, Ok(Value::clone(&inner)))], |this| this.eval(body))?;
                match (flat, value) {
                    (false, value) => Ok(Value::Optional(Some(Arc::new(value)))),
                    (true, Value::Optional(value)) => Ok(Value::Optional(value)),
                    (true, _) => no_overload(),
                }
            }
            Macro::SortBy { variable, body } => {
                let Value::List(list) = operand else { return no_overload() };
                let count = list.len() as u64;
                self.budget.spend(count.saturating_mul(count).saturating_mul(2).saturating_add(count * (LIST + 2)))?;
                let mut keyed = Vec::with_capacity(list.len());
                for item in list.iter() {
                    let key = self.with(vec![(variable, Ok(item.clone()))], |this| this.eval(body))?;
                    keyed.push((key, item));
                }
                functions::sort_by_key(keyed).map(Value::list)
            }
            Macro::Pairs { name, first, second, filter, body } => {
                self.pairs(name, &operand, [first, second], filter, body)
            }
        }
    }

    /// The comprehensions of two variables: index and element, or key and value.
    fn pairs(
        &mut self,
        name: &str,
        operand: &Value<'a>,
        variables: [&'a str; 2],
        filter: Option<&'a IdedExpr>,
        body: &'a IdedExpr,
    ) -> Outcome<'a> {
        let pairs = pairs_of(operand)?;
        // What a step costs beside its body: condition and accumulator.
        let step = if name.starts_with("transform") { LIST + 2 } else { 3 };
        let (mut items, mut entries) = (Vec::new(), BTreeMap::new());
        let mut spoilt: Option<EvalError> = None;
        let mut count = 0;
        for (index, value) in pairs {
            self.budget.spend(step)?;
            let key = Key::of(&index);
            let local = vec![(variables[0], Ok(index)), (variables[1], Ok(value))];
            let result = self.with(local, |this| match filter.map(|filter| this.eval(filter)).transpose()? {
                Some(Value::Bool(false)) => Ok(None),
                Some(Value::Bool(true)) | None => this.eval(body).map(Some),
                Some(_) => no_overload(),
            });
            match (name, result) {
                (_, Err(EvalError::OverBudget)) => return Err(EvalError::OverBudget),
                ("all" | "exists", Err(error)) => spoilt = spoilt.or(Some(error)),
                (_, Err(error)) => return Err(error),
                (_, Ok(None)) => {}
                ("all" | "exists", Ok(Some(Value::Bool(found)))) => {
                    if found == (name == "exists") {
                        return Ok(Value::Bool(found));
                    }
                }
                ("existsOne" | "exists_one", Ok(Some(Value::Bool(found)))) => count += u64::from(found),
                ("transformList", Ok(Some(item))) => items.push(item),
                ("transformMap", Ok(Some(item))) => {
                    let Some(key) = key else { return failed("unsupported key type") };
                    entries.insert(key, item);
                }
                ("transformMapEntry", Ok(Some(Value::Map(map)))) => {
                    for (key, value) in map.entries() {
                        if entries.insert(key.clone(), value).is_some() {
                            return failed(format!("insert failed: key {key} already exists"));
                        }
                    }
                }
                _ => return no_overload(),
            }
        }
        match (name, spoilt) {
            (_, Some(error)) => Err(error),
            ("all", None) => Ok(Value::Bool(true)),
            ("exists", None) => Ok(Value::Bool(false)),
            ("existsOne" | "exists_one", None) => Ok(Value::Bool(count == 1)),
            ("transformList", None) => Ok(Value::list(items)),
            _ => Ok(Value::Map(Map::Shared(Arc::new(entries)))),
        }
    }
}

fn literal_value(literal: &LiteralValue) -> Value<'_> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::String(Text::Borrowed(value.inner())),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

/// The name of a type that expressions may name.
pub fn type_named(name: &str) -> Option<&str> {
    let known = [
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
        "optional_type",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "net.URL",
        "net.IP",
        "net.CIDR",
        "kubernetes.Quantity",
        "kubernetes.Semver",
        "kubernetes.NamedFormat",
    ];
    known.contains(&name).then_some(name)
}

/// Index and element, or key and value, of one after the other.
type Pairs<'r, 'a> = Box<dyn Iterator<Item = (Value<'a>, Value<'a>)> + 'r>;

fn pairs_of<'r, 'a>(range: &'r Value<'a>) -> Result<Pairs<'r, 'a>, EvalError> {
    match range {
        Value::List(list) => {
            Ok(Box::new(list.iter().enumerate().map(|(index, value)| (Value::Int(index as i64), value))))
        }
        Value::Map(map) => Ok(Box::new(map.entries().map(|(key, value)| (key.value(), value)))),
        _ => no_overload(),
    }
}

fn field<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.field(name)),
        Value::Struct(_, fields) => Ok(fields.get(name).cloned()),
        Value::Null => Ok(None),
        _ => no_overload(),
    }
}

fn optional_field<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Arc<Value<'a>>>, EvalError> {
    Ok(field(operand, name)?.map(Arc::new))
}

fn has(operand: &Value<'_>, name: &str) -> Result<bool, EvalError> {
    match operand {
        Value::Optional(Some(inner)) => has(inner, name),
        Value::Optional(None) => Ok(false),
        other => field(other, name).map(|value| value.is_some()),
    }
}
