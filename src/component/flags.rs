//! The command line of a component: what its flags can mean here, and reading them as Go's pflag does. Which flags there
//! are is the component's own table. Does not act on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};

/// What a flag of upstream's does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// What it does upstream.
    Honoured,
    /// It tunes how upstream's server works inside, which this one has no counterpart of: accepted, and the log says so.
    Tunes,
    /// Only what upstream does without it; another value is an error. Alternatives are separated by `|`.
    Only(&'static str),
}
pub use Use::{Honoured, Only, Tunes};

/// Name, whether it can stand without a value, and what it does.
pub type Flag = (&'static str, bool, Use);

pub const BOOL: bool = true;
pub const VALUE: bool = false;

/// All flags of a component, in groups that it may share. What upstream has and is not here is an unknown flag, and so an error.
pub type Flags = &'static [&'static [Flag]];

/// What every component has.
#[rustfmt::skip]
pub const COMMON: &[Flag] = &[
    ("bind-address", VALUE, Honoured),
    ("feature-gates", VALUE, Honoured),
    ("help", BOOL, Honoured),
    ("log-flush-frequency", VALUE, Tunes),
    ("logging-format", VALUE, Only("text")),
    ("profiling", BOOL, Tunes),
    ("secure-port", VALUE, Honoured),
    ("tls-cert-file", VALUE, Honoured),
    ("tls-min-version", VALUE, Only("VersionTLS12")),
    ("tls-private-key-file", VALUE, Honoured),
    ("v", VALUE, Honoured),
    ("version", BOOL, Honoured),
];

/// What was given: each value of each flag, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    flags: Flags,
    values: BTreeMap<&'static str, Vec<String>>,
}

/// Reads the command line of `component`. The message of an error is for whoever wrote it.
pub fn parse(component: &str, flags: Flags, arguments: &[String]) -> anyhow::Result<Given> {
    let mut given = Given { flags, values: BTreeMap::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let named = argument.strip_prefix("--").or_else(|| match argument.as_str() {
            "-h" => Some("help"),
            // The only flag with a short form that takes a value.
            _ => argument.strip_prefix("-v").map(|_| &argument[1..]),
        });
        let Some(text) = named else {
            bail!("{component:?} does not take any arguments, got [{argument:?}]");
        };
        let (name, mut value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None if argument.starts_with("-v") && text.len() > 1 => ("v".to_owned(), Some(text[1..].to_owned())),
            None => (text.to_owned(), None),
        };
        let name = name.replace('_', "-");
        let Some((name, alone, meaning)) = flags.iter().copied().flatten().find(|(known, ..)| *known == name).copied()
        else {
            bail!("unknown flag: --{name}");
        };
        if value.is_none() {
            value = if alone { Some("true".to_owned()) } else { rest.next().cloned() };
        }
        let Some(value) = value else { bail!("flag needs an argument: --{name}") };
        if alone && name != "version" {
            value.parse::<bool>().with_context(|| format!("invalid argument {value:?} for \"--{name}\" flag"))?;
        }
        if let Only(allowed) = meaning
            && !allowed.split('|').any(|one| one == value)
        {
            let wanted = allowed.replace('|', " or ");
            bail!("--{name}={value} is not supported here, only {wanted}");
        }
        given.values.entry(name).or_default().push(value);
    }
    Ok(given)
}

impl Given {
    /// The flags that were given and change nothing here.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        let tunes = |(name, _, meaning): &&Flag| *meaning == Tunes && self.values.contains_key(name);
        self.flags.iter().copied().flatten().filter(tunes).map(|(name, ..)| *name)
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The last value; an empty one is none, as upstream takes it.
    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(self.flags.iter().copied().flatten().any(|(known, ..)| *known == name), "{name}");
        self.values.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// Each value of a flag that is given once for each.
    pub fn each(&self, name: &str) -> Vec<String> {
        self.values.get(name).cloned().unwrap_or_default()
    }

