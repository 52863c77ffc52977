//! Flags as what the server is made of: files are read and values checked here, so that what is wrong with a command line
//! is said before anything starts.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde_json::Value;
use skeg_server::authn::request_header::RemoteHeaders;
use skeg_server::authz::webhook::{Webhook, WebhookOptions};
use skeg_server::bootstrap::edge::PLUGINS;
use skeg_server::bootstrap::{EdgeOptions, Mode};
use skeg_server::pki::{self, Authority, Issued, Profile, files};
use skeg_server::server::Limits;
use skeg_server::trust::{FrontProxy, KubeletTrust, Trust};
use skeg_server::{serving, standard};

use super::runtime_config;
use crate::component::flags::Given;
use crate::component::{CertificateFiles, gates, text};
use crate::datastore::DatastoreArgs;

pub struct Options {
    pub bind: IpAddr,
    pub port: u16,
    pub data_dir: PathBuf,
    pub datastore: DatastoreArgs,
    pub trust: Trust,
    pub server: standard::Options,
    pub serving: Issued,
    /// Where the serving certificate comes from, unless it was made here.
    pub serving_files: Option<CertificateFiles>,
    pub connections: serving::Limits,
    pub shutdown_delay: Duration,
}

/// The text of a file of authorities, which must have one.
fn bundle(given: &Given, name: &str) -> anyhow::Result<Option<String>> {
    let Some(path) = given.path(name) else { return Ok(None) };
    let pem = text(&path)?;
    ensure!(!pki::certificates(&pem).is_empty(), "--{name}: no certificate in {}", path.display());
    Ok(Some(pem))
}

pub fn read(given: &Given) -> anyhow::Result<Options> {
    gates::check(&given.map("feature-gates"))?;
    let bind = given.address("bind-address")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port: u16 = given.number("secure-port")?.unwrap_or(6443);
    ensure!(port != 0, "--secure-port 0 must be between 1 and 65535, inclusive. It cannot be turned off with 0");
    let data_dir = given.path("data-dir").unwrap_or_else(|| PathBuf::from("/var/lib/skeg/kube-apiserver"));
    let edge = edge(given, bind, port)?;
    let serving_files = CertificateFiles::of(given, "tls-cert-file", "tls-private-key-file")?;
    let serving = match &serving_files {
        Some(files) => files.read()?,
        None => own_certificate(given, &edge)?,
    };
    let mut limits = Limits::default();
    read_limits(given, &mut limits)?;
    let mut connections = serving::Limits::default();
    if let Some(streams) = given.number::<u32>("http2-max-streams-per-connection")?.filter(|streams| *streams > 0) {
        connections.streams = streams;
    }
    Ok(Options {
        bind,
        port,
        datastore: datastore(given)?,
        trust: trust(given, &data_dir)?,
        server: standard::Options {
            edge,
            limits,
            event_ttl: given.duration("event-ttl")?.unwrap_or(Duration::from_secs(3600)),
            resources: runtime_config::select(skeg_catalog::all(), &given.map("runtime-config"))?,
        },
        serving,
        serving_files,
        connections,
        shutdown_delay: given.duration("shutdown-delay-duration")?.unwrap_or_default(),
        data_dir,
    })
}

fn datastore(given: &Given) -> anyhow::Result<DatastoreArgs> {
    Ok(DatastoreArgs {
        etcd_servers: given.list("etcd-servers"),
        etcd_cafile: given.path("etcd-cafile"),
        etcd_certfile: given.path("etcd-certfile"),
        etcd_keyfile: given.path("etcd-keyfile"),
        etcd_prefix: given.text("etcd-prefix").unwrap_or("/registry").to_owned(),
        compaction: given.duration("etcd-compaction-interval")?.unwrap_or(Duration::from_secs(300)),
    })
}

fn read_limits(given: &Given, limits: &mut Limits) -> anyhow::Result<()> {
    // 0 is no limit.
    let at_once = |name: &str, default: usize| -> anyhow::Result<usize> {
        let limit = given.number(name)?.unwrap_or(default);
        Ok(if limit == 0 { usize::MAX >> 4 } else { limit })
    };
    limits.read_in_flight = at_once("max-requests-inflight", limits.read_in_flight)?;
    limits.write_in_flight = at_once("max-mutating-requests-inflight", limits.write_in_flight)?;
    if let Some(deadline) = given.duration("request-timeout")? {
        limits.deadline = deadline;
    }
    if let Some(seconds) = given.number("min-request-timeout")? {
        limits.min_watch = Duration::from_secs(seconds);
    }
    Ok(())
}

