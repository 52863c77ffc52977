//! The nftables table: its maps, its fixed chains, and the picker chain of each kind of selection.
//!
//! ```text
//! services   address . proto . port               -> keep . code         what every client gets
//! inside     address . proto . port               -> keep . code         what pods and the host get, where it differs
//! pick       code                                 -> goto pick-N         one chain per number of endpoints
//! endpoints  address . proto . port . index       -> address . port      the choice
//! sticky     address . proto . port . index       -> - . address . port  the choice, for services with affinity
//! affinity   address . proto . port . source      -> - . address . port  learned, expires
//! members    address . port . address . proto . port                     endpoints that affinity may still name
//! firewalled address . proto . port                                      only listed sources may connect
//! allowed    address . proto . port . source range                       the listed sources
//! hairpin    source . dest                                               local endpoints, each with itself
//! ```
//!
//! A selection's *code* says how many endpoints there are and where their indices start, so that choosing is one random
//! number and one lookup. Codes are plain values, not verdicts: the kernel walks a whole verdict map whenever one of its
//! elements changes, but only the small `pick` map holds verdicts.
//!
//! Random and not round robin: the counter of a round robin would be shared by all services with the same number of
//! endpoints, and a client that calls two of them in turn would always reach the same endpoints.
//!
//! `nft list` (1.0) aborts on a rule that uses what a lookup gave as part of another key. It goes by the register where a
//! value starts, so the rules that must do that first load something of the right type and then overwrite it from one
//! register before; such a rule is listed with what was loaded first, and its comment says what it does.
//!
//! Nothing is marked: whether a connection needs its source rewritten follows, after the choice, from the frontend that
//! conntrack remembers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use skeg_nft::expr::{CT_DNAT, CT_NEW};
use skeg_nft::{
    Chain, ChainType, Command, Concat, CtKey, DataType, Direction, Element, Expr, Family, Hook, Reg, Rejection, Rule,
    Set, Target, Verdict, priority,
};

/// The table's name, in families ip and ip6.
pub const TABLE: &str = "skeg-services";

/// Clients that are remembered for session affinity, at most.
const AFFINITY_SIZE: u32 = 262_144;

/// The bits of a choice: the number of endpoints, flags, and the affinity in the upper half.
const COUNT: u32 = 0xfff;
const INSIDE: u32 = 1 << 13;
const NODE_PORT: u32 = 1 << 14;
const DROP: u32 = 1 << 15;
const AFFINITY_SHIFT: u32 = 16;
/// Affinities from here on are counted in units of four seconds, so that a day fits into the upper half.
const AFFINITY_COARSE: u32 = 1 << 15;
/// Endpoints of a frontend beyond this many get no connections from this node.
pub const MAX_ENDPOINTS: usize = COUNT as usize;
/// Where the indices of `inside` selections start.
pub const INSIDE_OFFSET: u32 = 1 << 16;

/// What a frontend does, as the value of `services` and `inside`: two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// Clients from outside keep their address. Matters after the choice.
    keep_source: bool,
    /// The key of `pick` or `refuse`.
    choice: u32,
}

impl Code {
    /// Nobody answers.
    pub const REJECT: Code = Code { keep_source: false, choice: 0 };
    /// Nobody answers here.
    pub const DROP: Code = Code { keep_source: false, choice: DROP };

    /// One of `count` endpoints, the same for `affinity` seconds (0 is no affinity).
    pub fn pick(count: usize, inside: bool, node_port: bool, keep_source: bool, affinity: u32) -> Self {
        let flag = |on: bool, bit| if on { bit } else { 0 };
        let affinity = match affinity {
            exact if exact < AFFINITY_COARSE => exact,
            long => AFFINITY_COARSE | long.div_ceil(4).min(AFFINITY_COARSE - 1),
        };
        let flags = flag(inside, INSIDE) | flag(node_port, NODE_PORT);
        Self { keep_source, choice: count.min(MAX_ENDPOINTS) as u32 | flags | affinity << AFFINITY_SHIFT }
    }

    /// The element value.
    pub fn value(self) -> Concat {
        Concat::default().mark(self.keep_source.into()).mark(self.choice)
    }

    /// The code without what does not matter to the choice: which picker chain serves it. None for refusals.
    pub fn picker(self) -> Option<Code> {
        (self.count() != 0).then_some(Self { keep_source: false, ..self })
    }

    fn key(self) -> Concat {
        Concat::default().mark(self.choice)
    }

