use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use skeg_controller_runtime::Timestamp;

use super::plan::{self, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, Subject};
use crate::config::Signing;

fn usages(list: &[&str]) -> Vec<String> {
    list.iter().map(|u| (*u).to_owned()).collect()
}

fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

#[test]
fn each_signer_takes_only_what_it_is_for() {
    let client = usages(&["digital signature", "client auth"]);
    let server = usages(&["digital signature", "key encipherment", "server auth"]);
    for (name, signer, request, usages, accepted) in [
        ("a node's client", KUBELET_CLIENT, request("system:node:a", "system:nodes", &[]), &client, true),
        ("no node", KUBELET_CLIENT, request("eve", "system:nodes", &[]), &client, false),
        ("another group", KUBELET_CLIENT, request("system:node:a", "system:masters", &[]), &client, false),
        ("alternative names", KUBELET_CLIENT, request("system:node:a", "system:nodes", &["a"]), &client, false),
        ("wrong usages", KUBELET_CLIENT, request("system:node:a", "system:nodes", &[]), &server, false),
        ("a node's server", KUBELET_SERVING, request("system:node:a", "system:nodes", &["a"]), &server, true),
        ("a server without names", KUBELET_SERVING, request("system:node:a", "system:nodes", &[]), &server, false),
        ("anybody's client", CLIENT, request("joe", "devs", &[]), &client, true),
        ("an unknown signer", "example.com/x", request("joe", "devs", &[]), &client, false),
    ] {
        let (_, subject) = plan::subject(&request).unwrap();
        assert_eq!(plan::refusal(signer, &subject, usages).is_none(), accepted, "{name}");
    }
}

#[test]
fn an_issued_certificate_has_the_subject_and_no_longer_life_than_allowed() {
    let key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = ca.self_signed(&key).unwrap();
    let signing = Signing {
        ca_cert_pem: authority.pem(),
        ca_key_pem: key.serialize_pem(),
        duration: std::time::Duration::from_secs(86400),
    };
    let (params, subject) = plan::subject(&request("system:node:a", "system:nodes", &[])).unwrap();
    assert_eq!(
        subject,
        Subject {
            common_name: "system:node:a".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        }
    );
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let pem =
        plan::sign(now, &signing, params, &usages(&["client auth", "digital signature"]), Some(10_000_000)).unwrap();
    let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = parsed.parse_x509().unwrap();
    assert_eq!(certificate.validity().not_after.timestamp() - now.as_second(), 86400);
    assert!(certificate.subject().to_string().contains("system:node:a"));
    assert!(!certificate.is_ca());
}

#[test]
fn a_node_may_name_only_itself_in_a_serving_certificate() {
    let table = [
        (&["n1", "10.0.0.5"][..], Some(1)),
        (&["n1"], Some(0)),
        (&["n1", "kubernetes.default.svc"], None),
        (&["n1", "127.0.0.1"], None),
    ];
    for (names, addresses) in table {
        let (parameters, _) = plan::subject(&request("system:node:n1", "system:nodes", names)).unwrap();
        assert_eq!(plan::own_addresses(&parameters, "n1").map(|a| a.len()), addresses, "{names:?}");
    }
}
