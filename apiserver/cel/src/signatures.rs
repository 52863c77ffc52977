//! The functions that expressions may call, as a table of signatures: cel's own, the extensions that Kubernetes has on,
//! and Kubernetes' libraries (apiserver/pkg/cel/environment/base.go for v1.36). What they do is in `functions`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::types::Type;

pub struct Overload {
    /// The receiver comes first.
    pub args: Vec<Type>,
    pub result: Type,
}

/// By name; those that are called on a receiver come second.
type Table = HashMap<&'static str, [Vec<Overload>; 2]>;

/// One signature a line; `T.f(A)` is called on a receiver. Capital letters alone are type parameters.
const TEXT: &str = "
!_(bool) bool
-_(int) int | -_(double) double
@not_strictly_false(bool) bool
_&&_(bool,bool) bool | _||_(bool,bool) bool
_?_:_(bool,A,A) A
_==_(A,A) bool | _!=_(A,A) bool
@in(A,list<A>) bool | @in(A,map<A,B>) bool
_[_](list<A>,int) A | _[_](map<A,B>,A) B
_[?_](list<A>,int) optional<A> | _[?_](map<A,B>,A) optional<B>
_[_](optional<list<A>>,int) optional<A> | _[_](optional<map<A,B>>,A) optional<B>
_[?_](optional<list<A>>,int) optional<A> | _[?_](optional<map<A,B>>,A) optional<B>
_+_(int,int) int | _+_(uint,uint) uint | _+_(double,double) double | _+_(string,string) string | _+_(bytes,bytes) bytes
_+_(list<A>,list<A>) list<A> | _+_(duration,duration) duration
_+_(timestamp,duration) timestamp | _+_(duration,timestamp) timestamp
_-_(int,int) int | _-_(uint,uint) uint | _-_(double,double) double | _-_(timestamp,timestamp) duration
_-_(timestamp,duration) timestamp | _-_(duration,duration) duration
_*_(int,int) int | _*_(uint,uint) uint | _*_(double,double) double
_/_(int,int) int | _/_(uint,uint) uint | _/_(double,double) double
_%_(int,int) int | _%_(uint,uint) uint
size(string) int | size(bytes) int | size(list<A>) int | size(map<A,B>) int
string.size() int | bytes.size() int | list<A>.size() int | map<A,B>.size() int
type(A) type | dyn(A) dyn
bool(bool) bool | bool(string) bool
int(int) int | int(uint) int | int(double) int | int(string) int | int(timestamp) int | int(duration) int
uint(uint) uint | uint(int) uint | uint(double) uint | uint(string) uint
double(double) double | double(int) double | double(uint) double | double(string) double
string(string) string | string(bool) string | string(int) string | string(uint) string | string(double) string
string(bytes) string | string(timestamp) string | string(duration) string
bytes(bytes) bytes | bytes(string) bytes
timestamp(timestamp) timestamp | timestamp(string) timestamp | timestamp(int) timestamp
duration(duration) duration | duration(string) duration
matches(string,string) bool | string.matches(string) bool
string.contains(string) bool | string.startsWith(string) bool | string.endsWith(string) bool
timestamp.getFullYear() int | timestamp.getMonth() int | timestamp.getDayOfYear() int | timestamp.getDayOfMonth() int
timestamp.getDate() int | timestamp.getDayOfWeek() int | timestamp.getHours() int | timestamp.getMinutes() int
timestamp.getSeconds() int | timestamp.getMilliseconds() int
timestamp.getFullYear(string) int | timestamp.getMonth(string) int | timestamp.getDayOfYear(string) int
timestamp.getDayOfMonth(string) int | timestamp.getDate(string) int | timestamp.getDayOfWeek(string) int
timestamp.getHours(string) int | timestamp.getMinutes(string) int | timestamp.getSeconds(string) int
timestamp.getMilliseconds(string) int
duration.getHours() int | duration.getMinutes() int | duration.getSeconds() int | duration.getMilliseconds() int
optional.of(A) optional<A> | optional.none() optional<A> | optional.ofNonZeroValue(A) optional<A>
optional<A>.hasValue() bool | optional<A>.value() A | optional<A>.or(optional<A>) optional<A> | optional<A>.orValue(A) A
string.charAt(int) string | string.indexOf(string) int | string.indexOf(string,int) int | string.lastIndexOf(string) int
string.lastIndexOf(string,int) int | string.lowerAscii() string | string.upperAscii() string | string.trim() string
string.replace(string,string) string | string.replace(string,string,int) string
string.split(string) list<string> | string.split(string,int) list<string>
string.substring(int) string | string.substring(int,int) string | list<string>.join() string | list<string>.join(string) string
string.format(list<dyn>) string | strings.quote(string) string
list<A>.isSorted() bool | list<A>.sum() A | list<A>.min() A | list<A>.max() A
list<A>.indexOf(A) int | list<A>.lastIndexOf(A) int
list<A>.slice(int,int) list<A> | list<A>.flatten() list<dyn> | list<A>.flatten(int) list<dyn> | list<A>.distinct() list<A>
list<A>.reverse() list<A> | list<A>.sort() list<A> | list<A>.first() optional<A> | list<A>.last() optional<A>
lists.range(int) list<int>
sets.contains(list<A>,list<A>) bool | sets.equivalent(list<A>,list<A>) bool | sets.intersects(list<A>,list<A>) bool
string.find(string) string | string.findAll(string) list<string> | string.findAll(string,int) list<string>
url(string) net.URL | isURL(string) bool | net.URL.getScheme() string | net.URL.getHost() string
net.URL.getHostname() string | net.URL.getPort() string | net.URL.getEscapedPath() string
net.URL.getQuery() map<string,list<string>>
quantity(string) kubernetes.Quantity | isQuantity(string) bool | kubernetes.Quantity.sign() int
kubernetes.Quantity.isInteger() bool | kubernetes.Quantity.asInteger() int | kubernetes.Quantity.asApproximateFloat() double
kubernetes.Quantity.add(kubernetes.Quantity) kubernetes.Quantity | kubernetes.Quantity.add(int) kubernetes.Quantity
kubernetes.Quantity.sub(kubernetes.Quantity) kubernetes.Quantity | kubernetes.Quantity.sub(int) kubernetes.Quantity
kubernetes.Quantity.isLessThan(kubernetes.Quantity) bool | kubernetes.Quantity.isGreaterThan(kubernetes.Quantity) bool
kubernetes.Quantity.compareTo(kubernetes.Quantity) int
ip(string) net.IP | isIP(string) bool | ip.isCanonical(string) bool | net.IP.family() int | net.IP.isUnspecified() bool
net.IP.isLoopback() bool | net.IP.isLinkLocalMulticast() bool | net.IP.isLinkLocalUnicast() bool
net.IP.isGlobalUnicast() bool | string(net.IP) string
cidr(string) net.CIDR | isCIDR(string) bool | net.CIDR.containsIP(string) bool | net.CIDR.containsIP(net.IP) bool
net.CIDR.containsCIDR(string) bool | net.CIDR.containsCIDR(net.CIDR) bool | net.CIDR.ip() net.IP
net.CIDR.masked() net.CIDR | net.CIDR.prefixLength() int | string(net.CIDR) string
format.named(string) optional<kubernetes.NamedFormat> | kubernetes.NamedFormat.validate(string) optional<list<string>>
format.dns1123Label() kubernetes.NamedFormat | format.dns1123Subdomain() kubernetes.NamedFormat
format.dns1035Label() kubernetes.NamedFormat | format.qualifiedName() kubernetes.NamedFormat
format.dns1123LabelPrefix() kubernetes.NamedFormat | format.dns1123SubdomainPrefix() kubernetes.NamedFormat
format.dns1035LabelPrefix() kubernetes.NamedFormat | format.labelValue() kubernetes.NamedFormat
format.uri() kubernetes.NamedFormat | format.uuid() kubernetes.NamedFormat | format.byte() kubernetes.NamedFormat
format.date() kubernetes.NamedFormat | format.datetime() kubernetes.NamedFormat
semver(string) kubernetes.Semver | semver(string,bool) kubernetes.Semver | isSemver(string) bool | isSemver(string,bool) bool
kubernetes.Semver.major() int | kubernetes.Semver.minor() int | kubernetes.Semver.patch() int
kubernetes.Semver.isLessThan(kubernetes.Semver) bool | kubernetes.Semver.isGreaterThan(kubernetes.Semver) bool
kubernetes.Semver.compareTo(kubernetes.Semver) int
Authorizer.path(string) PathCheck | Authorizer.group(string) GroupCheck
Authorizer.serviceAccount(string,string) Authorizer | PathCheck.check(string) Decision
GroupCheck.resource(string) ResourceCheck | ResourceCheck.subresource(string) ResourceCheck
ResourceCheck.namespace(string) ResourceCheck | ResourceCheck.name(string) ResourceCheck
ResourceCheck.fieldSelector(string) ResourceCheck | ResourceCheck.labelSelector(string) ResourceCheck
ResourceCheck.check(string) Decision | Decision.allowed() bool | Decision.reason() string
Decision.errored() bool | Decision.error() string
jsonpatch.escapeKey(string) string
";