fn edge(given: &Given, bind: IpAddr, port: u16) -> anyhow::Result<EdgeOptions> {
    let mut issuers = given.each("service-account-issuer");
    issuers.retain(|issuer| !issuer.is_empty());
    if issuers.is_empty() {
        issuers.push("https://kubernetes.default.svc".to_owned());
    }
    let issuer = issuers.remove(0);
    let authorization = authorization(given)?;
    let everybody = authorization.iter().any(|mode| matches!(mode, Mode::AlwaysAllow));
    let mut anonymous = given.flag("anonymous-auth", true);
    if anonymous && everybody {
        tracing::warn!("anonymous requests cannot be combined with the authorizer AlwaysAllow: they are refused");
        anonymous = false;
    }
    let advertise = match given.address("advertise-address")? {
        Some(address) => address,
        None if !bind.is_unspecified() => bind,
        None => crate::node::default_address().context("no address to advertise: give one with --advertise-address")?,
    };
    let keep_endpoints = match given.text("endpoint-reconciler-type").unwrap_or("lease") {
        "lease" => true,
        "none" => false,
        other => bail!("--endpoint-reconciler-type={other} is not supported by this server, only lease or none"),
    };
    Ok(EdgeOptions {
        jwks_uri: given.text("service-account-jwks-uri").map(str::to_owned),
        audiences: match given.list("api-audiences") {
            list if list.is_empty() => std::iter::once(issuer.clone()).chain(issuers.clone()).collect(),
            list => list,
        },
        issuer,
        former_issuers: issuers,
        service_networks: networks(given)?,
        node_ports: node_ports(given)?,
        advertise,
        port,
        static_tokens: given.path("token-auth-file"),
        anonymous,
        join_token: None,
        bootstrap_tokens: given.flag("enable-bootstrap-token-auth", false),
        authorization,
        plugins_on: plugins(given, "enable-admission-plugins")?,
        plugins_off: plugins(given, "disable-admission-plugins")?,
        allow_privileged: given.flag("allow-privileged", false),
        keep_endpoints,
        check_types: true,
        build: crate::control_plane::BUILD,
    })
}

fn networks(given: &Given) -> anyhow::Result<Vec<IpNet>> {
    let mut list = given.list("service-cluster-ip-range");
    if list.is_empty() {
        list.push("10.0.0.0/24".to_owned());
    }
    ensure!(list.len() <= 2, "--service-cluster-ip-range must not contain more than two entries");
    let parse =
        |one: &String| one.parse().with_context(|| format!("--service-cluster-ip-range={one} is not a network"));
    list.iter().map(parse).collect()
}

/// `30000-32767` or `30000+2767`, both ends included.
fn node_ports(given: &Given) -> anyhow::Result<RangeInclusive<u16>> {
    let Some(text) = given.text("service-node-port-range") else { return Ok(30000..=32767) };
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let range = match (text.split_once('-'), text.split_once('+')) {
        (Some((from, to)), _) => number(from).zip(number(to)),
        (_, Some((from, more))) => {
            number(from).zip(number(more)).and_then(|(from, more)| Some((from, from.checked_add(more)?)))
        }
        _ => number(text).map(|one| (one, one)),
    };
    let (from, to) = range
        .filter(|(from, to)| from <= to)
        .with_context(|| format!("--service-node-port-range={text} is no range"))?;
    Ok(from..=to)
}

/// The names of a list of plug-ins, all of which must be there.
fn plugins(given: &Given, flag: &str) -> anyhow::Result<Vec<String>> {
    let names = given.list(flag);
    for name in &names {
        ensure!(
            PLUGINS.iter().any(|(known, _)| known == name),
            "{flag} plugin {name:?} is unknown to this server; it knows {}",
            PLUGINS.map(|(known, _)| known).join(", ")
        );
    }
    // One part of this server does what two of upstream's plug-ins do.
    let has = |name: &str| names.iter().any(|listed| listed == name);
    ensure!(
        flag.starts_with("enable") || has("CertificateApproval") == has("CertificateSigning"),
        "CertificateApproval and CertificateSigning can only be disabled together"
    );
    Ok(names)
}

