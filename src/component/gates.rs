//! Feature gates. Nothing here can be switched: a gate is taken when it asks for what upstream does by default, which is
//! what this server does, and refused otherwise. `gates.txt` has upstream's gates and their defaults.

use anyhow::bail;

const GATES: &str = include_str!("gates.txt");

/// Checks `Name=bool` pairs, each with an optional component (`kube:Name=true`).
pub fn check(wanted: &[(String, String)]) -> anyhow::Result<()> {
    for (name, value) in wanted {
        let name = name.strip_prefix("kube:").unwrap_or(name);
        let Ok(value) = value.parse::<bool>() else {
            bail!("invalid value of {name}: {value}, err: want true or false");
        };
        let known = GATES.lines().filter_map(|line| line.split_once(' ')).find(|(gate, _)| *gate == name);
        let Some((_, default)) = known else { bail!("unrecognized feature gate: {name}") };
        if default != value.to_string() {
            bail!(
                "feature gate {name}={value} is not supported by this server, which behaves as with {name}={default}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_defaults_are_taken() {
        let gate = |name: &str, value: &str| check(&[(name.to_owned(), value.to_owned())]).map_err(|e| e.to_string());
        assert_eq!(gate("AllAlpha", "false"), Ok(()));
        assert_eq!(gate("kube:APIServerIdentity", "true"), Ok(()));
        assert_eq!(gate("NoSuchGate", "true"), Err("unrecognized feature gate: NoSuchGate".into()));
        assert!(gate("AllAlpha", "true").is_err() && gate("AllAlpha", "yes").is_err());
    }
}