/// The names that a function's own name may start with.
const NAMESPACES: [&str; 9] = ["optional", "strings", "lists", "sets", "format", "ip", "jsonpatch", "math", "base64"];

/// The signatures of a function, of those that are called on a receiver or of those that are not.
pub fn overloads(name: &str, member: bool) -> Option<&'static [Overload]> {
    table().get(name).map(|both| both[usize::from(member)].as_slice()).filter(|overloads| !overloads.is_empty())
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::new();
        for signature in TEXT.lines().flat_map(|line| line.split(" | ")).filter(|s| !s.trim().is_empty()) {
            let (name, member, overload) = read(signature.trim());
            table.entry(name).or_default()[usize::from(member)].push(overload);
        }
        for name in ["_<_", "_<=_", "_>_", "_>=_"] {
            table.insert(name, [comparisons(), Vec::new()]);
        }
        table
    })
}

/// Whether a dotted name is that of a function, such as `sets.contains`.
pub fn is_namespace(name: &str) -> bool {
    NAMESPACES.contains(&name)
}

fn comparisons() -> Vec<Overload> {
    let numbers = [Type::Int, Type::Uint, Type::Double];
    let mixed = numbers.iter().flat_map(|a| numbers.iter().map(move |b| vec![a.clone(), b.clone()]));
    let plain = [Type::Bool, Type::String, Type::Bytes, Type::Timestamp, Type::Duration];
    let same = plain.into_iter().map(|ty| vec![ty.clone(), ty]);
    mixed.chain(same).map(|args| Overload { args, result: Type::Bool }).collect()
}

