//! The fake keeps the kernel's rules; with SKEG_TEST_NODE=1 the kernel is asked the same questions.

use nix::sched::{CloneFlags, unshare};

use crate::{
    Chain, ChainType, Command, Concat, DataType, Element, Error, Expr, Family, Hook, Kernel, Nft, Reg, Rule, Ruleset,
    Set, Target, Transaction, Verdict, priority,
};

const TABLE: &str = "skeg-test";

fn port(port: u16, value: u32) -> Element {
    Element::value(Concat::default().proto(6).port(port), Concat::default().mark(value))
}

fn transaction(commands: impl IntoIterator<Item = Command>) -> Transaction {
    Transaction { family: Family::Ipv4, table: TABLE.into(), commands: commands.into_iter().collect() }
}

fn add(elements: Vec<Element>) -> Command {
    Command::AddElements("ports".into(), elements)
}

fn delete(elements: Vec<Element>) -> Command {
    Command::DeleteElements("ports".into(), elements)
}

fn basis() -> Transaction {
    use DataType::{InetProto, InetService, Ipv4Addr, Mark};
    let rule = vec![
        Expr::L4Proto(Reg(0)),
        Expr::DestPort(Reg(1)),
        Expr::Lookup { set: "ports".into(), key: Reg(0), target: Target::Register(Reg(2)) },
        Expr::Lookup { set: "verdicts".into(), key: Reg(2), target: Target::Verdict },
    ];
    let mut all = transaction([]);
    all.replace_table();
    all.commands.extend([
        Command::AddSet(Set::map("ports", &[InetProto, InetService], &[Mark])),
        Command::AddSet(Set::verdict_map("verdicts", &[Mark])),
        Command::AddSet(Set::new("ranges", &[Ipv4Addr, InetService]).with_intervals()),
        Command::AddSet(Set::map("recent", &[Ipv4Addr, InetService], &[Ipv4Addr, InetService]).with_dynamic(100)),
        Command::AddChain(Chain::base("in", ChainType::Filter, Hook::Input, priority::FILTER)),
        Command::AddChain(Chain::regular("target")),
        Command::AddRule("in".into(), Rule::new("by port", rule)),
        Command::AddElements(
            "verdicts".into(),
            vec![Element::verdict(Concat::default().mark(7), Verdict::Goto("target".into()))],
        ),
        add(vec![port(80, 7), port(81, 8)]),
    ]);
    all
}

/// Both engines answer alike: the fake always, the kernel where tests may touch it.
fn on_every_engine(test: fn(&mut dyn Nft)) {
    test(&mut Ruleset::new());
    if std::env::var("SKEG_TEST_NODE").is_ok_and(|v| v == "1") {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(&mut Kernel::open().unwrap());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    } else {
        eprintln!("skipped the kernel: set SKEG_TEST_NODE=1 to ask it too, as root");
    }
}

fn ports(nft: &mut dyn Nft) -> Vec<Element> {
    let mut elements = nft.elements(Family::Ipv4, TABLE, "ports").unwrap();
    elements.sort_by(|a, b| a.key.cmp(&b.key));
    elements
}

/// The errno and the command that an apply is refused with.
fn refusal(nft: &mut dyn Nft, commands: Vec<Command>) -> (i32, String) {
    match nft.apply(&transaction(commands)) {
        Err(Error::Refused { source, command, .. }) => (source.raw_os_error().unwrap(), command),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_was_added_is_listed() {
    on_every_engine(|nft| {
        nft.apply(&basis()).unwrap();
        nft.apply(&basis()).unwrap();
        assert_eq!(ports(nft), [port(80, 7), port(81, 8)]);
        let mut chains = nft.chains(Family::Ipv4, TABLE).unwrap();
        chains.sort();
        assert_eq!(chains, ["in", "target"]);
        let verdicts = nft.elements(Family::Ipv4, TABLE, "verdicts").unwrap();
        assert_eq!(verdicts[0].data, crate::ElementData::Verdict(Verdict::Goto("target".into())));
        assert_eq!(nft.chains(Family::Ipv4, "other").unwrap(), Vec::<String>::new());
    });
}

#[test]
fn a_value_is_changed_by_deleting_and_adding_in_one_transaction() {
    on_every_engine(|nft| {
        nft.apply(&basis()).unwrap();
        nft.apply(&transaction([delete(vec![port(80, 7)]), add(vec![port(80, 9)])])).unwrap();
        assert_eq!(ports(nft), [port(80, 9), port(81, 8)]);
        nft.apply(&transaction([add(vec![port(80, 9)])])).unwrap();
        nft.apply(&transaction([Command::FlushSet("ports".into())])).unwrap();
        assert_eq!(ports(nft), []);
    });
}

#[test]
fn a_refused_command_is_named_and_nothing_is_applied() {
    on_every_engine(|nft| {
        nft.apply(&basis()).unwrap();
        let (code, command) = refusal(nft, vec![add(vec![port(90, 1)]), delete(vec![port(91, 1)])]);
        assert_eq!(code, 2);
        assert!(command.contains("delete 1 elements from ports"), "{command}");
        let (code, command) = refusal(nft, vec![add(vec![port(92, 1)]), add(vec![port(80, 1)])]);
        assert_eq!(code, 17);
        assert!(command.contains("add 1 elements to ports"), "{command}");
        let (code, _) = refusal(nft, vec![Command::DeleteChain("target".into())]);
        assert_eq!(code, 16);
        assert_eq!(ports(nft), [port(80, 7), port(81, 8)]);
    });
}

#[test]
fn thousands_of_elements_travel_in_one_transaction() {
    on_every_engine(|nft| {
        nft.apply(&basis()).unwrap();
        let many: Vec<Element> = (1000..21_000).map(|p| port(p, u32::from(p))).collect();
        nft.apply(&transaction([add(many.clone())])).unwrap();
        assert_eq!(ports(nft).len(), 20_002);
        nft.apply(&transaction([delete(many)])).unwrap();
        assert_eq!(ports(nft), [port(80, 7), port(81, 8)]);
    });
}

#[test]
fn ranges_of_concatenations_are_kept() {
    on_every_engine(|nft| {
        nft.apply(&basis()).unwrap();
        let key = |last: u8, port| Concat::default().ip([10, 0, 0, last].into()).port(port);
        let range = Element::range(key(0, 80), key(255, 80));
        nft.apply(&transaction([Command::AddElements("ranges".into(), vec![range.clone()])])).unwrap();
        assert_eq!(nft.elements(Family::Ipv4, TABLE, "ranges").unwrap(), std::slice::from_ref(&range));
        nft.apply(&transaction([Command::DeleteElements("ranges".into(), vec![range])])).unwrap();
        assert_eq!(nft.elements(Family::Ipv4, TABLE, "ranges").unwrap(), []);
    });
}

#[test]
fn the_fake_fails_when_it_is_told_to() {
    let mut fake = Ruleset::new();
    fake.failures.push_back(12);
    assert_eq!(refusal(&mut fake, vec![Command::AddTable]).0, 12);
    assert!(!fake.has_table(Family::Ipv4, TABLE));
    fake.apply(&transaction([Command::AddTable])).unwrap();
    assert!(fake.has_table(Family::Ipv4, TABLE));
    assert_eq!(fake.applied.len(), 1);
}
