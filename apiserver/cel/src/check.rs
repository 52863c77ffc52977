//! Type checking: which type an expression is of, and what cel-go would say where it cannot be of any.

use std::collections::{BTreeSet, HashMap};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, StructExpr, operators,
};

use crate::eval::type_named;
use crate::program::Env;
use crate::signatures::{Overload, is_namespace, overloads};
use crate::types::{Bindings, Type};
use crate::value::{parse_duration, parse_timestamp};

/// A macro that the parser leaves as a call: its arguments name variables and are not evaluated first.
pub enum Macro<'a> {
    OptMap {
        variable: &'a str,
        body: &'a IdedExpr,
        flat: bool,
    },
    /// `cel.bind(variable, init, body)`.
    Bind {
        variable: &'a IdedExpr,
        init: &'a IdedExpr,
        body: &'a IdedExpr,
    },
    SortBy {
        variable: &'a str,
        body: &'a IdedExpr,
    },
    /// Over index and element, or key and value.
    Pairs {
        name: &'a str,
        first: &'a str,
        second: &'a str,
        filter: Option<&'a IdedExpr>,
        body: &'a IdedExpr,
    },
}

pub fn identifier(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Ident(name) => Some(name),
        _ => None,
    }
}

pub fn macro_of(call: &CallExpr) -> Option<Macro<'_>> {
    let target = call.target.as_ref()?;
    let name = call.func_name.as_str();
    if let ("bind", Some("cel"), [variable, init, body]) = (name, identifier(target), call.args.as_slice()) {
        return Some(Macro::Bind { variable, init, body });
    }
    match (name, call.args.as_slice()) {
        ("optMap" | "optFlatMap", [variable, body]) => {
            Some(Macro::OptMap { variable: identifier(variable)?, body, flat: name == "optFlatMap" })
        }
        ("sortBy", [variable, body]) => Some(Macro::SortBy { variable: identifier(variable)?, body }),
        (
            "all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap" | "transformMapEntry",
            [first, second, body],
        ) => Some(Macro::Pairs { name, first: identifier(first)?, second: identifier(second)?, filter: None, body }),
        ("transformList" | "transformMap" | "transformMapEntry", [first, second, filter, body]) => {
            let (first, second) = (identifier(first)?, identifier(second)?);
            Some(Macro::Pairs { name, first, second, filter: Some(filter), body })
        }
        _ => None,
    }
}

/// `ERROR: <input>:1:5: why`, the line, and a mark below it.
pub fn show(expression: &str, line: usize, column: usize, why: &str) -> String {
    let text = expression.split('\n').nth(line - 1).unwrap_or_default();
    let dots = ".".repeat(column - 1);
    format!("ERROR: <input>:{line}:{column}: {why}\n | {text}\n | {dots}^")
}

/// What checking finds out about a tree, by the ids of its parts.
#[derive(Default)]
pub struct Checked {
    pub types: HashMap<u64, Type>,
    /// What each call may be a call of.
    pub calls: HashMap<u64, Resolved>,
    /// The variables of the environment that are named.
    pub variables: BTreeSet<String>,
}

/// A call by its function's whole name, and the signatures that fit its arguments.
pub struct Resolved {
    pub name: String,
    pub member: bool,
    pub overloads: Vec<&'static Overload>,
}

/// The type of a checked tree, and what else is known of it; `Err` is all that is wrong with it.
pub fn check(ast: &IdedExpr, env: &Env, expression: &str, source: &SourceInfo) -> Result<(Type, Checked), String> {
    let mut checker = Checker { env, scope: Vec::new(), problems: Vec::new(), found: Checked::default() };
    let result = checker.infer(ast);
    if checker.problems.is_empty() {
        let mut found = checker.found;
        found.types.values_mut().for_each(|ty| *ty = std::mem::replace(ty, Type::Dyn).settled());
        return Ok((result.settled(), found));
    }
    let place = |id: u64| {
        let start = source.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before: String = expression.chars().take(start).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    };
    let mut shown: Vec<((usize, usize), String)> =
        checker.problems.iter().map(|(id, why)| (place(*id), why.clone())).collect();
    shown.sort();
    shown.dedup();
    Err(shown.iter().map(|((line, column), why)| show(expression, *line, *column, why)).collect::<Vec<_>>().join("\n"))
}