fn read(signature: &'static str) -> (&'static str, bool, Overload) {
    let open = signature.find('(').expect("a signature has arguments");
    let close = signature.rfind(')').expect("a signature has arguments");
    let result = type_of(signature[close + 1..].trim());
    let mut args: Vec<Type> = split(&signature[open + 1..close]).into_iter().map(type_of).collect();
    let head = &signature[..open];
    let receiver = head.rfind('.').map(|dot| (&head[..dot], &head[dot + 1..]));
    match receiver {
        Some((receiver, name)) if !is_namespace(receiver) => {
            args.insert(0, type_of(receiver));
            (name, true, Overload { args, result })
        }
        _ => (head, false, Overload { args, result }),
    }
}

/// At the commas that are in no angle brackets.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn type_of(text: &'static str) -> Type {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        let inner = split(inner);
        return match outer {
            "list" => Type::list(type_of(inner[0])),
            "map" => Type::map(type_of(inner[0]), type_of(inner[1])),
            _ => Type::Optional(Arc::new(type_of(inner[0]))),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::TypeOf,
        "A" => Type::Param('A'),
        "B" => Type::Param('B'),
        // As upstream's library names them.
        "Authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
        "PathCheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "GroupCheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "ResourceCheck" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "Decision" => Type::Opaque("kubernetes.authorization.Decision"),
        other => Type::Opaque(other),
    }
}
