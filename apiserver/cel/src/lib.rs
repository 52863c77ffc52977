//! CEL as Kubernetes has it: expressions of CRD rules, match conditions, admission policies and selectors of devices, checked against declared
//! types when they are written and evaluated over JSON within a budget.
//!
//! ```text
//! text ─ cel's parser ─> AST ─ check (declared variables, signatures) ─> Program ─ eval (activation, budget) ─> Value
//! ```
//! The parser is the `cel` crate's. Checking and evaluation are here, because Kubernetes tells users of type errors in
//! cel-go's words, reads objects by their schemas, and bounds what an expression may cost. No IO and no clock: an
//! expression sees only its activation.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
mod budget;
mod check;
mod cost;
mod depth;
pub mod devices;
mod eval;
mod functions;
mod program;
pub mod schema;
mod signatures;
mod types;
mod value;

pub use budget::{Budget, PER_CALL};
pub use eval::EvalError;
pub use functions::authorizer;
pub use program::{Activation, CompileError, Env, Program, compile, compile_over};
pub use types::{ObjectType, Type};
pub use value::{Extension, Key, Map, Value, escape, unescape};
