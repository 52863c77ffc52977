//! `hack/bench`: Skeg beside upstream's kube-apiserver and etcd, interleaved in one run on this machine. Owns the rows, their
//! order and what they mean; not how a server is started (`side`), how numbers are read (`probe`) or printed (`table`).

mod load;
mod probe;
mod side;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use load::Load;
use side::Side;
use table::{Better, Sample, Table};

/// Arguments of `hack/bench`.
#[derive(clap::Args)]
pub struct Args {
    /// How often each row is measured, on each side in turn
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// No further run is begun that would end later than so many minutes after the start
    #[arg(long, default_value_t = 12)]
    pub minutes: u64,
    /// Seconds of load for each row of each run
    #[arg(long, default_value_t = 2)]
    pub seconds: u64,
    /// Objects stored for the rows about lists and memory
    #[arg(long, default_value_t = 10_000)]
    pub objects: u32,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Skeg alone, nothing to compare with
    #[arg(long)]
    pub alone: bool,
    /// Leave out the rows that need a node with containers
    #[arg(long)]
    pub no_node: bool,
    /// Where the table is written too, after each run
    #[arg(long)]
    pub output: Option<PathBuf>,
    #[arg(long, env = "SKEG_BIN")]
    pub skeg: PathBuf,
    #[arg(long, env = "SKEG_LOADGEN_BIN")]
    pub loadgen: PathBuf,
    /// The folder with upstream's control-plane.sh
    #[arg(long, env = "SKEG_UPSTREAM")]
    pub upstream: Option<PathBuf>,
    /// Skeg stores in this etcd (a program) instead of its own engine
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// Where stores and logs of the run lie; on the disk that is to be measured
    #[arg(long)]
    pub work: PathBuf,
}

/// One line of load: name, goal, what decides, and the arguments of the load program. A goal is the figure on the machine
/// where goals were set, and the same as a ratio to what upstream did there, which is what other machines can be held to.
struct Row {
    name: &'static str,
    goal: &'static str,
    better: Better,
    figure: fn(&Load) -> Option<f64>,
    args: &'static str,
}

const fn rate(name: &'static str, goal: &'static str, args: &'static str) -> Row {
    Row { name, goal, better: Better::More, figure: |l| Some(l.rate), args }
}

const fn median(name: &'static str, goal: &'static str, args: &'static str) -> Row {
    Row { name, goal, better: Better::Less, figure: |l| l.p50_ms, args }
}

/// Rows over an empty store. `{s}` is the seconds of each run.
const LOADS: &[Row] = &[
    rate("create ConfigMaps, 1 client, per s", "", "-test create -resource configmaps -c 1 -duration {s}"),
    median(
        "create ConfigMaps, 1 client, p50 ms",
        "fsync + 0.15",
        "-test create -resource configmaps -c 1 -duration {s}",
    ),
    rate("create ConfigMaps, 16 clients, per s", "", "-test create -resource configmaps -c 16 -duration {s}"),
    rate(
        "create ConfigMaps, 64 clients, per s",
        ">= 8000, 3.1 times",
        "-test create -resource configmaps -c 64 -duration {s}",
    ),
    rate(
        "create Pods JSON, 64 clients, per s",
        ">= 5000, 3.7 times",
        "-test create -resource pods -c 64 -duration {s}",
    ),
    rate(
        "create Pods protobuf, 64 clients, per s",
        "",
        "-test create -resource pods -enc protobuf -c 64 -duration {s}",
    ),
    rate("GET Pod, 1 client, per s", "", "-test get -resource pods -c 1 -duration {s}"),
    rate("GET Pod, 16 clients, per s", "", "-test get -resource pods -c 16 -duration {s}"),
    rate("GET Pod, 64 clients, per s", ">= 11000, 2.4 times", "-test get -resource pods -c 64 -duration {s}"),
    rate("update ConfigMap, 64 clients, per s", "", "-test update -c 64 -duration {s}"),
    rate(
        "merge patch ConfigMap, 64 clients, per s",
        ">= 7000, 3.5 times",
        "-test patch -patch-type merge -c 64 -duration {s}",
    ),
    rate("JSON patch ConfigMap, 64 clients, per s", "", "-test patch -patch-type json -c 64 -duration {s}"),
    rate("strategic patch ConfigMap, 64 clients, per s", "", "-test patch -patch-type strategic -c 64 -duration {s}"),
    rate(
        "server-side apply ConfigMap, 64 clients, per s",
        ">= 5000, 4.2 times",
        "-test patch -patch-type apply -c 64 -duration {s}",
    ),
    rate("watch deliveries, 100 watchers, per s", "", "-test watch -watchers 100 -n 300 -c 8"),
    rate("watch deliveries, 1000 watchers, per s", ">= 190000, 1.8 times", "-test watch -watchers 1000 -n 300 -c 8"),
    // Pods are scheduled while they are created: one rate for both.
    rate("2000 Pods created and scheduled, 100 nodes, per s", "", "-test sched -nodes 100 -n 2000 -c 16 -timeout 2m"),
    rate("2000 Pods created and scheduled, 1000 nodes, per s", "", "-test sched -nodes 1000 -n 2000 -c 16 -timeout 2m"),
];

