//! Files of variables in a volume (`fileKeyRef`): a strict part of shell syntax, in which every value stands in single
//! quotes and may span lines. Pure but for the reading.

use std::fs;
use std::path::Path;

/// The value of `key` in the file `path` of the volume at `root`; empty if it is not there.
pub fn value(root: &Path, path: &str, key: &str) -> Result<String, String> {
    let failed = || "couldn't parse env file".to_string();
    let root = root.canonicalize().map_err(|_| failed())?;
    let at = root.join(path).canonicalize().map_err(|_| failed())?;
    // A link that a container planted must not lead out of the volume.
    if !at.starts_with(&root) {
        return Err(failed());
    }
    let text = fs::read_to_string(at).map_err(|_| failed())?;
    parse(&text, key).map(Option::unwrap_or_default).map_err(|error| {
        tracing::debug!(path, error, "file of variables");
        failed()
    })
}

fn parse(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        let bad = |what: &str| format!("invalid environment variable format at line {number}: {what}");
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or_else(|| bad("missing '='"))?;
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return Err(bad("empty variable name"));
        }
        if name.ends_with([' ', '\t']) {
            return Err(bad("whitespace before '=' is not allowed"));
        }
        if rest.starts_with([' ', '\t']) {
            // As a shell has it: the variable is empty, and what follows is something else.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let mut rest = rest.strip_prefix('\'').ok_or_else(|| bad("value must be enclosed in single quotes"))?;
        let mut value = String::new();
        loop {
            if let Some((end, after)) = rest.split_once('\'') {
                value.push_str(end);
                let after = after.trim_start_matches([' ', '\t']);
                if !after.is_empty() && !after.starts_with('#') {
                    return Err(bad("unexpected content after closing quote"));
                }
                break;
            }
            value.push_str(rest);
            value.push('\n');
            rest = lines.next().ok_or_else(|| bad("unclosed single quote"))?.1;
        }
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes() {
        let text = "# comment\n\n A='one' # first\nB='two\nlines'\nC= 'x'\nD='$A \\n'\n";
        let of = |key: &str| parse(text, key).unwrap();
        assert_eq!(of("A").as_deref(), Some("one"));
        assert_eq!(of("B").as_deref(), Some("two\nlines"));
        assert_eq!(of("C").as_deref(), Some(""));
        assert_eq!(of("D").as_deref(), Some("$A \\n"), "taken as it is");
        assert_eq!(of("E"), None);
        for bad in ["A", "A = 'x'", "='x'", "A=x", "A=\"x\"", "A='x", "A='x' y"] {
            assert!(parse(bad, "A").is_err(), "{bad}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_volume() {
        let root = std::env::temp_dir().join(format!("skeg-env-file-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("vars"), "A='1'\n").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("out")).unwrap();
        assert_eq!(value(&root, "vars", "A").as_deref(), Ok("1"));
        assert!(value(&root, "out", "A").is_err() && value(&root, "../vars", "A").is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
