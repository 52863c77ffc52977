//! `skeg kube-scheduler`: the scheduler alone, with kube-scheduler's flags, so that it can stand where that one stands. It
//! schedules with the profile that upstream has without a configuration file.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::component::flags::{COMMON, Given};
use crate::component::{Component, LOOPS, client_config, election, gates, serve_health};

const NAME: &str = "kube-scheduler";
const PORT: u16 = 10259;

/// The component.
pub const COMPONENT: Component = Component {
    name: NAME,
    about: "Finds a node for every pod, as kube-scheduler does.",
    flags: &[COMMON, LOOPS],
    run: |given, shutdown| Box::pin(run(given, shutdown)),
};

async fn run(given: Given, shutdown: CancellationToken) -> anyhow::Result<()> {
    gates::check(&given.map("feature-gates"))?;
    let config = skeg_scheduler::Config { election: election(&given, NAME)?, ..skeg_scheduler::Config::default() };
    let client = kube::Client::try_from(client_config(&given).await?)?;
    let (tasks, stop) = (TaskTracker::new(), shutdown.child_token());
    serve_health(&given, NAME, PORT, &tasks, &stop).await?;
    let leads = skeg_scheduler::run(config, client, shutdown).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    anyhow::ensure!(leads, "leaderelection lost");
    Ok(())
}
