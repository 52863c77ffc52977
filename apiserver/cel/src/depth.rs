//! How deep an expression may nest, and a stack that holds the reading, checking and evaluation of one that does. All three
//! recurse, and threads of a server have small stacks: without a bound, a few hundred bytes in a CRD would end the process.

/// cel-go's `parser.MaxRecursionDepth`.
pub const NESTING: u16 = 250;
/// Operators and selections of one expression: those of a chain nest too.
const OPERATORS: usize = 2_000;
const STACK: usize = 128 << 20;

/// What an expression asks of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Fits on any thread's.
    Shallow,
    Deep,
}

impl Depth {
    /// Runs what recurses over an expression of this depth.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match self {
            Depth::Shallow => work(),
            Depth::Deep => stacker::grow(STACK, work),
        }
    }
}

/// The depth of an expression, or the bound that it is over. Nothing is read exactly: a bracket in a string counts as one that
/// is never closed, so that no reading of a damaged string makes an expression deeper than it counts here.
pub fn measure(expression: &str) -> Result<Depth, String> {
    let bytes = expression.as_bytes();
    let (mut open, mut deepest, mut hidden, mut operators, mut at) = (0usize, 0usize, 0usize, 0usize, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'\'' | b'"' => {
                let end = string_end(bytes, at);
                hidden += bytes[at..end].iter().filter(|b| matches!(b, b'(' | b'[' | b'{')).count();
                at = end;
                continue;
            }
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'=' | b'<' | b'>' | b'&' | b'|' | b'?' | b':' | b'.' => {
                operators += 1
            }
            _ => {}
        }
        deepest = deepest.max(open);
        at += 1;
    }
    if deepest + hidden > usize::from(NESTING) {
        return Err(format!("expression recursion limit exceeded: {NESTING}"));
    }
    // `in` is an operator of letters.
    operators +=
        expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| *word == "in").count();
    if operators > OPERATORS {
        return Err(format!("expression has more than {OPERATORS} operators"));
    }
    Ok(if deepest + hidden > 4 || operators > 50 { Depth::Deep } else { Depth::Shallow })
}

/// Behind the string that begins at `start`; just behind its quote when it does not end.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let close = if triple { 3 } else { 1 };
    let raw = raw_before(&bytes[..start]);
    let mut at = start + close;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if !raw => at += 2,
            b'\n' if !triple => break,
            b if b == quote && bytes[at..].len() >= close && bytes[at..at + close].iter().all(|b| *b == quote) => {
                return at + close;
            }
            _ => at += 1,
        }
    }
    start + 1
}

/// Whether a string behind this is raw: `r'…'`, `br'…'`, and not the end of a name.
fn raw_before(before: &[u8]) -> bool {
    let word: Vec<u8> =
        before.iter().rev().take(3).take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').copied().collect();
    matches!(word.as_slice(), [b'r' | b'R'] | [b'r' | b'R', b'b' | b'B'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_bounded_and_strings_do_not_hide_it() {
        let deep = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        assert_eq!(measure("self.a == 'x'"), Ok(Depth::Shallow));
        assert_eq!(measure(&deep(250)), Ok(Depth::Deep));
        let over = Err("expression recursion limit exceeded: 250".to_owned());
        assert_eq!(measure(&deep(251)), over);
        assert_eq!(measure(&format!("'\\q {}", deep(251))), over);
        assert_eq!(measure(&format!("{}')))'{}", "(".repeat(200), "(".repeat(100))), over);
        assert_eq!(measure(&format!("r'\\' + {}", deep(251))), over);
        assert_eq!(measure(&format!("'''a'b''' + {}", deep(251))), over);
    }

    #[test]
    fn a_chain_of_operators_is_bounded() {
        assert_eq!(measure(&vec!["1"; 2_000].join("+")), Ok(Depth::Deep));
        assert!(measure(&vec!["1"; 2_002].join("+")).is_err());
        assert!(measure(&vec!["a"; 2_002].join(" in ")).is_err());
    }
}