    fn count(self) -> u32 {
        self.choice & COUNT
    }

    fn affinity(self) -> u32 {
        match self.choice >> AFFINITY_SHIFT {
            exact if exact < AFFINITY_COARSE => exact,
            coarse => (coarse & !AFFINITY_COARSE) * 4,
        }
    }

    fn has(self, bit: u32) -> bool {
        self.choice & bit != 0
    }

    /// The picker chain's name.
    pub fn chain(self) -> String {
        let mut name = format!("pick-{}", self.count());
        for (bit, suffix) in [(INSIDE, "-inside"), (NODE_PORT, "-nodeport")] {
            if self.has(bit) {
                name.push_str(suffix);
            }
        }
        if self.affinity() > 0 {
            name.push_str(&format!("-sticky{}", self.affinity()));
        }
        name
    }
}

/// One family's table.
#[derive(Clone, Debug)]
pub struct Layout {
    pub family: Family,
    /// Where pods are.
    pub pods: Vec<IpNet>,
    /// Where service addresses come from: unclaimed ones are refused.
    pub services: Vec<IpNet>,
}

/// Which address a key starts with.
#[derive(Clone, Copy, PartialEq)]
enum Vip {
    Destination,
    NodePort,
}

/// The registers, so that every key is contiguous: one that is never part of a key, the endpoint, the frontend, and last
/// what makes the frontend's key longer: the source, or an index.
struct Regs {
    before: Reg,
    endpoint: Reg,
    endpoint_port: Reg,
    vip: Reg,
    proto: Reg,
    port: Reg,
    last: Reg,
}

/// The two words of a code, where no endpoint is loaded.
const CODE: Reg = Reg(14);
const CHOICE: Reg = Reg(15);

impl Layout {
    /// A layout of a family, with those of the networks that are of it.
    pub fn new(family: Family, pods: &[IpNet], services: &[IpNet]) -> Self {
        let ours = |nets: &[IpNet]| -> Vec<IpNet> {
            let of_family = |n: &&IpNet| matches!(n, IpNet::V6(_)) == (family == Family::Ipv6);
            nets.iter().filter(of_family).copied().collect()
        };
        Self { family, pods: ours(pods), services: ours(services) }
    }

    fn regs(&self) -> Regs {
        let words = self.address_words();
        Regs {
            before: Reg(0),
            endpoint: Reg(1),
            endpoint_port: Reg(1 + words),
            vip: Reg(2 + words),
            proto: Reg(2 + 2 * words),
            port: Reg(3 + 2 * words),
            last: Reg(4 + 2 * words),
        }
    }

    fn address_words(&self) -> u8 {
        if self.family == Family::Ipv6 { 4 } else { 1 }
    }

    fn address_type(&self) -> DataType {
        if self.family == Family::Ipv6 { DataType::Ipv6Addr } else { DataType::Ipv4Addr }
    }

    /// The address part of a node port's key.
    pub fn any_address(&self) -> IpAddr {
        if self.family == Family::Ipv6 { IpAddr::from([0u8; 16]) } else { IpAddr::from([0u8; 4]) }
    }

    fn loopback(&self) -> IpNet {
        let net = if self.family == Family::Ipv6 { "::1/128" } else { "127.0.0.0/8" };
        net.parse().expect("a literal network")
    }

    /// The sets and maps that elements are written to, in an order in which they can be created.
    pub fn sets(&self) -> Vec<Set> {
        use DataType::{InetProto as Proto, InetService as Port, Mark};
        let ip = self.address_type();
        vec![
            Set::map("services", &[ip, Proto, Port], &[Mark, Mark]),
            Set::map("inside", &[ip, Proto, Port], &[Mark, Mark]),
            Set::verdict_map("pick", &[Mark]),
            Set::verdict_map("refuse", &[Mark]),
            Set::map("endpoints", &[ip, Proto, Port, Mark], &[ip, Port]),
            Set::map("sticky", &[ip, Proto, Port, Mark], &[Mark, ip, Port]),
            Set::map("affinity", &[ip, Proto, Port, ip], &[Mark, ip, Port]).with_dynamic(AFFINITY_SIZE),
            Set::new("members", &[ip, Port, ip, Proto, Port]),
            Set::new("firewalled", &[ip, Proto, Port]),
            Set::new("allowed", &[ip, Proto, Port, ip]).with_intervals(),
            Set::new("hairpin", &[ip, ip]),
        ]
    }

