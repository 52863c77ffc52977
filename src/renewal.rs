//! The server's own certificates over time: made anew before their end, and handed to what uses them, without a restart.
//!
//! ```text
//! every hour ─> pki (renews what is due) ─┬─> the listener's configuration
//!                                         ├─> `Trust`: what kubelets and aggregated APIs are shown
//!                                         └─> the administrator's kubeconfig
//! ```
//! The node server of this process reads its files itself. Controllers, scheduler and node need no certificate here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use skeg_server::pki::{Pki, PkiOptions, files, kubeconfig};
use skeg_server::serving::tls::{self, LiveConfig};
use skeg_server::trust::Trust;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_secs(3600);

/// What follows the certificates.
pub struct Renewal {
    pub pki: PkiOptions,
    pub listener: LiveConfig,
    pub trust: watch::Sender<Trust>,
    /// Where the administrator's kubeconfig is, and the address in it.
    pub kubeconfig: (PathBuf, String),
}

impl Renewal {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.look(OffsetDateTime::now_utc()).await {
                tracing::warn!("the cluster's certificates cannot be renewed: {error:#}");
            }
        }
    }

    /// Renews what is due and hands it on.
    pub async fn look(&self, now: OffsetDateTime) -> anyhow::Result<()> {
        let known = self.trust.borrow().cluster_ca.clone();
        // Without it a new one would be made, which nobody trusts.
        anyhow::ensure!(
            files::read(&self.pki.dir.join("ca.crt"))? == known,
            "ca.crt is not what this server began with"
        );
        let options = self.pki.clone();
        let pki = tokio::task::spawn_blocking(move || Pki::load_or_create_at(&options, now)).await??;
        self.listener.store(Arc::new(tls::server_config(&pki.serving, &[pki.ca.certificate_der()])?));
        let trust = Trust::of(&pki);
        self.trust.send_if_modified(|known| {
            let changed = *known != trust;
            *known = trust;
            changed
        });
        self.write_kubeconfig(&pki)
    }

    /// The administrator's kubeconfig; left alone where it says the same.
    pub fn write_kubeconfig(&self, pki: &Pki) -> anyhow::Result<()> {
        let (path, url) = &self.kubeconfig;
        let text = kubeconfig::kubeconfig("skeg", url, &pki.ca.certificate_pem, &pki.admin);
        kubeconfig::write(path, &text).context("cannot write the kubeconfig")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_renewed_reaches_everything_that_uses_it() {
        let dir = std::env::temp_dir().join(format!("skeg-renewal-{}", std::process::id()));
        let options = PkiOptions {
            dir: dir.join("pki"),
            node_name: "a".into(),
            sans: Vec::new(),
            addresses: Vec::new(),
            service_addresses: Vec::new(),
            cluster_domain: "cluster.local".into(),
        };
        let pki = Pki::load_or_create(&options).unwrap();
        let (trust, mut seen) = watch::channel(Trust::of(&pki));
        let listener = tls::live_config(&pki.serving, &[]).unwrap();
        let kubeconfig = (dir.join("kubeconfig"), "https://a:6443".to_owned());
        let renewal = Renewal { pki: options, listener: listener.clone(), trust, kubeconfig };
        renewal.write_kubeconfig(&pki).unwrap();
        let text = || std::fs::read_to_string(dir.join("kubeconfig")).unwrap();
        let (before, listened) = (text(), listener.load_full());

        renewal.look(OffsetDateTime::now_utc()).await.unwrap();
        assert!(!seen.has_changed().unwrap() && text() == before, "nothing is due");
        renewal.look(OffsetDateTime::now_utc() + time::Duration::days(300)).await.unwrap();
        assert!(seen.has_changed().unwrap() && text() != before);
        assert!(!Arc::ptr_eq(&listener.load_full(), &listened));
        let new = seen.borrow_and_update().clone();
        assert_ne!(new.proxy_client, Some(pki.front_proxy_client));
        assert_ne!(new.kubelets.client, Some(pki.apiserver_kubelet_client));
        assert_eq!(new.client_ca, Some(pki.ca.certificate_pem));

        // Somebody took the data directory away: the running server goes on as it was.
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(renewal.look(OffsetDateTime::now_utc() + time::Duration::days(600)).await.is_err());
        assert!(!seen.has_changed().unwrap() && !dir.exists());
    }
}
