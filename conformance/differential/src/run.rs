//! Replays scenarios to both servers and keeps what differed. The only place with an order of its own: steps one after the
//! other, then everything that waits at once, then the teardowns.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::compare::{Difference, compare};
use crate::request::{Answer, Known, Request, Scenario};
use crate::side::{Side, remember};

pub struct Sides {
    pub skeg: Side,
    pub upstream: Side,
}

/// A request whose answers differ.
pub struct Case {
    pub request: Request,
    pub skeg: Answer,
    pub upstream: Answer,
    pub differences: Vec<Difference>,
}

#[derive(Default)]
pub struct Outcome {
    pub asked: usize,
    pub distinct: HashSet<u64>,
    /// How many requests of each resource were asked, in order.
    pub resources: Vec<(String, usize)>,
    pub cases: Vec<Case>,
}

type Pair = (Known, Known);

pub async fn run(sides: &Sides, scenarios: &[Scenario]) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut waiting = Vec::new();
    for scenario in scenarios {
        let mut known = Pair::default();
        steps(sides, &scenario.steps, &mut known, &mut outcome).await?;
        if scenario.disturbs {
            together(sides, scenario.waiting.iter().map(|request| (request, known.clone())), &mut outcome).await?;
            steps(sides, &scenario.teardown, &mut known, &mut outcome).await?;
        } else {
            waiting.push((scenario, known));
        }
        eprintln!("{:>6} asked, {:>5} differ: {}", outcome.asked, outcome.cases.len(), scenario.resource);
    }
    let requests =
        waiting.iter().flat_map(|(scenario, known)| scenario.waiting.iter().map(|request| (request, known.clone())));
    together(sides, requests, &mut outcome).await?;
    for (scenario, known) in &mut waiting {
        steps(sides, &scenario.teardown, known, &mut outcome).await?;
    }
    Ok(outcome)
}

async fn steps(sides: &Sides, requests: &[Request], known: &mut Pair, outcome: &mut Outcome) -> anyhow::Result<()> {
    for request in requests {
        let (skeg, upstream) = ask(sides, request, known).await?;
        if request.remember {
            remember(&mut known.0, &skeg);
            remember(&mut known.1, &upstream);
        }
        if let Some(path) = &request.settles {
            settle(sides, path, known).await?;
        }
        outcome.take(request, skeg, upstream);
    }
    Ok(())
}

/// For as long as the two may take to do what they do after an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(200);
/// As many looks at the same, and both are done.
const SAME: usize = 4;

/// Waits until both servers say the same of an object, and no longer anything new.
async fn settle(sides: &Sides, path: &str, known: &mut Pair) -> anyhow::Result<()> {
    let look = Request::new("", "", "GET", path);
    let (end, mut same, mut last) = (Instant::now() + PATIENCE, 0, None);
    while same < SAME && Instant::now() < end {
        tokio::time::sleep(BETWEEN).await;
        let (skeg, upstream) = ask(sides, &look, known).await?;
        let seen = (skeg.body.clone(), upstream.body.clone());
        let done = compare(&skeg, &upstream).is_empty() && last.as_ref() == Some(&seen);
        same = if done { same + 1 } else { 0 };
        last = Some(seen);
        remember(&mut known.0, &skeg);
        remember(&mut known.1, &upstream);
    }
    Ok(())
}

async fn together(
    sides: &Sides,
    requests: impl Iterator<Item = (&Request, Pair)>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let asked = requests.map(|(request, known)| async move {
        let (skeg, upstream) = ask(sides, request, &known).await?;
        anyhow::Ok((request, skeg, upstream))
    });
    let answers: Vec<_> = stream::iter(asked).buffered(32).try_collect().await?;
    for (request, skeg, upstream) in answers {
        outcome.take(request, skeg, upstream);
    }
    Ok(())
}

async fn ask(sides: &Sides, request: &Request, known: &Pair) -> anyhow::Result<(Answer, Answer)> {
    let (skeg, upstream) = tokio::join!(sides.skeg.ask(request, &known.0), sides.upstream.ask(request, &known.1));
    // An answer that breaks off is an answer too: what it is told as stands beside the other's.
    let broken =
        |error: anyhow::Error| Answer { status: 0, headers: Vec::new(), body: format!("{error:#}").into_bytes() };
    Ok((skeg.unwrap_or_else(broken), upstream.unwrap_or_else(broken)))
}

impl Outcome {
    fn take(&mut self, request: &Request, skeg: Answer, upstream: Answer) {
        self.asked += 1;
        self.distinct.insert(request.digest());
        match self.resources.iter_mut().find(|(name, _)| *name == request.resource) {
            Some((_, count)) => *count += 1,
            None => self.resources.push((request.resource.clone(), 1)),
        }
        let differences = compare(&skeg, &upstream);
        if !differences.is_empty() {
            self.cases.push(Case { request: request.clone(), skeg, upstream, differences });
        }
    }
}
