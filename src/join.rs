//! How a machine with a join token becomes a node: it checks the server's CA against the token, asks for a client
//! certificate in the node's name, and with that for a serving certificate (upstream: kubelet TLS bootstrapping).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{ObjectMeta, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use skeg_kubelet::ServerTls;
use skeg_server::pki::files;
use skeg_server::pki::join::JoinToken;
use skeg_server::pki::renewal::Validity;

use crate::node::Settings;
use crate::rotation::{self, Which};

/// How long the server may take to sign.
const SIGNING: Duration = Duration::from_secs(60);
/// A server that is just starting is waited for.
const SERVER_STARTS: Duration = Duration::from_secs(60);

pub struct Joined {
    /// The node's own, with the certificate that it has now.
    pub client: kube::Client,
    pub server_tls: ServerTls,
    pub identity: Identity,
}

/// Who a node is to its server, and where its certificates lie.
pub struct Identity {
    server: String,
    ca: String,
    node: String,
    sans: Vec<SanType>,
    files: Files,
}

struct Files {
    ca: PathBuf,
    client: (PathBuf, PathBuf),
    serving: (PathBuf, PathBuf),
}

impl Files {
    fn under(dir: &Path) -> Self {
        let pair = |name: &str| (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        Self { ca: dir.join("ca.crt"), client: pair("kubelet-client"), serving: pair("kubelet-serving") }
    }
}

/// Returns the node's own client and serving certificate, which are kept for the next start.
pub async fn join(server: &str, token: &str, settings: &Settings) -> anyhow::Result<Joined> {
    let token = JoinToken::parse(token).context("the join token is not of the form that `skeg token` prints")?;
    let dir = settings.args.data_dir.join("pki");
    files::create_dir(&dir)?;
    let files = Files::under(&dir);
    let ca = authority(server, &token, &files.ca).await?;
    let sans = vec![SanType::DnsName(settings.name.clone().try_into()?), SanType::IpAddress(settings.ip)];
    let node = format!("system:node:{}", settings.name);
    let identity = Identity { server: server.to_owned(), ca, node, sans, files };
    let (known, serving) = identity.validity();
    let now = x509_parser::time::ASN1Time::now().timestamp();
    // Halfway between when eager and patient nodes renew.
    let wanted = rotation::due(known, serving, 0.5, now);
    if wanted.contains(&Which::Client) {
        let user = kube::config::AuthInfo { token: Some(token.token.to_string().into()), ..Default::default() };
        let client = connect(server, &identity.ca, user).await?;
        identity.ask(Which::Client, &client).await?;
    }
    let client = identity.connect().await?;
    if wanted.contains(&Which::Serving) {
        identity.ask(Which::Serving, &client).await?;
    }
    let Files { ca, serving: (certificate, key), .. } = &identity.files;
    let server_tls = ServerTls { certificate: certificate.clone(), key: key.clone(), client_ca: ca.clone() };
    Ok(Joined { client, server_tls, identity })
}

impl Identity {
    /// The lives of the client certificate and of the serving one; `None` for a pair that is not there or cannot be read.
    pub fn validity(&self) -> (Option<Validity>, Option<Validity>) {
        let of = |(certificate, key): &(PathBuf, PathBuf)| {
            let pem = std::fs::read_to_string(certificate).ok().filter(|_| key.exists())?;
            Validity::of_pem(&pem)
        };
        (of(&self.files.client), of(&self.files.serving))
    }

    /// A client with the certificate that lies on disk.
    pub async fn connect(&self) -> anyhow::Result<kube::Client> {
        let (certificate, key) = &self.files.client;
        let user = kube::config::AuthInfo {
            client_certificate: Some(certificate.display().to_string()),
            client_key: Some(key.display().to_string()),
            ..Default::default()
        };
        connect(&self.server, &self.ca, user).await
    }

