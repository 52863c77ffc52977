//! `skeg kube-apiserver`: the API server alone, with kube-apiserver's flags, so that it can stand where that one stands.
//! Without `--etcd-servers` it keeps everything in the embedded engine.
//!
//! ```text
//! flags ─> options (files read, values checked) ─> the server, its listener, and a task that follows files of certificates
//! ```

mod flags;
mod options;
mod runtime_config;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use skeg_server::pki::{self, Issued};
use skeg_server::serving::tls::{self, LiveConfig};
use skeg_server::trust::Trust;
use skeg_server::{serving, standard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::options::Options;
use crate::component::flags::Given;
use crate::component::{self, CertificateFiles};

/// The name under which the program is this component and nothing else.
pub const NAME: &str = "kube-apiserver";
/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// The component.
pub const COMPONENT: component::Component = component::Component {
    name: NAME,
    about: "Serves the Kubernetes API, as kube-apiserver does.",
    flags: flags::FLAGS,
    run: |given, shutdown| Box::pin(async move { serve(options::read(&given)?, given, shutdown).await }),
};

async fn serve(options: Options, given: Given, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = SocketAddr::new(options.bind, options.port);
    let listener = serving::listen(address).await;
    let listener =
        listener.with_context(|| format!("failed to listen on {address}: --secure-port chooses another port"))?;
    let store = crate::datastore::open(&options.datastore, options.data_dir.join("store")).await?.store;
    // What is asked to stop first only stops taking requests after the delay.
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (trust, trusted) = watch::channel(options.trust);
    let server = standard::start(store.clone(), trusted, options.server, &tasks, &stop).await;
    let server = server.context("cannot start the API server")?;
    let listened = tls::live_config(&options.serving, &hints(&trust.borrow()))?;
    tasks.spawn(serving::serve(listener, listened.clone(), server.service(), options.connections, stop.clone()));
    let (files, data_dir) = (options.serving_files, options.data_dir);
    tasks.spawn(Followed { given, data_dir, files, serving: options.serving, listened, trust }.run(stop.clone()));
    tracing::info!(%address, "serving");
    shutdown.cancelled().await;
    tokio::time::sleep(options.shutdown_delay).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(12), tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    drop((server, store));
    Ok(())
}

/// The authorities that clients are told of.
fn hints(trust: &Trust) -> Vec<CertificateDer<'static>> {
    trust.client_ca.as_deref().map(pki::certificates).unwrap_or_default()
}

/// What is read again while the server runs: the certificates and authorities that flags name (upstream:
/// apiserver/pkg/server/dynamiccertificates). A file that cannot be used leaves in place what it replaces.
struct Followed {
    given: Given,
    data_dir: PathBuf,
    /// Of the serving certificate, unless it was made here.
    files: Option<CertificateFiles>,
    serving: Issued,
    listened: LiveConfig,
    trust: watch::Sender<Trust>,
}

impl Followed {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let trusts = match options::trust(&self.given, &self.data_dir) {
            Ok(new) => self.trust.send_if_modified(|known| {
                let changed = *known != new;
                *known = new;
                changed
            }),
            Err(error) => {
                tracing::warn!("certificates cannot be read again: {error:#}");
                false
            }
        };
        let serving = match self.files.as_ref().map(CertificateFiles::read) {
            Some(Ok(new)) => new,
            None => self.serving.clone(),
            Some(Err(error)) => {
                // Half of the pair may be there already.
                tracing::warn!("the serving certificate cannot be read again: {error:#}");
                self.serving.clone()
            }
        };
        if !trusts && serving == self.serving {
            return;
        }
        match tls::server_config(&serving, &hints(&self.trust.borrow())) {
            Ok(config) => {
                self.listened.store(Arc::new(config));
                self.serving = serving;
                tracing::info!("serving with new certificates");
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the new certificate is not usable")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use skeg_server::pki::{Authority, Profile};

    fn write(dir: &Path, name: &str, issued: &Issued) {
        std::fs::write(dir.join(format!("{name}.crt")), &issued.certificate_pem).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), &issued.key_pem).unwrap();
    }

    /// The certificate that is served.
    fn served(followed: &Followed) -> String {
        followed.serving.certificate_pem.clone()
    }

    #[test]
    fn files_that_were_replaced_are_taken_up_and_bad_ones_are_not() {
        let dir = std::env::temp_dir().join(format!("skeg-followed-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ca, other) = (Authority::create("ca").unwrap(), Authority::create("ca").unwrap());
        let names = ["localhost".to_owned()];
        let serving = || ca.issue(&Profile::server("a", &names, &[])).unwrap();
        let client = || ca.issue(&Profile::client("a", &[])).unwrap();
        write(&dir, "serving", &serving());
        for name in ["proxy", "kubelet"] {
            write(&dir, name, &client());
        }
        std::fs::write(dir.join("ca.crt"), &ca.certificate_pem).unwrap();
        let at = dir.display();
        let line = format!(
            "--tls-cert-file={at}/serving.crt --tls-private-key-file={at}/serving.key --client-ca-file={at}/ca.crt \
             --proxy-client-cert-file={at}/proxy.crt --proxy-client-key-file={at}/proxy.key \
             --kubelet-client-certificate={at}/kubelet.crt --kubelet-client-key={at}/kubelet.key \
             --requestheader-client-ca-file={at}/ca.crt --requestheader-username-headers=X-Remote-User"
        );
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let given = component::flags::parse(NAME, flags::FLAGS, &line).unwrap();
        let files = CertificateFiles::of(&given, "tls-cert-file", "tls-private-key-file").unwrap();
        let serving_now = files.as_ref().unwrap().read().unwrap();
        let (trust, mut seen) = watch::channel(options::trust(&given, &dir).unwrap());
        let listened = tls::live_config(&serving_now, &hints(&trust.borrow())).unwrap();
        let first = listened.load_full();
        let mut followed = Followed { given, data_dir: dir.clone(), files, serving: serving_now, listened, trust };

        followed.look();
        assert!(Arc::ptr_eq(&first, &followed.listened.load_full()) && !seen.has_changed().unwrap(), "nothing changed");
        let new = serving();
        write(&dir, "serving", &new);
        followed.look();
        assert_eq!(served(&followed), new.certificate_pem);
        assert!(!Arc::ptr_eq(&first, &followed.listened.load_full()) && !seen.has_changed().unwrap());
        // A certificate without its key, half a file, no file: the last good pair stays.
        for text in [serving().certificate_pem.as_str(), "-----BEGIN CERTIFICATE-----\nMIIB", ""] {
            std::fs::write(dir.join("serving.crt"), text).unwrap();
            followed.look();
            assert_eq!(served(&followed), new.certificate_pem, "{text}");
        }
        write(&dir, "serving", &new);
        for name in ["proxy", "kubelet"] {
            write(&dir, name, &client());
            followed.look();
            assert!(seen.has_changed().unwrap(), "{name}");
            seen.mark_unchanged();
        }
        let before = followed.listened.load_full();
        std::fs::write(dir.join("ca.crt"), &other.certificate_pem).unwrap();
        followed.look();
        let known = seen.borrow_and_update().clone();
        assert_eq!(known.client_ca.as_ref(), Some(&other.certificate_pem));
        assert_eq!(known.front_proxy.unwrap().ca, other.certificate_pem);
        assert!(!Arc::ptr_eq(&before, &followed.listened.load_full()), "clients are told of the new authority");
        std::fs::write(dir.join("ca.crt"), "nothing").unwrap();
        followed.look();
        assert_eq!(seen.borrow().client_ca.as_ref(), Some(&other.certificate_pem));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