fn authorization(given: &Given) -> anyhow::Result<Vec<Mode>> {
    let mut names = given.list("authorization-mode");
    if names.is_empty() {
        names.push("AlwaysAllow".to_owned());
    }
    let mut modes = Vec::new();
    for (i, name) in names.iter().enumerate() {
        ensure!(!names[..i].contains(name), "authorization-mode {names:?} has mode specified more than once");
        modes.push(match name.as_str() {
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Webhook" => Mode::Webhook(Arc::new(Webhook::new(webhook(given)?)?)),
            other => bail!("authorization-mode {other:?} is not a valid mode"),
        });
    }
    ensure!(
        names.iter().any(|name| name == "Webhook") || !given.is_set("authorization-webhook-config-file"),
        "cannot specify --authorization-webhook-config-file without mode Webhook"
    );
    Ok(modes)
}

/// Where the authorization webhook is, from its kubeconfig.
fn webhook(given: &Given) -> anyhow::Result<WebhookOptions> {
    let path = given
        .path("authorization-webhook-config-file")
        .context("authorization-mode Webhook's authorization config file not passed")?;
    let kubeconfig = Kubeconfig::read(&path)?;
    let (certificate, key) = (
        kubeconfig.pem("user", "client-certificate-data", "client-certificate")?,
        kubeconfig.pem("user", "client-key-data", "client-key")?,
    );
    let kept = |name: &str, default: u64| -> anyhow::Result<Duration> {
        Ok(given.duration(name)?.unwrap_or(Duration::from_secs(default)))
    };
    let version = given.text("authorization-webhook-version").unwrap_or("v1beta1");
    ensure!(matches!(version, "v1" | "v1beta1"), "--authorization-webhook-version={version} is neither v1 nor v1beta1");
    let ca = kubeconfig.pem("cluster", "certificate-authority-data", "certificate-authority")?;
    let url = kubeconfig.text("cluster", "server");
    Ok(WebhookOptions {
        url: url.with_context(|| format!("{} names no server", path.display()))?,
        ca_bundle: ca.unwrap_or_default().into_bytes(),
        insecure: kubeconfig.cluster["insecure-skip-tls-verify"] == true,
        client: certificate.zip(key).map(|(certificate_pem, key_pem)| Issued { certificate_pem, key_pem }),
        token: kubeconfig.text("user", "token"),
        version: version.to_owned(),
        allowed_for: kept("authorization-webhook-cache-authorized-ttl", 300)?,
        denied_for: kept("authorization-webhook-cache-unauthorized-ttl", 30)?,
    })
}

/// The current cluster and user of a kubeconfig.
struct Kubeconfig {
    directory: PathBuf,
    cluster: Value,
    user: Value,
}

