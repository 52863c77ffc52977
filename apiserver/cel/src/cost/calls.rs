//! What calls cost by their function: the table of Kubernetes' libraries first, then those of cel-go's sets and lists,
//! then cel-go's own.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::{Entries, Estimate, LIST, PER_CHARACTER, PER_PATTERN_CHARACTER, Path, Range, extended};
use crate::check::Resolved;
use crate::signatures::Overload;
use crate::types::Type;

/// The longest regular expression of a named format.
const FORMAT_PATTERN: f64 = 128.0;
const FORMAT_NAME: u64 = 64;
/// An authorization check: two are allowed in an expression.
const CHECK: u64 = 350_000;

/// The cost of a call without its arguments, and the size of its result where that is known.
type CallCost = (Range, Option<Range>);

/// The receiver, if any, and the arguments.
struct Operands<'a> {
    target: Option<&'a IdedExpr>,
    args: &'a [IdedExpr],
}

/// Sorting compares each with each.
pub fn sort(count: Range, element: Option<&Type>) -> Range {
    let factor = match element {
        Some(Type::String | Type::Bytes | Type::Dyn | Type::Any | Type::Error) | None => 2.0 + PER_CHARACTER,
        Some(_) => 2.0,
    };
    count.times(count).scaled(factor).plus(Range::fixed(LIST + 1))
}

/// A list that is made of `size` steps.
fn allocating(factor: f64, size: Range) -> CallCost {
    (size.scaled(factor).plus(Range::fixed(LIST + 1)), Some(size))
}

/// The value of an integer literal.
fn literal(expr: &IdedExpr) -> Option<u64> {
    match &expr.expr {
        Expr::Literal(LiteralValue::Int(value)) => Some(u64::try_from(*value.inner()).unwrap_or(0)),
        _ => None,
    }
}

impl<'e> Estimate<'e> {
    /// A call with its arguments, whichever of its overloads is called.
    pub fn resolved(
        &mut self,
        id: u64,
        call: &Resolved,
        target: Option<&'e IdedExpr>,
        args: &'e [IdedExpr],
        costs: &[Range],
    ) -> Range {
        let operands = Operands { target, args };
        let mut cost = Range::NOTHING;
        let mut size: Option<Range> = None;
        for overload in &call.overloads {
            let (own, result) = self.overload(id, &call.name, overload, &operands, costs);
            cost = cost.union(own);
            size = match (size, result) {
                (Some(size), Some(result)) => Some(size.union(result)),
                (size, result) => result.or(size),
            };
            if call.name == operators::INDEX
                && let Some(operand) = args.first()
            {
                let subpath = match overload.args.first() {
                    Some(Type::List(_)) => Some("@items"),
                    Some(Type::Map(..)) => Some("@values"),
                    _ => None,
                };
                if let Some(subpath) = subpath {
                    size = self.entries_of(operand).map(|entries| entries.value);
                    self.paths.insert(id, extended(self.path(operand), subpath));
                }
            }
            if size.is_none() {
                size = self.size_by_id(id);
            }
        }
        self.set_size(id, size);
        cost
    }

