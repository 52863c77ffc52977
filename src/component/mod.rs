//! What the components have in common that run alone under upstream's names: their command lines, the log, `--version` and
//! `--help`, and what controllers and scheduler need of the API server and of each other.

pub mod flags;
pub mod gates;
mod health;
mod loops;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use anyhow::{Context, bail, ensure};
use skeg_server::pki::{self, Issued};
use tokio_util::sync::CancellationToken;

use self::flags::{Flags, Given, Use};
pub use self::health::serve_health;
pub use self::loops::{LOOPS, client_config, election};

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// A component of a cluster under the name that upstream gives it.
pub struct Component {
    pub name: &'static str,
    pub about: &'static str,
    pub flags: Flags,
    /// Runs until the signal.
    pub run: fn(Given, CancellationToken) -> Running,
}

impl Component {
    /// Whether the program was started by this component's name, and so is this component and nothing else.
    pub fn is_named(&self, program: Option<&OsStr>) -> bool {
        program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == self.name)
    }

    /// Reads the flags; an error is for whoever wrote them.
    pub fn parse(&'static self, arguments: &[String]) -> anyhow::Result<Invocation> {
        Ok(Invocation { component: self, given: flags::parse(self.name, self.flags, arguments)? })
    }

    fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage:\n  {} [flags]\n\nFlags:", self.about, self.name);
        let mut flags: Vec<_> = self.flags.iter().copied().flatten().collect();
        flags.sort_unstable_by_key(|(name, ..)| *name);
        for (name, _, meaning) in flags {
            let note = match meaning {
                Use::Honoured => String::new(),
                Use::Tunes => "  (has no effect)".to_owned(),
                Use::Only(value) => format!("  (only {value})"),
            };
            text.push_str(&format!("\n  --{name}{note}"));
        }
        text
    }
}

/// A component and its command line, read.
pub struct Invocation {
    component: &'static Component,
    given: Given,
}

impl Invocation {
    /// What the log shows, by `--v`.
    pub fn log_filter(&self) -> &'static str {
        match self.given.text("v").and_then(|level| level.parse::<i64>().ok()).unwrap_or(0) {
            ..2 => {
                "warn,skeg=info,skeg_server=info,skeg_storage=info,skeg_controllers=info,skeg_scheduler=info,kube_runtime=error"
            }
            2..4 => "info",
            4..8 => "info,skeg=debug,skeg_server=debug,skeg_storage=debug,skeg_controllers=debug,skeg_scheduler=debug",
            8.. => "debug,skeg=trace,skeg_server=trace,skeg_storage=trace,skeg_controllers=trace,skeg_scheduler=trace",
        }
    }

    /// Runs until the signal; answers `--version` and `--help` at once.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let given = self.given;
        if given.flag("help", false) {
            println!("{}", self.component.help());
            return Ok(());
        }
        if let Some(version) = given.text("version").filter(|version| *version != "false") {
            ensure!(matches!(version, "true" | "raw"), "invalid argument {version:?} for \"--version\" flag");
            println!("Kubernetes {}", skeg_server::GIT_VERSION);
            return Ok(());
        }
        for name in given.without_effect() {
            tracing::info!("--{name} tunes what {} has no counterpart of here: it has no effect", self.component.name);
        }
        (self.component.run)(given, shutdown).await
    }
}

/// A certificate and its key as two files.
pub struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl CertificateFiles {
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        CertificateFiles { certificate, key }
    }

    /// Both, when they are given; one alone is an error.
    pub fn of(given: &Given, certificate: &str, key: &str) -> anyhow::Result<Option<Self>> {
        match (given.path(certificate), given.path(key)) {
            (Some(certificate), Some(key)) => Ok(Some(CertificateFiles { certificate, key })),
            (None, None) => Ok(None),
            _ => bail!("--{certificate} and --{key} belong together"),
        }
    }

    pub fn read(&self) -> anyhow::Result<Issued> {
        let issued = Issued { certificate_pem: text(&self.certificate)?, key_pem: text(&self.key)? };
        ensure!(
            !pki::certificates(&issued.certificate_pem).is_empty(),
            "no certificate in {}",
            self.certificate.display()
        );
        ensure!(pki::private_key(&issued.key_pem).is_some(), "no private key in {}", self.key.display());
        Ok(issued)
    }
}

/// What a file holds.
pub fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