    /// The name of an empty chain that says which layout the table has: another one for other rules.
    pub fn marker(&self) -> String {
        let mut hasher = DefaultHasher::new();
        let mut rules = Vec::new();
        let mut note = |chain: &str, comment: &str, exprs: Vec<Vec<Expr>>| {
            rules.push((chain.to_owned(), comment.to_owned(), exprs));
        };
        self.check_rules(&mut note);
        self.nat_rules(&mut note);
        self.source_rules(&mut note);
        format!("{rules:?}{:?}", self.sets()).hash(&mut hasher);
        for code in [Code::pick(1, true, false, false, 0), Code::pick(2, false, true, false, 60)] {
            format!("{:?}", self.picker_rules(code)).hash(&mut hasher);
        }
        format!("layout-{:016x}", hasher.finish())
    }

    /// Everything but elements and picker chains.
    pub fn skeleton(&self) -> Vec<Command> {
        let base = |name: &str, kind, hook, priority| Command::AddChain(Chain::base(name, kind, hook, priority));
        let early = priority::DSTNAT - 10;
        let mut out: Vec<Command> = self.sets().into_iter().map(Command::AddSet).collect();
        out.extend([
            base("check-prerouting", ChainType::Filter, Hook::Prerouting, early),
            base("check-output", ChainType::Filter, Hook::Output, early),
            base("nat-prerouting", ChainType::Nat, Hook::Prerouting, priority::DSTNAT),
            base("nat-output", ChainType::Nat, Hook::Output, priority::DSTNAT),
            base("nat-postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT),
        ]);
        for name in ["check-inside", "check", "check-local", "reject", "inside", "outside"] {
            out.push(Command::AddChain(Chain::regular(name)));
        }
        let mut rule = |chain: &str, comment: &str, exprs: Vec<Vec<Expr>>| {
            out.push(Command::AddRule(chain.into(), Rule::new(comment, exprs.concat())));
        };
        self.check_rules(&mut rule);
        self.nat_rules(&mut rule);
        self.source_rules(&mut rule);
        out.push(Command::AddChain(Chain::regular(self.marker())));
        out.push(Command::AddElements(
            "refuse".into(),
            vec![
                Element::verdict(Code::REJECT.key(), Verdict::Goto("reject".into())),
                Element::verdict(Code::DROP.key(), Verdict::Drop),
            ],
        ));
        out
    }

    /// Loads address, proto and port.
    fn key(&self, vip: Vip) -> Vec<Expr> {
        let r = self.regs();
        let address = match vip {
            Vip::Destination => Expr::DestAddr(self.family, r.vip),
            Vip::NodePort => Expr::Immediate(r.vip, vec![0; self.address_type().size()]),
        };
        vec![address, Expr::L4Proto(r.proto), Expr::DestPort(r.port)]
    }

    /// Loads address, proto and port that the client wrote, after translation.
    fn original_key(&self, vip: Vip) -> Vec<Expr> {
        let r = self.regs();
        let original = Some(Direction::Original);
        let address = match vip {
            Vip::Destination => Expr::Ct(CtKey::Destination(self.family), original, r.vip),
            Vip::NodePort => Expr::Immediate(r.vip, vec![0; self.address_type().size()]),
        };
        vec![address, Expr::L4Proto(r.proto), Expr::Ct(CtKey::DestinationPort, original, r.port)]
    }

    fn lookup(&self, set: &str, key: Reg, target: Target) -> Vec<Expr> {
        vec![Expr::Lookup { set: set.into(), key, target }]
    }

    /// Loads the code of a frontend.
    fn code_of(&self, map: &str) -> Vec<Expr> {
        self.lookup(map, self.regs().vip, Target::Register(CODE))
    }

    /// Goes where the code of a frontend leads. The mark is loaded only to be overwritten: `nft list` aborts on a lookup
    /// of what another lookup gave, and shows this as a lookup of the mark.
    fn dispatch(&self, codes: &str, verdicts: &str) -> Vec<Expr> {
        let shown = vec![Expr::Mark(CHOICE)];
        [shown, self.code_of(codes), self.lookup(verdicts, CHOICE, Target::Verdict)].concat()
    }

    /// Goes on for the host's addresses that node ports are served on.
    fn node_address(&self) -> Vec<Expr> {
        let mut exprs = Expr::is_local(false, CODE);
        exprs.extend(Expr::in_network(false, self.loopback(), false, self.regs().endpoint));
        exprs
    }

    /// Refusals, before translation; sees the first packet of each connection.
    fn check_rules(&self, rule: &mut impl FnMut(&str, &str, Vec<Vec<Expr>>)) {
        let r = self.regs();
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        let known = || Expr::ct_bits(CtKey::State, CT_NEW, false, CODE);
        for chain in ["check-prerouting", "check-output"] {
            rule(chain, "decided when the connection opened", vec![known(), accept()]);
        }
        for pods in &self.pods {
            let inside = Expr::in_network(true, *pods, true, r.endpoint);
            rule("check-prerouting", "from a pod", vec![inside, vec![Expr::goto("check-inside")]]);
        }
        rule("check-prerouting", "", vec![vec![Expr::goto("check")]]);
        rule("check-output", "", vec![vec![Expr::goto("check-inside")]]);

        let firewall = || {
            vec![
                self.key(Vip::Destination),
                vec![Expr::SourceAddr(self.family, r.last)],
                self.lookup("firewalled", r.vip, Target::Member),
                self.lookup("allowed", r.vip, Target::NotMember),
                vec![Expr::Verdict(Verdict::Drop)],
            ]
        };
        rule("check-inside", "loadBalancerSourceRanges", firewall());
        let exempt = || self.lookup("inside", r.vip, Target::Member);
        rule("check-inside", "policy Local is for outside", vec![self.key(Vip::Destination), exempt(), accept()]);
        rule(
            "check-inside",
            "policy Local is for outside",
            vec![self.node_address(), self.key(Vip::NodePort), exempt(), accept()],
        );
        rule("check-inside", "", vec![vec![Expr::goto("check")]]);

        rule("check", "loadBalancerSourceRanges", firewall());
        rule("check", "no endpoints", vec![self.key(Vip::Destination), self.dispatch("services", "refuse")]);
        rule("check", "the host's addresses", vec![Expr::is_local(false, CODE), vec![Expr::goto("check-local")]]);
        for services in &self.services {
            rule(
                "check",
                "no such service",
                vec![
                    Expr::in_network(false, *services, true, r.vip),
                    self.key(Vip::Destination),
                    self.lookup("services", r.vip, Target::NotMember),
                    vec![Expr::goto("reject")],
                ],
            );
        }
        rule(
            "check-local",
            "node ports without endpoints",
            vec![self.node_address(), self.key(Vip::NodePort), self.dispatch("services", "refuse")],
        );
        let tcp = vec![Expr::L4Proto(CODE), Expr::Compare(CODE, true, vec![6])];
        rule("reject", "at once", vec![tcp, vec![Expr::Reject(Rejection::TcpReset)]]);
        rule("reject", "", vec![vec![Expr::Reject(Rejection::PortUnreachable(self.family))]]);
    }

    /// Translation of the destination.
    fn nat_rules(&self, rule: &mut impl FnMut(&str, &str, Vec<Vec<Expr>>)) {
        for pods in &self.pods {
            let inside = Expr::in_network(true, *pods, true, self.regs().endpoint);
            rule("nat-prerouting", "from a pod", vec![inside, vec![Expr::goto("inside")]]);
        }
        rule("nat-prerouting", "", vec![vec![Expr::goto("outside")]]);
        rule("nat-output", "", vec![vec![Expr::goto("inside")]]);
        for (chain, maps) in [("inside", &["inside", "services"][..]), ("outside", &["services"][..])] {
            for map in maps {
                let exprs = vec![self.key(Vip::Destination), self.dispatch(map, "pick")];
                rule(chain, &format!("service addresses, by @{map}"), exprs);
            }
            for map in maps {
                let key = [self.node_address(), self.key(Vip::NodePort)].concat();
                rule(chain, &format!("node ports, by @{map}"), vec![key, self.dispatch(map, "pick")]);
            }
        }
    }

    /// Translation of the source: what would not come back through this node otherwise.
    fn source_rules(&self, rule: &mut impl FnMut(&str, &str, Vec<Vec<Expr>>)) {
        let r = self.regs();
        let chain = "nat-postrouting";
        let masquerade = || vec![Expr::Masquerade];
        let leave = || vec![Expr::Verdict(Verdict::Return)];
        rule(chain, "not a service", vec![Expr::ct_bits(CtKey::Status, CT_DNAT, false, CODE), leave()]);
        let (first, second) = (Reg(0), Reg(self.address_words()));
        let pair = vec![Expr::SourceAddr(self.family, first), Expr::DestAddr(self.family, second)];
        let itself = self.lookup("hairpin", first, Target::Member);
        rule(chain, "a pod that reached itself", vec![pair, itself, masquerade()]);
        for pods in &self.pods {
            // Of a pod on another node: the endpoint, which may be on that node too, would answer it directly.
            let elsewhere = || {
                let twice = vec![Expr::DestAddr(self.family, first), Expr::DestAddr(self.family, second)];
                [twice, self.lookup("hairpin", first, Target::NotMember)].concat()
            };
            rule(
                chain,
                "a pod's node port that leads to another node",
                vec![
                    Expr::in_network(true, *pods, true, r.endpoint),
                    [self.original_key(Vip::Destination), self.lookup("services", r.vip, Target::NotMember)].concat(),
                    [self.original_key(Vip::NodePort), self.lookup("services", r.vip, Target::Member)].concat(),
                    elsewhere(),
                    masquerade(),
                ],
            );
            rule(chain, "pods are routed", vec![Expr::in_network(true, *pods, true, r.endpoint), leave()]);
        }
        let member = || self.lookup("services", r.vip, Target::Member);
        for vip in [Vip::Destination, Vip::NodePort] {
            let rewrite = vec![Expr::Compare(CODE, true, vec![0; 4])];
            let key = || self.original_key(vip);
            rule(chain, "policy Cluster", vec![key(), self.code_of("services"), rewrite, masquerade()]);
            rule(chain, "from the host", vec![key(), member(), Expr::is_local(true, CODE), masquerade()]);
            rule(chain, "policy Local", vec![key(), member(), leave()]);
        }
    }

    /// Creates the chain that serves a code, and makes `pick` lead to it.
    pub fn add_picker(&self, code: Code) -> Vec<Command> {
        let chain = code.chain();
        let mut out = vec![Command::AddChain(Chain::regular(&chain))];
        for rule in self.picker_rules(code) {
            out.push(Command::AddRule(chain.clone(), rule));
        }
        out.push(Command::AddElements("pick".into(), vec![picker_element(code)]));
        out
    }

    /// Removes what `add_picker` made.
    pub fn delete_picker(&self, code: Code) -> Vec<Command> {
        vec![Command::DeleteElements("pick".into(), vec![picker_element(code)]), Command::DeleteChain(code.chain())]
    }

    fn picker_rules(&self, code: Code) -> Vec<Rule> {
        let r = self.regs();
        let key = self.key(if code.has(NODE_PORT) { Vip::NodePort } else { Vip::Destination });
        let offset = if code.has(INSIDE) { INSIDE_OFFSET } else { 0 };
        let random = vec![Expr::Random { modulus: code.count(), offset, reg: r.last }];
        let dnat = vec![Expr::Dnat { family: self.family, addr: r.endpoint, port: r.endpoint_port }];
        if code.affinity() == 0 {
            let choice = self.lookup("endpoints", r.vip, Target::Register(r.endpoint));
            return vec![Rule::new("one of the endpoints", [key, random, choice, dnat].concat())];
        }
        // What the rules are listed with in place of the endpoint, and of the word before it.
        let shown = vec![Expr::DestAddr(self.family, r.endpoint), Expr::DestPort(r.endpoint_port)];
        let given = |map| [self.lookup(map, r.vip, Target::Register(r.before)), vec![Expr::Mark(r.before)]].concat();
        let source = vec![Expr::SourceAddr(self.family, r.last)];
        let (map, timeout) = ("affinity".to_owned(), code.affinity());
        let remember = vec![Expr::Remember { map: map.clone(), key: r.vip, value: r.before, timeout }];
        // What is known keeps its old value: forget it first.
        let forget = vec![Expr::Forget { map, key: r.vip, value: r.before }];
        let choose = [shown.clone(), key.clone(), random, given("sticky")].concat();
        let known = [
            [shown, key, source.clone(), given("affinity")].concat(),
            self.lookup("members", r.endpoint, Target::Member),
            remember.clone(),
            dnat.clone(),
        ];
        vec![
            Rule::new("to what @affinity remembers", known.concat()),
            Rule::new(
                "to one of @sticky, remembered",
                [choose.clone(), source, forget, remember, dnat.clone()].concat(),
            ),
            Rule::new("to one of @sticky, @affinity is full", [choose, dnat].concat()),
        ]
    }
}

fn picker_element(code: Code) -> Element {
    Element::verdict(code.key(), Verdict::Goto(code.chain()))
}