    /// The size of a call by its path or type, which is all that is known of it.
    fn size_by_id(&mut self, id: u64) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let path = self.paths.get(&id).cloned().unwrap_or_default();
        let of_type = || self.checked.types.get(&id).is_some_and(super::is_scalar).then(|| Range::fixed(1));
        self.size_at(&path).or_else(of_type)
    }

    fn overload(
        &mut self,
        id: u64,
        name: &str,
        overload: &Overload,
        operands: &Operands<'e>,
        costs: &[Range],
    ) -> CallCost {
        let args = costs.iter().fold(Range::default(), |sum, cost| sum.plus(*cost));
        let with_args = |(cost, size): CallCost| (cost.plus(args), size);
        let known = self.extension(name, operands).or_else(|| self.library(name, overload, operands));
        if let Some(known) = known {
            return with_args(known);
        }
        match (name, costs) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                return (Range { min: left.min, max: left.plus(*right).max }, None);
            }
            (operators::CONDITIONAL, [test, yes, no]) => {
                let [_, a, b] = operands.args else { return (Range::fixed(1), None) };
                let size = self.size_or_unknown(a).union(self.size_or_unknown(b));
                if let Some(entries) = Entries::union(self.entries_of(a), self.entries_of(b)) {
                    self.entries.insert(id, entries);
                }
                return (test.plus(yes.union(*no)), Some(size));
            }
            _ => {}
        }
        let own = self.of_language(id, name, overload, operands);
        with_args(own.unwrap_or((Range::fixed(1), None)))
    }

    /// The size of an operand, unknown where neither it nor the schema says it.
    fn operand(&mut self, expr: &IdedExpr) -> Range {
        self.size_or_unknown(expr)
    }

    /// The type of a list's elements, and how large they are.
    fn elements(&self, list: &IdedExpr) -> Option<(&'e Type, Range)> {
        let element = match self.ty(list)? {
            Type::List(element) => &**element,
            Type::Map(key, _) => &**key,
            _ => return None,
        };
        let path: Path = self.path(list);
        let path = if is_accumulator(&path) { Path::new() } else { path };
        let size = if path.is_empty() { None } else { self.size_at(&extended(path, "@items")) };
        Some((element, size.unwrap_or(Range::UNKNOWN)))
    }

    /// cel-go's sets and lists.
    fn extension(&mut self, name: &str, operands: &Operands<'e>) -> Option<CallCost> {
        let sets = |this: &mut Self, factor| {
            let [a, b] = operands.args else { return None };
            let size = this.operand(a).times(this.operand(b));
            Some((size.scaled(factor).plus(Range::fixed(1)), None))
        };
        match (name, operands.target, operands.args) {
            ("sets.contains" | "sets.intersects", ..) => sets(self, 1.0),
            ("sets.equivalent", ..) => sets(self, 2.0),
            ("lists.range", _, [count]) => Some(allocating(1.0, Range::fixed(literal(count).unwrap_or(u64::MAX)))),
            ("slice", Some(list), [start, end]) => {
                let end = literal(end).unwrap_or(self.operand(list).max);
                Some(allocating(1.0, Range::fixed(end.wrapping_sub(literal(start).unwrap_or(0)))))
            }
            ("flatten", Some(list), depth) => {
                let depth = depth.first().map_or(1, |depth| literal(depth).unwrap_or(u64::MAX));
                Some(allocating(depth as f64, self.operand(list)))
            }
            ("reverse", Some(list), []) => Some(allocating(1.0, self.operand(list))),
            ("distinct", Some(list), []) => {
                let size = self.operand(list);
                Some(allocating(2.0, size.times(size)))
            }
            ("sort", Some(list), []) => {
                let size = self.operand(list);
                let element = self.elements(list).map(|(element, _)| element);
                Some((sort(size, element), Some(size.times(size))))
            }
            _ => None,
        }
    }

    /// Kubernetes' libraries, by name alone.
    fn library(&mut self, name: &str, overload: &Overload, operands: &Operands<'e>) -> Option<CallCost> {
        let Operands { target, args } = *operands;
        let read = |this: &mut Self, expr: &IdedExpr, times: f64| this.operand(expr).scaled(times * PER_CHARACTER);
        let alone = |cost: Range| Some((cost, None));
        match name {
            "check" => alone(Range::fixed(CHECK)),
            "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
            | "reason" | "error" | "errored" | "format.named" => alone(Range::fixed(1)),
            "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast" => alone(Range::fixed(1)),
            "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan"
            | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" => alone(Range::fixed(1)),
            "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery" => {
                alone(Range::fixed(1))
            }
            "fieldSelector" | "labelSelector" => {
                let size = self.operand(args.first()?);
                let requirements = size.scaled(0.5).scaled((LIST + super::STRUCT) as f64);
                alone(Range::fixed(LIST).plus(size.scaled(PER_CHARACTER)).plus(requirements))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let target = target?;
                let size = self.operand(target);
                let Some((element, characters)) = self.elements(target) else {
                    return alone(size.scaled(PER_CHARACTER));
                };
                let mut each = Range::fixed(1);
                if matches!(element, Type::String | Type::Bytes) {
                    each = each.plus(characters.scaled(PER_CHARACTER));
                }
                alone(size.times(each))
            }
            "url" | "jsonpatch.escapeKey" => {
                let arg = args.first()?;
                Some((read(self, arg, 1.0), Some(self.operand(arg))))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let target = target?;
                Some((read(self, target, 1.0), Some(self.operand(target))))
            }
            "replace" => {
                let [from, to, ..] = args else { return None };
                let size = self.operand(target?);
                let result = replaced(size, self.operand(from), self.operand(to));
                Some((size.scaled(2.0 * PER_CHARACTER), Some(result)))
            }
            "split" => {
                let size = self.operand(target?);
                let max = args.get(1).and_then(literal).unwrap_or(size.max);
                Some((size.scaled(2.0 * PER_CHARACTER), Some(Range { min: 0, max })))
            }
            "join" => {
                let target = target?;
                let count = self.operand(target);
                let mut size = self.elements(target).map_or_else(Range::default, |(_, each)| count.times(each));
                if let Some(separator) = args.first() {
                    let gaps = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                    size = size.plus(self.operand(separator).times(gaps));
                }
                Some((size.scaled(PER_CHARACTER), Some(size)))
            }
            "find" | "findAll" => {
                let size = self.operand(target?);
                let cost = matching(size, self.operand(args.first()?));
                Some((cost, Some(Range { min: 0, max: size.max })))
            }
            "ip" if matches!(overload.args.first(), Some(Type::Opaque("net.CIDR"))) => alone(Range::fixed(1)),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                alone(read(self, args.first()?, 1.0))
            }
            "ip.isCanonical" => alone(read(self, args.first()?, 2.0)),
            "containsIP" | "containsCIDR" => {
                let address = Range { min: 4, max: 16 };
                let mut cost = address.plus(address).scaled(PER_CHARACTER);
                if name == "containsCIDR" {
                    cost = cost.plus(address.scaled(PER_CHARACTER)).plus(Range::fixed(1));
                }
                if overload.args.last() == Some(&Type::String) {
                    cost = cost.plus(read(self, args.first()?, 1.0));
                }
                alone(cost)
            }
            "validate" => alone(read(self, args.first()?, 1.0).scaled(FORMAT_PATTERN * PER_PATTERN_CHARACTER)),
            operators::EQUALS => self.equal_extensions(operands),
            _ => None,
        }
    }

    /// `==` of two values of one library type.
    fn equal_extensions(&mut self, operands: &Operands<'e>) -> Option<CallCost> {
        let [a, b] = operands.args else { return None };
        let (Some(Type::Opaque(left)), Some(Type::Opaque(right))) = (self.ty(a), self.ty(b)) else { return None };
        if left != right {
            return None;
        }
        let cost = match *left {
            "kubernetes.NamedFormat" => Range { min: 1, max: FORMAT_NAME }.scaled(PER_CHARACTER),
            "net.URL" => {
                let max = self.size(b).map_or(1, |size| size.max);
                Range { min: 1, max }.scaled(PER_CHARACTER)
            }
            _ => Range::fixed(1),
        };
        Some((cost, None))
    }

    /// The language's own functions whose cost grows with what they read.
    fn of_language(&mut self, id: u64, name: &str, overload: &Overload, operands: &Operands<'e>) -> Option<CallCost> {
        let Operands { target, args } = *operands;
        let kind = overload.args.first();
        let text = matches!(kind, Some(Type::String | Type::Bytes));
        match (name, target, args) {
            ("format", Some(target), _) => Some((self.operand(target).scaled(PER_CHARACTER), None)),
            ("bytes", None, [arg]) if kind == Some(&Type::String) => {
                let size = self.operand(arg);
                let result = Range { min: size.min, max: size.max.wrapping_mul(4) };
                Some((size.scaled(PER_CHARACTER), Some(result)))
            }
            ("string", None, [arg]) if kind == Some(&Type::Bytes) => {
                let size = self.operand(arg);
                Some((size.scaled(PER_CHARACTER), Some(Range { min: size.min / 4, max: size.max })))
            }
            ("strings.quote", None, [arg]) => {
                let size = self.operand(arg);
                let result = Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
                Some((size.scaled(PER_CHARACTER), Some(result)))
            }
            ("startsWith" | "endsWith", Some(_), [arg]) => Some((self.operand(arg).scaled(PER_CHARACTER), None)),
            (operators::IN, None, [_, list]) if matches!(overload.args.get(1), Some(Type::List(_))) => {
                Some((self.operand(list), None))
            }
            ("matches", Some(target), [pattern]) => Some((matching(self.operand(target), self.operand(pattern)), None)),
            ("contains", Some(target), [part]) => {
                let (whole, part) = (self.operand(target), self.operand(part));
                Some((whole.scaled(PER_CHARACTER).times(part.scaled(PER_CHARACTER)), None))
            }
            (operators::ADD, None, [a, b]) if text || matches!(kind, Some(Type::List(_))) => {
                let size = self.operand(a).plus(self.operand(b));
                if let Some(entries) = Entries::union(self.entries_of(a), self.entries_of(b)) {
                    self.entries.insert(id, entries);
                }
                Some((if text { size.scaled(PER_CHARACTER) } else { Range::fixed(1) }, Some(size)))
            }
            (operators::EQUALS | operators::NOT_EQUALS, None, [a, b]) => Some((self.compared(a, b), None)),
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                None,
                [a, b],
            ) if text => Some((self.compared(a, b), None)),
            _ => None,
        }
    }

    /// Comparing reads as much as the smaller one has.
    fn compared(&mut self, a: &IdedExpr, b: &IdedExpr) -> Range {
        let max = self.operand(a).max.min(self.operand(b).max);
        Range { min: u64::from(max > 0), max }.scaled(PER_CHARACTER)
    }
}

fn is_accumulator(path: &Path) -> bool {
    path.first().is_some_and(|first| first == "@result" || first == "__result__")
}

/// A text against a regular expression.
fn matching(text: Range, pattern: Range) -> Range {
    text.plus(Range::fixed(1)).scaled(PER_CHARACTER).times(pattern.scaled(PER_PATTERN_CHARACTER))
}

/// How long a text is after each `from` in it has become `to`.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let count = |size: u64, from: u64| scaled_down(size, from);
    let (mut counts, mut kept) = (Range::default(), Range::default());
    if from.min == 0 {
        counts.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if to.max <= from.min {
        kept.max = size.max;
    } else {
        counts.max = count(size.max, from.min);
    }
    if from.max == 0 {
        counts.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if from.max <= to.min {
        kept.min = size.min;
    } else {
        counts.min = count(size.min, from.max);
    }
    counts.times(to).plus(kept)
}

fn scaled_down(size: u64, by: u64) -> u64 {
    (size as f64 / by as f64).ceil() as u64
}
