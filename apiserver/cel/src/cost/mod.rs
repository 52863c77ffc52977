//! What an expression may cost before it is run: cel-go's estimate (checker/cost.go) with the estimates of Kubernetes'
//! libraries (apiserver/pkg/cel/library/cost.go). Whether a definition is accepted depends on these numbers, so they are
//! upstream's to the unit, and so are its oddities. The costs of calls are in `calls`; what running costs is in
//! [`crate::budget`].

mod calls;
mod range;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use crate::check::{Checked, Macro, identifier, macro_of};
use crate::schema::Declared;
use crate::types::Type;
use range::Range;

const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;
/// For each character that is read.
const PER_CHARACTER: f64 = 0.1;
/// For each character of a regular expression.
const PER_PATTERN_CHARACTER: f64 = 0.25;

/// The least and the most that a checked expression over values of `root` may cost.
pub fn estimate(ast: &IdedExpr, checked: &Checked, root: &Declared) -> Range {
    let mut estimate = Estimate {
        checked,
        root,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    estimate.cost(ast)
}

/// A path from a variable: field names, `@items`, `@keys`, `@values`.
type Path = Vec<String>;

/// How large the keys and values of a container are.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(this: Option<Entries>, other: Option<Entries>) -> Option<Entries> {
        let (this, other) = (this?, other?);
        Some(Entries { list: this.list, key: this.key.union(other.key), value: this.value.union(other.value) })
    }
}

struct Local<'e> {
    name: &'e str,
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Estimate<'e> {
    checked: &'e Checked,
    root: &'e Declared,
    paths: HashMap<u64, Path>,
    locals: Vec<Local<'e>>,
    sizes: HashMap<u64, Range>,
    entries: HashMap<u64, Entries>,
}

fn extended(mut path: Path, name: &str) -> Path {
    path.push(name.to_owned());
    path
}