    /// Asks through `client` for a new certificate, and writes it.
    pub async fn ask(&self, which: Which, client: &kube::Client) -> anyhow::Result<()> {
        let (signer, usage, sans, files) = match which {
            Which::Client => {
                ("kubernetes.io/kube-apiserver-client-kubelet", "client auth", Vec::new(), &self.files.client)
            }
            Which::Serving => ("kubernetes.io/kubelet-serving", "server auth", self.sans.clone(), &self.files.serving),
        };
        let what = if which == Which::Client { "client" } else { "serving" };
        let request = Request { signer, usage, name: &self.node, sans };
        sign(client, &request, files).await.with_context(|| format!("the server gave no {what} certificate"))
    }
}

/// The CA that the server shows, if the token vouches for it.
async fn authority(server: &str, token: &JoinToken, kept: &Path) -> anyhow::Result<String> {
    if let Some(pem) = files::read(kept)?
        && token.trusts(&pem)
    {
        return Ok(pem);
    }
    let unverified =
        reqwest::Client::builder().danger_accept_invalid_certs(true).timeout(Duration::from_secs(10)).build()?;
    let begun = std::time::Instant::now();
    let pem = loop {
        let answer =
            unverified.get(format!("{server}/cacerts")).send().await.and_then(reqwest::Response::error_for_status);
        match answer {
            Ok(answer) => break answer.text().await?,
            Err(_) if begun.elapsed() < SERVER_STARTS => tokio::time::sleep(Duration::from_millis(300)).await,
            Err(error) => return Err(error).with_context(|| format!("the server {server} does not answer")),
        }
    };
    if !token.trusts(&pem) {
        bail!("the CA of {server} is not the one that the join token names: is this the right server?");
    }
    files::write(kept, &pem, 0o644, false)?;
    Ok(pem)
}

async fn connect(server: &str, ca: &str, user: kube::config::AuthInfo) -> anyhow::Result<kube::Client> {
    use base64::Engine;
    let cluster = kube::config::Cluster {
        server: Some(server.to_owned()),
        certificate_authority_data: Some(base64::engine::general_purpose::STANDARD.encode(ca)),
        ..Default::default()
    };
    let kubeconfig = kube::config::Kubeconfig {
        clusters: vec![kube::config::NamedCluster {
            name: "skeg".into(),
            cluster: Some(cluster),
            ..Default::default()
        }],
        auth_infos: vec![kube::config::NamedAuthInfo {
            name: "node".into(),
            auth_info: Some(user),
            ..Default::default()
        }],
        contexts: vec![kube::config::NamedContext {
            name: "skeg".into(),
            context: Some(kube::config::Context {
                cluster: "skeg".into(),
                user: Some("node".into()),
                ..Default::default()
            }),
            ..Default::default()
        }],
        current_context: Some("skeg".into()),
        ..Default::default()
    };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

struct Request<'a> {
    signer: &'a str,
    usage: &'a str,
    name: &'a str,
    sans: Vec<SanType>,
}

/// Asks for a certificate, waits for it and writes the pair, key first.
async fn sign(
    client: &kube::Client,
    request: &Request<'_>,
    (certificate, key_file): &(PathBuf, PathBuf),
) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, request.name);
    params.subject_alt_names.clone_from(&request.sans);
    let pem = params.serialize_request(&key)?.pem()?;
    let wanted = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: request.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), request.usage.to_owned()]),
            ..Default::default()
        },
        status: None,
    };
    let requests: kube::Api<CertificateSigningRequest> = kube::Api::all(client.clone());
    let made = requests.create(&PostParams::default(), &wanted).await?;
    let name = made.metadata.name.unwrap_or_default();
    let signed = |found: Option<&CertificateSigningRequest>| {
        found.and_then(|r| r.status.as_ref()).is_some_and(|s| {
            s.certificate.is_some() || s.conditions.iter().flatten().any(|c| c.type_ == "Denied" || c.type_ == "Failed")
        })
    };
    let wait = kube::runtime::wait::await_condition(requests, &name, signed);
    let found = tokio::time::timeout(SIGNING, wait).await.with_context(|| {
        format!("the certificate signing request {name} is not signed: kubectl describe csr {name} may tell why")
    })??;
    let Some(issued) = found.and_then(|r| r.status).and_then(|s| s.certificate) else {
        bail!("the certificate signing request {name} was denied");
    };
    files::write(key_file, &key.serialize_pem(), 0o600, true)?;
    files::write(certificate, &String::from_utf8(issued.0)?, 0o644, false)?;
    Ok(())
}