    /// The values of a list, separated by commas and over all times that it was given.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.get(name).into_iter().flatten().flat_map(|value| value.split(','));
        values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    /// `key=value` pairs of a map; a key alone is true.
    pub fn map(&self, name: &str) -> Vec<(String, String)> {
        let pair = |one: String| match one.split_once('=') {
            Some((key, value)) => (key.trim().to_owned(), value.trim().to_owned()),
            None => (one, "true".to_owned()),
        };
        self.list(name).into_iter().map(pair).collect()
    }

    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.text(name).map_or(default, |value| value == "true")
    }

    pub fn number<T: FromStr>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let parse = |value: &str| value.parse().ok().with_context(|| format!("--{name}={value} is not a number"));
        self.text(name).map(parse).transpose()
    }

    pub fn address(&self, name: &str) -> anyhow::Result<Option<IpAddr>> {
        let parse = |value: &str| value.parse().ok().with_context(|| format!("--{name}={value} is not an IP address"));
        self.text(name).map(parse).transpose()
    }

    pub fn duration(&self, name: &str) -> anyhow::Result<Option<Duration>> {
        let parse = |value: &str| go_duration(value).with_context(|| format!("--{name}={value} is not a duration"));
        self.text(name).map(parse).transpose()
    }
}

/// Go's durations: `1h30m`, `500ms`, `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let scale = match &tail[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = &tail[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const OWN: &[Flag] = &[
        ("allow-privileged", BOOL, Honoured), ("anonymous-auth", BOOL, Honoured), ("authorization-mode", VALUE, Honoured),
        ("event-ttl", VALUE, Honoured),
        ("runtime-config", VALUE, Honoured), ("service-account-issuer", VALUE, Honoured),
        ("storage-backend", VALUE, Only("etcd3")), ("watch-cache", BOOL, Tunes),
    ];

    fn read(line: &str) -> anyhow::Result<Given> {
        parse("kube-apiserver", &[COMMON, OWN], &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let given = read(
            "--secure-port=7443 --bind-address 127.0.0.1 --allow-privileged --anonymous-auth=false -v=4 \
             --authorization-mode=Node,RBAC --authorization-mode=Webhook --service_account_issuer=https://a \
             --service-account-issuer=https://b --runtime-config=api/all=false,apps/v1 --event-ttl=1h30m",
        )
        .unwrap();
        assert_eq!(given.number::<u16>("secure-port").unwrap(), Some(7443));
        assert_eq!(given.address("bind-address").unwrap(), Some(IpAddr::from([127, 0, 0, 1])));
        assert!(given.flag("allow-privileged", false) && !given.flag("anonymous-auth", true));
        assert_eq!(given.text("v"), Some("4"));
        assert_eq!(given.list("authorization-mode"), ["Node", "RBAC", "Webhook"]);
        assert_eq!(given.each("service-account-issuer"), ["https://a", "https://b"]);
        let config = [("api/all".to_owned(), "false".to_owned()), ("apps/v1".to_owned(), "true".to_owned())];
        assert_eq!(given.map("runtime-config"), config);
        assert_eq!(given.duration("event-ttl").unwrap(), Some(Duration::from_secs(5400)));
        assert_eq!(read("-v 2").unwrap().text("v"), Some("2"));
        assert_eq!(read("-v9").unwrap().text("v"), Some("9"));
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        for (line, wanted) in [
            ("--no-such-flag=1", "unknown flag: --no-such-flag"),
            ("--audit-log-path=/x", "unknown flag: --audit-log-path"),
            ("--secure-port", "flag needs an argument: --secure-port"),
            ("--allow-privileged=maybe", "invalid argument \"maybe\" for \"--allow-privileged\" flag"),
            ("--storage-backend=etcd2", "--storage-backend=etcd2 is not supported here, only etcd3"),
            ("serve", "\"kube-apiserver\" does not take any arguments, got [\"serve\"]"),
        ] {
            assert_eq!(read(line).unwrap_err().to_string(), wanted);
        }
        assert!(read("--event-ttl=soon").unwrap().duration("event-ttl").is_err());
    }

    #[test]
    fn what_has_no_effect_is_known() {
        let given = read("--profiling=false --secure-port=1 --watch-cache").unwrap();
        assert_eq!(given.without_effect().collect::<Vec<_>>(), ["profiling", "watch-cache"]);
    }

    #[test]
    fn durations_are_gos() {
        for (text, wanted) in [("90s", Some(90_000)), ("1m0.5s", Some(60_500)), ("10ms", Some(10)), ("0", Some(0))] {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), wanted, "{text}");
        }
        for text in ["", "5", "1x", "h"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
