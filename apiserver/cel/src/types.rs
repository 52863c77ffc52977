//! Types of expressions, how they are named in messages, and which fits where.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Fits everywhere; known at run time only.
    Dyn,
    /// As dyn, but nothing ranges over it: a value that may be of several types.
    Any,
    /// What a wrong expression is, so that one mistake is told once.
    Error,
    /// What an empty list or map holds: it becomes what it is used with, and is dyn where nothing tells.
    Unknown,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// A type of a library, such as `net.URL`.
    Opaque(&'static str),
    TypeOf,
    /// A type parameter of a signature.
    Param(char),
}

/// A type with named fields, which may refer to itself.
#[derive(Debug)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &ObjectType) -> bool {
        self.name == other.name
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn | Type::Unknown => f.write_str("dyn"),
            Type::Any => f.write_str("any"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Object(object) => f.write_str(&object.name),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Opaque(name) => f.write_str(name),
            Type::TypeOf => f.write_str("type"),
            Type::Param(name) => write!(f, "{name}"),
        }
    }
}

/// What the type parameters of one call stand for.
#[derive(Clone, Default)]
pub struct Bindings(HashMap<char, Type>);

impl Type {
    /// A type with fields that is known by its name alone.
    pub fn named(name: &str) -> Type {
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: BTreeMap::new() }))
    }

    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// The name of the type where it is told of a whole expression, which cel-go does otherwise than in what is wrong within one.
    pub fn full_name(&self) -> String {
        match self {
            Type::Any => "google.protobuf.Any".to_owned(),
            Type::Null => "null_type".to_owned(),
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::List(item) => format!("list({})", item.full_name()),
            Type::Map(key, value) => format!("map({}, {})", key.full_name(), value.full_name()),
            Type::Optional(inner) => format!("optional_type({})", inner.full_name()),
            other => other.to_string(),
        }
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Any | Type::Error | Type::Unknown)
    }

    fn has_unknown(&self) -> bool {
        match self {
            Type::Unknown => true,
            Type::List(item) | Type::Optional(item) => item.has_unknown(),
            Type::Map(key, value) => key.has_unknown() || value.has_unknown(),
            _ => false,
        }
    }

    /// With what nothing has told as dyn.
    pub fn settled(self) -> Type {
        match self {
            Type::Unknown => Type::Dyn,
            ty if !ty.has_unknown() => ty,
            Type::List(item) => Type::list((*item).clone().settled()),
            Type::Optional(inner) => Type::Optional((*inner).clone().settled().into()),
            Type::Map(key, value) => Type::map((*key).clone().settled(), (*value).clone().settled()),
            ty => ty,
        }
    }

    fn may_be_null(&self) -> bool {
        matches!(self, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_))
    }

    /// Whether a value of `given` may be where this type is expected.
    pub fn takes(&self, given: &Type, bindings: &mut Bindings) -> bool {
        match (self, given) {
            (Type::Param(name), _) => match bindings.0.get(name).cloned() {
                None => {
                    bindings.0.insert(*name, given.clone());
                    true
                }
                Some(bound) if bound.has_unknown() => {
                    let fits = bound.takes(given, &mut Bindings::default());
                    if fits {
                        bindings.0.insert(*name, bound.join(given));
                    }
                    fits
                }
                Some(bound) if bound.is_dyn() => true,
                Some(bound) => {
                    // The other way round too: what was bound may be the narrower one.
                    bound.takes(given, &mut Bindings::default()) || {
                        let wider = given.takes(&bound, &mut Bindings::default());
                        if wider {
                            bindings.0.insert(*name, given.clone());
                        }
                        wider
                    }
                }
            },
            (a, b) if a.is_dyn() || b.is_dyn() => true,
            (Type::List(a), Type::List(b)) => a.takes(b, bindings),
            (Type::Map(a, x), Type::Map(b, y)) => a.takes(b, bindings) && x.takes(y, bindings),
            (Type::Optional(a), Type::Optional(b)) => a.takes(b, bindings),
            (a, Type::Null) if a.may_be_null() => true,
            (Type::Null, b) if b.may_be_null() => true,
            (a, b) => a == b,
        }
    }

    /// This type with its parameters replaced by what they stand for; free ones are dyn.
    pub fn bound(&self, bindings: &Bindings) -> Type {
        match self {
            Type::Param(name) => bindings.0.get(name).cloned().unwrap_or(Type::Dyn),
            Type::List(item) => Type::list(item.bound(bindings)),
            Type::Map(key, value) => Type::map(key.bound(bindings), value.bound(bindings)),
            Type::Optional(inner) => Type::Optional(Arc::new(inner.bound(bindings))),
            other => other.clone(),
        }
    }

    /// The type of an expression that is of one or the other.
    pub fn join(&self, other: &Type) -> Type {
        if self == other {
            return self.clone();
        }
        match (self, other) {
            (Type::Error | Type::Unknown, other) | (other, Type::Error | Type::Unknown) => other.clone(),
            (Type::Null, other) | (other, Type::Null) if other.may_be_null() => other.clone(),
            (Type::List(a), Type::List(b)) => Type::list(a.join(b)),
            (Type::Map(a, x), Type::Map(b, y)) => Type::map(a.join(b), x.join(y)),
            (Type::Optional(a), Type::Optional(b)) => Type::Optional(Arc::new(a.join(b))),
            _ => Type::Dyn,
        }
    }
}
