//! `skeg token`: what a new node needs to join.

use std::path::PathBuf;

use anyhow::Context;

#[derive(clap::Args)]
pub struct Args {
    /// The server's data directory
    #[arg(long, default_value = "/var/lib/skeg")]
    data_dir: PathBuf,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let file = args.data_dir.join("agent-token");
    let token = std::fs::read_to_string(&file).with_context(|| {
        format!("no join token in {}: is this the data directory of a started server?", file.display())
    })?;
    println!("{}", token.trim());
    Ok(())
}
