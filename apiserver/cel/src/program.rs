//! A compiled expression, what it is compiled against and what it is run with.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use cel::common::ast::IdedExpr;
use cel::parser::Parser;

use crate::budget::Budget;
use crate::check::{self, Checked};
use crate::cost;
use crate::depth::{Depth, NESTING, measure};
use crate::eval::{EvalError, Evaluator, Outcome};
use crate::schema::Declared;
use crate::types::Type;
use crate::value::Value;

/// The variables that an expression may name, and the literals with fields that it may make.
#[derive(Clone, Default)]
pub struct Env {
    pub(crate) variables: HashMap<String, Type>,
    pub(crate) structs: Vec<&'static str>,
    /// Whether `cel.bind` is known.
    pub(crate) bindings: bool,
}

impl Env {
    pub fn with(mut self, name: &str, ty: Type) -> Env {
        self.variables.insert(name.to_owned(), ty);
        self
    }

    /// Allows `cel.bind(variable, value, expression)`.
    pub fn with_bindings(mut self) -> Env {
        self.bindings = true;
        self
    }

    /// Allows `name{…}` and `name.field{…}`, whose fields are of any type.
    pub fn with_struct(mut self, name: &'static str) -> Env {
        self.structs.push(name);
        self
    }
}

/// What is wrong with an expression, in cel-go's words: `ERROR: <input>:1:5: …`, the line and a mark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// A checked expression. Evaluation borrows its literals.
pub struct Program {
    ast: IdedExpr,
    result: Type,
    variables: BTreeSet<String>,
    depth: Depth,
}

impl Drop for Program {
    fn drop(&mut self) {
        let ast = std::mem::take(&mut self.ast);
        self.depth.run(|| drop(ast));
    }
}

/// Parses and checks.
pub fn compile(expression: &str, env: &Env) -> Result<Program, CompileError> {
    let depth = measure(expression).map_err(CompileError)?;
    // The parser takes a hundred times the stack that the others take.
    Depth::Deep.run(|| parse(expression, env, depth)).map(|(program, _)| program)
}

/// Parses and checks an expression over values of `root`, and says what it may cost at most
/// (cel-go's checker.Cost with apiserver/pkg/cel/library/cost.go).
pub fn compile_over(expression: &str, env: &Env, root: &Declared) -> Result<(Program, u64), CompileError> {
    let depth = measure(expression).map_err(CompileError)?;
    Depth::Deep.run(|| {
        let (program, checked) = parse(expression, env, depth)?;
        let cost = cost::estimate(&program.ast, &checked, root).max;
        Ok((program, cost))
    })
}

fn parse(expression: &str, env: &Env, depth: Depth) -> Result<(Program, Checked), CompileError> {
    let parser =
        Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true).max_recursion_depth(NESTING);
    let (ast, source) = parser.parse_with_source_info(expression).map_err(|errors| {
        let shown: Vec<String> = errors
            .errors
            .iter()
            .map(|error| {
                let (line, column) = (error.pos.0.max(1) as usize, error.pos.1.max(1) as usize);
                syntax_error(expression, line, column, &error.msg)
            })
            .collect();
        CompileError(shown.join("\n"))
    })?;
    let (result, checked) = check::check(&ast, env, expression, &source).map_err(CompileError)?;
    Ok((Program { ast, result, variables: checked.variables.clone(), depth }, checked))
}

/// What cel-go says: after a whole expression it names nothing but the end, and no text has no line to show.
fn syntax_error(expression: &str, line: usize, column: usize, why: &str) -> String {
    let why = match why.find("expecting {<EOF>, ") {
        Some(at) => format!("{}expecting <EOF>", &why[..at]),
        None => why.to_owned(),
    };
    if expression.is_empty() {
        return format!("ERROR: <input>:1:0: {why}");
    }
    check::show(expression, line, column, &why)
}

impl Program {
    /// The type that the expression is of; dyn where only its values know.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether a variable of the environment is named.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    pub fn eval<'a>(&'a self, activation: &Activation<'a>, budget: &mut Budget) -> Outcome<'a> {
        self.depth.run(|| Evaluator { activation, budget, scope: Vec::new() }.eval(&self.ast))
    }
}

/// The variable's name, its fields, and those evaluated.
type Lazy<'a> = (&'a str, &'a [(String, Program)], Memo<'a>);
type Memo<'a> = RefCell<HashMap<&'a str, Option<Outcome<'a>>>>;

/// Answers an authorization check: (attributes of the check, verb) to allowed and the reason.
pub type Authorize<'a> = dyn Fn(&crate::functions::authorizer::Check) -> (bool, String) + 'a;

/// What an expression sees. Not shared between threads: one evaluation, or several after each other.
#[derive(Default)]
pub struct Activation<'a> {
    values: HashMap<&'a str, Value<'a>>,
    /// Expressions behind the fields of one variable, evaluated when first asked for.
    lazy: Option<Lazy<'a>>,
    pub(crate) authorize: Option<Box<Authorize<'a>>>,
}

impl<'a> Activation<'a> {
    pub fn set(&mut self, name: &'a str, value: Value<'a>) {
        self.values.insert(name, value);
    }

    /// Makes `name.FIELD` the result of the program of that name; each sees those before it.
    pub fn set_lazy(&mut self, name: &'a str, programs: &'a [(String, Program)]) {
        self.lazy = Some((name, programs, Memo::default()));
    }

    /// Lets expressions ask what the variable `authorizer` may do.
    pub fn set_authorizer(&mut self, user: crate::functions::authorizer::Subject, authorize: Box<Authorize<'a>>) {
        self.values.insert("authorizer", crate::functions::authorizer::root(user));
        self.authorize = Some(authorize);
    }

    pub(crate) fn value(&self, name: &str) -> Option<Value<'a>> {
        self.values.get(name).cloned()
    }

    pub(crate) fn variable(&self, owner: &str, field: &str, budget: &mut Budget) -> Option<Outcome<'a>> {
        let (name, programs, memo) = self.lazy.as_ref()?;
        if *name != owner {
            return None;
        }
        let (own, program) = programs.iter().find(|(own, _)| own == field)?;
        match memo.borrow().get(own.as_str()) {
            Some(Some(outcome)) => return Some(outcome.clone()),
            Some(None) => return Some(Err(EvalError::Failed(format!("variable {field} refers to itself")))),
            None => {}
        }
        memo.borrow_mut().insert(own, None);
        let outcome = program.eval(self, budget);
        memo.borrow_mut().insert(own, Some(outcome.clone()));
        Some(outcome)
    }
}