struct Checker<'e> {
    env: &'e Env,
    scope: Vec<HashMap<&'e str, Type>>,
    problems: Vec<(u64, String)>,
    found: Checked,
}

impl<'e> Checker<'e> {
    fn problem(&mut self, id: u64, why: impl Into<String>) -> Type {
        self.problems.push((id, why.into()));
        Type::Error
    }

    fn undeclared(&mut self, id: u64, name: &str) -> Type {
        self.problem(id, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn declared(&self, name: &str) -> Option<&Type> {
        self.scope.iter().rev().find_map(|scope| scope.get(name)).or_else(|| self.env.variables.get(name))
    }

    /// Keeps in mind that a variable is named, where it is the environment's.
    fn refer(&mut self, name: &str) {
        if !self.scope.iter().any(|scope| scope.contains_key(name)) && self.env.variables.contains_key(name) {
            self.found.variables.insert(name.to_owned());
        }
    }

    fn infer(&mut self, expr: &'e IdedExpr) -> Type {
        let ty = self.type_of(expr);
        self.found.types.insert(expr.id, ty.clone());
        ty
    }

    fn type_of(&mut self, expr: &'e IdedExpr) -> Type {
        match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::String,
                LiteralValue::UInt(_) => Type::Uint,
            },
            Expr::Ident(name) => {
                let plain = name.trim_start_matches('.');
                self.refer(plain);
                match self.declared(plain) {
                    Some(ty) => ty.clone(),
                    None if type_named(name).is_some() => Type::TypeOf,
                    None => self.undeclared(expr.id, name),
                }
            }
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => {
                let mut item = None;
                for (index, element) in list.elements.iter().enumerate() {
                    let ty = self.infer(element);
                    let ty = self.entry_type(element.id, ty, list.optional_indices.contains(&index));
                    item = Some(self.same(item, ty, element.id));
                }
                Type::list(item.unwrap_or(Type::Unknown))
            }
            Expr::Map(map) => {
                let (mut key, mut value) = (None, None);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let ty = self.infer(&entry.key);
                    key = Some(self.same(key, ty, entry.key.id));
                    let ty = self.infer(&entry.value);
                    let ty = self.entry_type(entry.value.id, ty, entry.optional);
                    value = Some(self.same(value, ty, entry.value.id));
                }
                Type::map(key.unwrap_or(Type::Unknown), value.unwrap_or(Type::Unknown))
            }
            Expr::Struct(literal) => self.struct_literal(expr.id, literal),
            Expr::Comprehension(fold) => self.comprehension(fold),
            Expr::Unspecified => Type::Error,
        }
    }

    fn entry_type(&mut self, id: u64, ty: Type, optional: bool) -> Type {
        match (optional, ty) {
            (false, ty) => ty,
            (true, Type::Optional(inner)) => (*inner).clone(),
            (true, ty) if ty.is_dyn() => ty,
            (true, ty) => self.problem(id, format!("expected type 'optional_type(dyn)' but found '{ty}'")),
        }
    }

    /// Elements of literals are of one type (cel.HomogeneousAggregateLiterals).
    fn same(&mut self, before: Option<Type>, ty: Type, id: u64) -> Type {
        let Some(before) = before else { return ty };
        let fits = |a: &Type, b: &Type| a.takes(b, &mut Bindings::default());
        let one_is_any = (before == Type::Any) != (ty == Type::Any);
        if one_is_any || (!fits(&before, &ty) && !fits(&ty, &before)) {
            return self.problem(id, format!("expected type '{before}' but found '{ty}'"));
        }
        before.join(&ty)
    }

    fn select(&mut self, id: u64, select: &'e SelectExpr) -> Type {
        if let Some(name) = identifier(&select.operand)
            && self.declared(name).is_none()
        {
            let full = format!("{name}.{}", select.field);
            if type_named(&full).is_some() {
                return Type::TypeOf;
            }
        }
        if let Some(name) = identifier(&select.operand)
            && let Some(ty) = self.declared(&format!("{name}.{}", select.field))
        {
            return ty.clone();
        }
        let operand = self.infer(&select.operand);
        let ty = self.field(id, &operand, &select.field);
        match (select.test, ty) {
            (true, Type::Error) => Type::Error,
            (true, _) => Type::Bool,
            (false, ty) => ty,
        }
    }

    fn field(&mut self, id: u64, operand: &Type, name: &str) -> Type {
        match operand {
            Type::Error => Type::Error,
            Type::Dyn | Type::Any => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => match object.fields.get(name) {
                Some(ty) => ty.clone(),
                None => self.problem(id, format!("undefined field '{name}'")),
            },
            Type::Optional(inner) => match self.field(id, inner, name) {
                Type::Error => Type::Error,
                Type::Optional(inner) => Type::Optional(inner),
                ty => Type::Optional(ty.into()),
            },
            ty => self.problem(id, format!("type '{ty}' does not support field selection")),
        }
    }

    fn call(&mut self, id: u64, call: &'e CallExpr) -> Type {
        match macro_of(call) {
            Some(Macro::Bind { variable, init, body }) if self.env.bindings => return self.bind(variable, init, body),
            None | Some(Macro::Bind { .. }) => {}
            Some(kind) => return self.macro_call(id, call, kind),
        }
        if let (operators::OPT_SELECT, [operand, name]) = (call.func_name.as_str(), call.args.as_slice()) {
            let operand = self.infer(operand);
            let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return Type::Error };
            return match self.field(id, &operand, name.inner()) {
                Type::Error => Type::Error,
                Type::Optional(inner) => Type::Optional(inner),
                ty => Type::Optional(ty.into()),
            };
        }
        let mut name = call.func_name.clone();
        let mut args = Vec::new();
        let mut member = false;
        if let Some(target) = &call.target {
            match identifier(target) {
                Some(space) if is_namespace(space) && self.declared(space).is_none() => {
                    name = format!("{space}.{name}");
                }
                _ => {
                    member = true;
                    args.push(self.infer(target));
                }
            }
        }
        for arg in &call.args {
            args.push(self.infer(arg));
        }
        self.literals(&name, call);
        self.resolve(id, &name, member, &args)
    }

    fn resolve(&mut self, id: u64, name: &str, member: bool, args: &[Type]) -> Type {
        let Some(candidates) = overloads(name, member) else {
            if overloads(name, !member).is_some() {
                return self.mismatch(id, name, member, args);
            }
            return self.undeclared(id, name);
        };
        if args.contains(&Type::Error) {
            return Type::Error;
        }
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for overload in candidates.iter().filter(|overload| overload.args.len() == args.len()) {
            let mut bindings = Bindings::default();
            if overload.args.iter().zip(args).all(|(expected, given)| expected.takes(given, &mut bindings)) {
                fitting.push(overload);
                let ty = overload.result.bound(&bindings);
                result = Some(match result {
                    None => ty,
                    Some(other) if other == ty => ty,
                    Some(_) => Type::Dyn,
                });
            }
        }
        self.found.calls.insert(id, Resolved { name: name.to_owned(), member, overloads: fitting });
        match result {
            Some(ty) => ty,
            None => self.mismatch(id, name, member, args),
        }
    }

    fn mismatch(&mut self, id: u64, name: &str, member: bool, args: &[Type]) -> Type {
        let list = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
        let applied = match args.split_first() {
            Some((receiver, rest)) if member => format!("{receiver}.({})", list(rest)),
            _ => format!("({})", list(args)),
        };
        self.problem(id, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    /// Literals that a function cannot read are wrong before it is called.
    fn literals(&mut self, name: &str, call: &CallExpr) {
        let Some(last) = call.args.last() else { return };
        let Expr::Literal(LiteralValue::String(text)) = &last.expr else { return };
        let text = text.inner();
        let wrong = match name {
            "matches" => regex::Regex::new(text).is_err(),
            "duration" => parse_duration(text).is_none(),
            "timestamp" => parse_timestamp(text).is_none(),
            _ => false,
        };
        if wrong {
            self.problem(last.id, format!("invalid {name} argument"));
        }
    }

    fn struct_literal(&mut self, id: u64, literal: &'e StructExpr) -> Type {
        let name = literal.type_name.trim_start_matches('.');
        let root = name.split('.').next().unwrap_or(name);
        for entry in &literal.entries {
            let EntryExpr::StructField(entry) = &entry.expr else { continue };
            let ty = self.infer(&entry.value);
            self.entry_type(entry.value.id, ty, entry.optional);
            let patch = ["op", "path", "from", "value"];
            if name == "JSONPatch" && !patch.contains(&entry.field.as_str()) {
                self.problem(id, format!("undefined field '{}'", entry.field));
            }
        }
        if !self.env.structs.contains(&root) {
            return self.undeclared(id, name);
        }
        Type::named(name)
    }

    fn with(&mut self, variables: Vec<(&'e str, Type)>, body: impl FnOnce(&mut Self) -> Type) -> Type {
        self.scope.push(variables.into_iter().collect());
        let ty = body(self);
        self.scope.pop();
        ty
    }

    /// What one variable, and the first and second of two, range over.
    fn range(&mut self, id: u64, range: &Type) -> (Type, Type, Type) {
        match range {
            Type::List(item) => ((**item).clone(), Type::Int, (**item).clone()),
            Type::Map(key, value) => ((**key).clone(), (**key).clone(), (**value).clone()),
            Type::Object(_) => (Type::String, Type::String, Type::Dyn),
            ty if ty.is_dyn() && *ty != Type::Any => (Type::Dyn, Type::Dyn, Type::Dyn),
            ty => {
                let why = format!(
                    "expression of type '{ty}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                (self.problem(id, why), Type::Error, Type::Error)
            }
        }
    }

    fn comprehension(&mut self, fold: &'e ComprehensionExpr) -> Type {
        let range = self.infer(&fold.iter_range);
        let (one, first, second) = self.range(fold.iter_range.id, &range);
        let mut variables = match &fold.iter_var2 {
            Some(other) => vec![(fold.iter_var.as_str(), first), (other.as_str(), second)],
            None => vec![(fold.iter_var.as_str(), one)],
        };
        let accu = self.infer(&fold.accu_init);
        variables.push((&fold.accu_var, accu.clone()));
        let step = self.with(variables, |this| {
            this.infer(&fold.loop_cond);
            this.infer(&fold.loop_step)
        });
        if step == Type::Error {
            return Type::Error;
        }
        self.with(vec![(&fold.accu_var, accu.join(&step))], |this| this.infer(&fold.result))
    }

    fn bind(&mut self, variable: &'e IdedExpr, init: &'e IdedExpr, body: &'e IdedExpr) -> Type {
        let Some(name) = identifier(variable) else {
            return self.problem(variable.id, "cel.bind() variable names must be simple identifiers");
        };
        let ty = self.infer(init);
        self.with(vec![(name, ty)], |this| this.infer(body))
    }

    fn macro_call(&mut self, id: u64, call: &'e CallExpr, kind: Macro<'e>) -> Type {
        let operand = call.target.as_ref().map_or(Type::Error, |target| self.infer(target));
        match kind {
            Macro::Bind { variable, init, body } => self.bind(variable, init, body),
            Macro::OptMap { variable, body, flat } => {
                let inner = match &operand {
                    Type::Optional(inner) => (**inner).clone(),
                    ty if ty.is_dyn() => Type::Dyn,
                    _ => return self.mismatch(id, &call.func_name, true, &[operand]),
                };
                let ty = self.with(vec![(variable, inner)], |this| this.infer(body));
                match (flat, ty) {
                    (_, Type::Error) => Type::Error,
                    (true, ty) => ty,
                    (false, ty) => Type::Optional(ty.into()),
                }
            }
            Macro::SortBy { variable, body } => {
                let (item, ..) = self.range(id, &operand);
                self.with(vec![(variable, item)], |this| this.infer(body));
                operand
            }
            Macro::Pairs { name, first, second, filter, body } => {
                let (_, a, b) = self.range(id, &operand);
                let key = a.clone();
                let ty = self.with(vec![(first, a), (second, b)], |this| {
                    if let Some(filter) = filter {
                        this.expect_bool(filter);
                    }
                    match name.starts_with("transform") {
                        true => this.infer(body),
                        false => this.expect_bool(body),
                    }
                });
                match name {
                    _ if ty == Type::Error => Type::Error,
                    "transformList" => Type::list(ty),
                    "transformMap" => Type::map(key, ty),
                    _ => ty,
                }
            }
        }
    }

    fn expect_bool(&mut self, expr: &'e IdedExpr) -> Type {
        match self.infer(expr) {
            ty if ty == Type::Bool || ty.is_dyn() => ty,
            ty => self.problem(expr.id, format!("expected type 'bool' but found '{ty}'")),
        }
    }
}
