//! Which endpoints of a service port this node may use: readiness, termination, locality, hints. Pure.
//!
//! The rules are upstream's (pkg/proxy/topology.go): ready endpoints, else serving terminating ones; node hints before
//! zone hints, and hints only when every ready endpoint has them and one is for us.

use std::net::IpAddr;

/// One endpoint of one service port, with what the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub address: (IpAddr, u16),
    pub ready: bool,
    pub serving_terminating: bool,
    pub local: bool,
    pub zone_hints: &'a [Box<str>],
    pub node_hints: &'a [Box<str>],
}

/// Usable endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// For traffic policy Cluster.
    pub cluster: Vec<(IpAddr, u16)>,
    /// For traffic policy Local.
    pub local: Vec<(IpAddr, u16)>,
}

/// Chooses among the candidates.
pub fn usable(candidates: &[Candidate<'_>], node: &str, zone: Option<&str>) -> Usable {
    let pick = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<(IpAddr, u16)> {
        candidates.iter().filter(|c| wanted(c)).map(|c| c.address).collect()
    };
    let hint = hint(candidates, node, zone);
    let mut cluster = pick(&|c| c.ready && hint.admits(c, node, zone));
    if cluster.is_empty() {
        cluster = pick(&|c| c.serving_terminating);
    }
    let mut local = pick(&|c| c.ready && c.local);
    if local.is_empty() {
        local = pick(&|c| c.serving_terminating && c.local);
    }
    Usable { cluster, local }
}

#[derive(Clone, Copy)]
enum Hint {
    None,
    Node,
    Zone,
}

impl Hint {
    fn admits(self, c: &Candidate<'_>, node: &str, zone: Option<&str>) -> bool {
        match self {
            Hint::None => true,
            Hint::Node => names(c.node_hints, Some(node)),
            Hint::Zone => names(c.zone_hints, zone),
        }
    }
}

fn names(hints: &[Box<str>], name: Option<&str>) -> bool {
    name.is_some_and(|name| hints.iter().any(|h| **h == *name))
}

fn hint(candidates: &[Candidate<'_>], node: &str, zone: Option<&str>) -> Hint {
    let ready = || candidates.iter().filter(|c| c.ready);
    let complete = |of: fn(&Candidate<'_>) -> bool| ready().all(of);
    if complete(|c| !c.node_hints.is_empty()) && ready().any(|c| names(c.node_hints, Some(node))) {
        return Hint::Node;
    }
    if complete(|c| !c.zone_hints.is_empty()) && ready().any(|c| names(c.zone_hints, zone)) {
        return Hint::Zone;
    }
    Hint::None
}