/// Rows over a store of many Pods.
const LISTS: &[Row] = &[
    median("LIST all Pods JSON, p50 ms", "<= 25 at 10,000, 12 times", "-test list -resource pods -n 5"),
    median(
        "LIST all Pods protobuf, p50 ms",
        "<= 25 at 10,000, 8.2 times",
        "-test list -resource pods -enc protobuf -n 5",
    ),
    median("LIST all Pods in pages of 500, p50 ms", "", "-test list -resource pods -limit 500 -n 3"),
];

pub fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot create {}", args.work.display()))?;
    let mut table = Table::new(!args.alone);
    let binary = std::fs::metadata(&args.skeg)?.len();
    table.add("release binary, MB", "<= 35", Better::Less, side::SKEG, Sample::plain(probe::megabytes(binary)));
    let sides = Side::all(args)?;
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for run in 1..=args.runs {
        if run > 1 && begun.elapsed() + longest > Duration::from_secs(60 * args.minutes) {
            eprintln!("==> no time for run {run} of {}: --minutes gives more", args.runs);
            break;
        }
        let started = Instant::now();
        one_run(args, &sides, run, &mut table)?;
        longest = longest.max(started.elapsed());
        table.runs = run;
        if let Some(path) = &args.output {
            std::fs::write(path, table.render(args)).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    print!("{}", table.render(args));
    Ok(())
}

/// Every side once, and the node. What fails is told in the table and costs no other row.
fn one_run(args: &Args, sides: &[Side<'_>], run: usize, table: &mut Table) -> anyhow::Result<()> {
    for side in sides {
        eprintln!("==> run {run} of {}: {}", args.runs, side.name());
        table.note(probe::conditions(&args.work)?);
        if let Err(error) = control_plane(args, side, table) {
            table.fail(side.name(), run, "", &error);
        }
    }
    if !args.no_node {
        eprintln!("==> run {run} of {}: node", args.runs);
        if let Err(error) = node(args, table) {
            table.fail("node", run, "", &error);
        }
    }
    Ok(())
}

/// Everything that needs a control plane only: start, idle, load, lists, memory.
fn control_plane(args: &Args, side: &Side, table: &mut Table) -> anyhow::Result<()> {
    let wanted = |name: &str| name.contains(&args.only);
    let server = side.start()?;
    if wanted("start") {
        let ready = Sample::plain(server.ready.as_secs_f64());
        table.add("start, empty store, to /readyz, s", "<= 0.2, 14 times", Better::Less, side.name(), ready);
    }
    if wanted("idle") {
        idle("idle control plane", ["<= 40, 12 times", ""], &server.pids()?, side.name(), table)?;
    }
    let seconds = format!("{}s", args.seconds);
    let mut last: Option<(&str, Load)> = None;
    for row in LOADS.iter().filter(|row| wanted(row.name)) {
        // Two rows over the same load share one run of it.
        let load = match last.take() {
            Some((args, load)) if args == row.args => load,
            _ => match server.load(&row.args.replace("{s}", &seconds)) {
                Ok(load) => load,
                Err(error) => {
                    table.fail(side.name(), table.runs + 1, row.name, &error);
                    continue;
                }
            },
        };
        add(table, row, side.name(), &load);
        last = Some((row.args, load));
    }
    if LISTS.iter().any(|row| wanted(row.name)) || wanted("RSS") || wanted("restart") {
        server.load(&format!("-test fill -resource pods -n {} -c 32", args.objects))?;
        for row in LISTS.iter().filter(|row| wanted(row.name)) {
            match server.load(row.args) {
                Ok(load) => add(table, row, side.name(), &load),
                Err(error) => table.fail(side.name(), table.runs + 1, row.name, &error),
            }
        }
        let rss = probe::rss_mib(&server.pids()?)?;
        let name = format!("RSS with {} Pods, MiB", args.objects);
        table.add(&name, "<= 400 at 50,000, 6.5 times", Better::Less, side.name(), Sample::plain(rss));
        let server = server.restart()?;
        let name = format!("start, {} Pods stored, to /readyz, s", args.objects);
        let ready = Sample::plain(server.ready.as_secs_f64());
        table.add(&name, "<= 0.5 at 50,000", Better::Less, side.name(), ready);
        return server.stop();
    }
    server.stop()
}

/// The rows of a whole node with containers: Skeg's alone.
fn node(args: &Args, table: &mut Table) -> anyhow::Result<()> {
    let server = side::whole_node(args)?;
    let ready = Sample::plain(server.ready.as_secs_f64());
    table.add("start, empty, to node Ready, s", "<= 1", Better::Less, side::SKEG, ready);
    idle("idle node", ["<= 64", "<= 0.5"], &server.pids()?, side::SKEG, table)?;
    for (count, clients, goals) in [(30, 1, ["<= 250", "<= 600"]), (60, 20, ["", ""])] {
        // Of the load program's own choice, the pause image, which every node has.
        let load = server.load(&format!("-test podstart -n {count} -c {clients}"))?;
        let each = if clients == 1 { "one by one".to_owned() } else { format!("{clients} at once") };
        for (what, goal, value) in [("p50", goals[0], load.p50_ms), ("p99", goals[1], load.p99_ms)] {
            let Some(value) = value else { continue };
            let name = format!("Pod created to Running, {each}, {what} ms");
            table.add(&name, goal, Better::Less, side::SKEG, Sample::plain(value));
        }
    }
    server.stop()
}

fn idle(
    what: &str,
    goals: [&str; 2],
    pids: &[(String, u32)],
    side: &'static str,
    table: &mut Table,
) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_secs(3));
    let window = Duration::from_secs(10);
    let before = probe::cpu(pids)?;
    std::thread::sleep(window);
    let used = probe::cpu(pids)?.saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / window.as_secs_f64();
    let rss = Sample::plain(probe::rss_mib(pids)?);
    table.add(&format!("{what}, RSS MiB"), goals[0], Better::Less, side, rss);
    table.add(&format!("{what}, CPU % of a core"), goals[1], Better::Less, side, Sample::plain(share));
    Ok(())
}

fn add(table: &mut Table, row: &Row, side: &'static str, load: &Load) {
    if load.errors > 0 {
        eprintln!("    {}: {} errors, the first: {}", row.name, load.errors, load.first_error);
    }
    if let Some(value) = (row.figure)(load) {
        let sample = Sample { value, cpu_ms: load.cpu_ms_per_op, errors: load.errors };
        eprintln!("    {}: {value:.2}", row.name);
        table.add(row.name, row.goal, row.better, side, sample);
    }
}