impl Kubeconfig {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let all: Value =
            serde_yaml_ng::from_str(&text(path)?).with_context(|| format!("{} is no YAML", path.display()))?;
        let named = |list: &str, name: &Value| {
            let found = all[list].as_array().into_iter().flatten().find(|one| one["name"] == *name);
            found.cloned().unwrap_or_default()
        };
        let context = named("contexts", &all["current-context"])["context"].take();
        ensure!(context.is_object(), "{} has no current context", path.display());
        Ok(Kubeconfig {
            directory: path.parent().map(Path::to_path_buf).unwrap_or_default(),
            cluster: named("clusters", &context["cluster"])["cluster"].take(),
            user: named("users", &context["user"])["user"].take(),
        })
    }

    fn text(&self, part: &str, field: &str) -> Option<String> {
        let part = if part == "user" { &self.user } else { &self.cluster };
        part[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A PEM text, from base64 in one field or from the file that another names.
    fn pem(&self, part: &str, data: &str, file: &str) -> anyhow::Result<Option<String>> {
        match (self.text(part, data), self.text(part, file)) {
            (Some(data), _) => Ok(Some(String::from_utf8(STANDARD.decode(data.trim())?)?)),
            (None, Some(file)) => text(&self.directory.join(file)).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The certificates, authorities and keys that flags name, as their files are now.
pub fn trust(given: &Given, data_dir: &Path) -> anyhow::Result<Trust> {
    let client_ca = bundle(given, "client-ca-file")?;
    let headers = |name: &str| given.list(name).iter().map(|header| header.to_ascii_lowercase()).collect::<Vec<_>>();
    let front_proxy = bundle(given, "requestheader-client-ca-file")?.map(|ca| FrontProxy {
        ca,
        allowed_names: given.list("requestheader-allowed-names"),
        headers: RemoteHeaders {
            users: headers("requestheader-username-headers"),
            uids: headers("requestheader-uid-headers"),
            groups: headers("requestheader-group-headers"),
            extra_prefixes: headers("requestheader-extra-headers-prefix"),
        },
    });
    if let Some(proxy) = &front_proxy {
        ensure!(
            !proxy.headers.users.is_empty(),
            "--requestheader-client-ca-file takes --requestheader-username-headers"
        );
    }
    let read = |files: Option<CertificateFiles>| files.map(|files| files.read()).transpose();
    let signing_key = match given.path("service-account-signing-key-file") {
        Some(path) => text(&path)?,
        None => {
            let dir = data_dir.join("pki");
            files::create_dir(&dir)?;
            pki::service_account_key(&dir)?
        }
    };
    let verifying = given.each("service-account-key-file");
    Ok(Trust {
        cluster_ca: None,
        front_proxy,
        proxy_client: read(CertificateFiles::of(given, "proxy-client-cert-file", "proxy-client-key-file")?)?,
        kubelets: KubeletTrust {
            ca: bundle(given, "kubelet-certificate-authority")?,
            client: read(CertificateFiles::of(given, "kubelet-client-certificate", "kubelet-client-key")?)?,
            address_types: given.list("kubelet-preferred-address-types"),
        },
        signing_key,
        verifying_keys: verifying.iter().map(|path| text(Path::new(path))).collect::<Result<_, _>>()?,
        client_ca,
    })
}

/// A serving certificate of our own, kept in `--cert-dir`.
fn own_certificate(given: &Given, edge: &EdgeOptions) -> anyhow::Result<Issued> {
    let dir = given.path("cert-dir").unwrap_or_else(|| PathBuf::from("/var/run/kubernetes"));
    let (certificate, key) = (dir.join("apiserver.crt"), dir.join("apiserver.key"));
    if certificate.exists() && key.exists() {
        return CertificateFiles::new(certificate, key).read();
    }
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), edge.advertise];
    addresses.extend(edge.service_networks.iter().map(skeg_server::bootstrap::edge::first_address));
    addresses.sort();
    addresses.dedup();
    let authority = Authority::create("kube-apiserver-ca")?;
    let mut issued = authority.issue(&Profile::server("kube-apiserver", &names, &addresses))?;
    issued.certificate_pem.push_str(&authority.certificate_pem);
    files::create_dir(&dir)?;
    files::write(&certificate, &issued.certificate_pem, 0o644, false)?;
    files::write(&key, &issued.key_pem, 0o600, false)?;
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::super::flags::FLAGS;
    use super::*;
    use crate::component::flags;

    fn given(line: &str) -> Given {
        flags::parse(super::super::NAME, FLAGS, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .unwrap()
    }

    #[test]
    fn ranges_of_ports_are_written_in_two_ways() {
        let ports = |text: &str| node_ports(&given(&format!("--service-node-port-range={text}"))).ok();
        assert_eq!(ports("30000-31000"), Some(30000..=31000));
        assert_eq!(ports("30000+10"), Some(30000..=30010));
        assert_eq!(ports("2-1"), None);
        assert_eq!(node_ports(&given("")).unwrap(), 30000..=32767);
    }

    #[test]
    fn modes_and_plugins_must_be_known() {
        let modes = |line: &str| authorization(&given(line)).map(|modes| modes.len()).map_err(|e| e.to_string());
        assert_eq!(modes("--authorization-mode=Node,RBAC"), Ok(2));
        assert_eq!(modes(""), Ok(1));
        assert!(modes("--authorization-mode=ABAC").is_err() && modes("--authorization-mode=RBAC,RBAC").is_err());
        assert!(modes("--authorization-mode=Webhook").unwrap_err().contains("not passed"));
        let on =
            |names: &str| plugins(&given(&format!("--enable-admission-plugins={names}")), "enable-admission-plugins");
        assert_eq!(on("NodeRestriction,PodSecurity").unwrap().len(), 2);
        assert!(on("AlwaysPullImages").unwrap_err().to_string().contains("AlwaysPullImages"));
    }

    #[test]
    fn a_certificate_of_our_own_is_kept() {
        let dir = std::env::temp_dir().join(format!("skeg-cert-dir-{}", std::process::id()));
        let given = given(&format!("--cert-dir={}", dir.display()));
        let first = own_certificate(&given, &EdgeOptions::default()).unwrap();
        assert_eq!(first.certificate_pem, own_certificate(&given, &EdgeOptions::default()).unwrap().certificate_pem);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