impl<'e> Estimate<'e> {
    fn cost(&mut self, expr: &'e IdedExpr) -> Range {
        match &expr.expr {
            Expr::Literal(_) | Expr::Unspecified => Range::default(),
            Expr::Ident(name) => {
                let name = name.trim_start_matches('.');
                let path = self.local(name).map_or_else(|| vec![name.to_owned()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                Range::fixed(1)
            }
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                if select.test {
                    return operand;
                }
                let path = extended(self.path(&select.operand), &select.field);
                self.paths.insert(expr.id, path);
                match self.ty(&select.operand) {
                    Some(Type::Map(..) | Type::Object(_)) => operand.plus(Range::fixed(1)),
                    _ => operand,
                }
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let mut sum = Range::fixed(LIST);
                let mut items = if list.elements.is_empty() { Range::default() } else { Range::NOTHING };
                for element in &list.elements {
                    sum = sum.plus(self.cost(element));
                    items = items.union(self.size_or_unknown(element));
                }
                self.entries.insert(expr.id, Entries { list: true, key: Range::fixed(1), value: items });
                sum
            }
            Expr::Map(map) => {
                let mut sum = Range::fixed(MAP);
                let empty = if map.entries.is_empty() { Range::default() } else { Range::NOTHING };
                let (mut keys, mut values) = (empty, empty);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    keys = keys.union(self.size_or_unknown(&entry.key));
                    values = values.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, Entries { list: false, key: keys, value: values });
                sum
            }
            Expr::Struct(literal) => {
                literal.entries.iter().fold(Range::fixed(STRUCT), |sum, entry| match &entry.expr {
                    EntryExpr::StructField(field) => sum.plus(self.cost(&field.value)),
                    EntryExpr::MapEntry(_) => sum,
                })
            }
            Expr::Comprehension(fold) => self.comprehension(expr.id, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local<'e>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn ty(&self, expr: &IdedExpr) -> Option<&'e Type> {
        self.checked.types.get(&expr.id)
    }

    fn path(&self, expr: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &expr.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    /// The size of what the schema has at a path. Whatever the path starts with, it is a value of the root's type, unless that is
    /// the type of one variable only.
    fn size_at(&self, path: &Path) -> Option<Range> {
        let (variable, rest) = path.split_first()?;
        if self.root.variable.is_some_and(|only| only != variable) {
            return None;
        }
        self.root.at(rest.iter().map(String::as_str)).map(|max| Range { min: 0, max })
    }

    fn size(&mut self, expr: &IdedExpr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(Range::fixed(size));
        }
        if let Some(size) = self.size_at(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.ty(expr).is_some_and(is_scalar) {
            return Some(Range::fixed(1));
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &IdedExpr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn entries_of(&self, expr: &IdedExpr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn set_size(&mut self, id: u64, size: Option<Range>) {
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
    }

    fn push(&mut self, name: &'e str, path: Path, size: Option<Range>, entries: Option<Entries>) {
        self.locals.push(Local { name, path, size, entries });
    }

    /// The variable of a value, and that of keys or indices, of a range.
    fn push_key(&mut self, name: &'e str, range: &IdedExpr) {
        let entries = self.entries_of(range);
        let subpath = if self.is_list(range, entries) { "@indices" } else { "@keys" };
        self.push(name, extended(self.path(range), subpath), entries.map(|entries| entries.key), None);
    }

    fn push_value(&mut self, name: &'e str, range: &IdedExpr) {
        let entries = self.entries_of(range);
        let subpath = if self.is_list(range, entries) { "@items" } else { "@values" };
        self.push(name, extended(self.path(range), subpath), entries.map(|entries| entries.value), None);
    }

    /// One variable: the elements of a list, the keys of a map.
    fn push_single(&mut self, name: &'e str, range: &IdedExpr) {
        match self.is_list(range, self.entries_of(range)) {
            true => self.push_value(name, range),
            false => self.push_key(name, range),
        }
    }

    fn is_list(&self, range: &IdedExpr, entries: Option<Entries>) -> bool {
        entries.map_or_else(|| matches!(self.ty(range), Some(Type::List(_))), |entries| entries.list)
    }

    fn comprehension(&mut self, id: u64, fold: &'e ComprehensionExpr) -> Range {
        let mut sum = self.cost(&fold.iter_range).plus(self.cost(&fold.accu_init));
        let outer = self.locals.len();
        let (size, entries) = (self.size(&fold.accu_init), self.entries_of(&fold.accu_init));
        self.push(&fold.accu_var, self.path(&fold.accu_init), size, entries);
        match &fold.iter_var2 {
            Some(second) => {
                self.push_key(&fold.iter_var, &fold.iter_range);
                self.push_value(second, &fold.iter_range);
            }
            None => self.push_single(&fold.iter_var, &fold.iter_range),
        }
        let each = self.cost(&fold.loop_cond).plus(self.cost(&fold.loop_step));
        self.locals.truncate(outer + 1);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.truncate(outer);
        let count = self.size_or_unknown(&fold.iter_range);
        match &fold.accu_init.expr {
            Expr::Literal(_) => {
                let size = self.size(&fold.accu_init);
                self.set_size(id, size);
            }
            Expr::List(_) | Expr::Map(_) => {
                self.sizes.insert(id, count);
                if let Some(entries) = self.entries_of(&fold.loop_step) {
                    self.entries.insert(id, entries);
                }
            }
            _ => {}
        }
        sum.plus(count.times(each))
    }

    fn call(&mut self, expr: &'e IdedExpr, call: &'e CallExpr) -> Range {
        if let Some(kind) = macro_of(call) {
            return self.macro_call(expr, call, kind);
        }
        if let ("dyn", None, [arg]) = (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            let cost = self.cost(arg);
            let (size, entries) = (self.size(arg), self.entries_of(arg));
            self.set_size(expr.id, size);
            if let Some(entries) = entries {
                self.entries.insert(expr.id, entries);
            }
            return cost.plus(Range::fixed(1));
        }
        let costs: Vec<Range> = call.args.iter().map(|arg| self.cost(arg)).collect();
        if call.func_name == operators::OPT_SELECT {
            return costs.into_iter().fold(Range::fixed(1), Range::plus);
        }
        let Some(resolved) = self.checked.calls.get(&expr.id) else { return Range::default() };
        let target = call.target.as_deref().filter(|_| resolved.member);
        let base = target.map_or_else(Range::default, |target| self.cost(target));
        self.resolved(expr.id, resolved, target, &call.args, &costs).plus(base)
    }

    /// The macros that the parser leaves as calls, at the cost of what cel-go makes of them.
    fn macro_call(&mut self, expr: &'e IdedExpr, call: &'e CallExpr, kind: Macro<'e>) -> Range {
        let Some(target) = call.target.as_deref() else { return Range::default() };
        if let Macro::Bind { variable, init, body } = kind {
            return self.bind(expr.id, identifier(variable).unwrap_or_default(), init, body);
        }
        let range = self.cost(target);
        let outer = self.locals.len();
        match kind {
            Macro::Bind { .. } => range,
            Macro::OptMap { variable, body, flat } => {
                let has_value = range.plus(Range::fixed(1));
                let scalar = matches!(self.ty(target), Some(Type::Optional(inner)) if is_scalar(inner));
                self.push(variable, Path::new(), scalar.then(|| Range::fixed(1)), None);
                let bound = Range::fixed(LIST).plus(has_value).plus(self.cost(body));
                self.locals.truncate(outer);
                let present = if flat { bound } else { bound.plus(Range::fixed(1)) };
                has_value.plus(present.union(Range::fixed(1)))
            }
            Macro::SortBy { variable, body } => {
                self.push_single(variable, target);
                let each = self.cost(body).plus(Range::fixed(LIST + 2));
                self.locals.truncate(outer);
                let count = self.size_or_unknown(target);
                let keys = Range::fixed(LIST + 2).plus(count.times(each));
                let sort = calls::sort(count, self.ty(body));
                self.sizes.insert(expr.id, count);
                range.plus(Range::fixed(LIST + 1)).plus(keys).plus(sort)
            }
            Macro::Pairs { name, first, second, filter, body } => {
                self.push_key(first, target);
                self.push_value(second, target);
                let (start, each, end) = self.pairs(name, filter, body);
                self.locals.truncate(outer);
                let count = self.size_or_unknown(target);
                self.sizes.insert(expr.id, if name.starts_with("transform") { count } else { Range::fixed(1) });
                range.plus(Range::fixed(start + end)).plus(count.times(each))
            }
        }
    }

    /// An empty list is what cel-go makes of it in passing.
    fn bind(&mut self, id: u64, name: &'e str, init: &'e IdedExpr, body: &'e IdedExpr) -> Range {
        let outer = self.locals.len();
        let bound = Range::fixed(LIST).plus(self.cost(init));
        let (path, size, entries) = (self.path(init), self.size(init), self.entries_of(init));
        self.push(name, path, size, entries);
        let sum = bound.plus(self.cost(body));
        self.locals.truncate(outer);
        let (size, entries) = (self.size(body), self.entries_of(body));
        self.set_size(id, size);
        if let Some(entries) = entries {
            self.entries.insert(id, entries);
        }
        sum
    }

    /// Of a comprehension of two variables: its start, each step and its end.
    fn pairs(&mut self, name: &str, filter: Option<&'e IdedExpr>, body: &'e IdedExpr) -> (u64, Range, u64) {
        let filtered = filter.map(|filter| self.cost(filter));
        let body = self.cost(body);
        let (start, step) = match name {
            "all" => return (0, Range { min: 3, max: 3 }.plus(Range { min: 0, max: body.max }), 1),
            "exists" => return (0, Range { min: 4, max: 4 }.plus(Range { min: 0, max: body.max }), 1),
            "existsOne" | "exists_one" => return (0, body.plus(Range { min: 1, max: 2 }), 2),
            "transformList" => (LIST, body.plus(Range::fixed(LIST + 2))),
            "transformMap" => (MAP, body.plus(Range::fixed(3))),
            _ => (MAP, body.plus(Range::fixed(2))),
        };
        let step = filtered.map_or(step, |filter| filter.plus(step.union(Range::fixed(1))));
        (start, step, 1)
    }
}

/// The size that an expression shows by itself.
fn literal_size(expr: &IdedExpr) -> Option<u64> {
    Some(match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().chars().count() as u64,
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len() as u64,
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len() as u64,
        Expr::Map(map) => map.entries.len() as u64,
        _ => return None,
    })
}

/// Whether all values of a type are of one size.
fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
