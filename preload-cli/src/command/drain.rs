//! `preload drain`: a node is about to go, and hands over first what only it has.

use std::time::Duration;

use clap::Args;
use emberline_agent::api::{DrainHook, DrainReport};

use crate::{
    failure::Result,
    options::Context,
    session::Session,
    units::{bytes, parse_duration, seconds},
};

/// Have a node leave the cluster: it stops pulling, hands over what only it holds, and says goodbye.
///
/// For a spot notice, a preStop hook or maintenance. Ends when the node has left; its agent goes on serving
/// what is on its disk to its own machine until it is stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload drain                      within the agent's shutdown_deadline
  preload drain --deadline 100s      within a notice of two minutes
  preload drain --agent http://10.0.0.1:7580 --token-file agent.token --json")]
pub(crate) struct Drain {
    /// How long handing over may take.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    deadline: Option<Duration>,
}

impl Drain {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let hook = DrainHook { deadline_seconds: self.deadline.map(|deadline| deadline.as_secs_f64()) };
        let session = Session::open_to_fleet(context).await?;
        let report = session.client().drain(&hook).await;
        session.close().await;
        context.output.answer(&report?, |report, _| text(report))
    }
}

fn text(report: &DrainReport) -> String {
    let handed = report.alone_bytes.saturating_sub(report.left_bytes);
    let mut text = format!(
        "left the cluster after {}; handed over {} that only this node had\n",
        seconds(report.seconds),
        bytes(handed)
    );
    if report.left_bytes > 0 {
        text +=
            &format!("nobody took {} in time: the origin is read again for it\n", bytes(report.left_bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_said() {
        let report = DrainReport { alone_bytes: 3 << 20, left_bytes: 1 << 20, seconds: 2.0 };
        let said = text(&report);
        assert!(said.contains("2.0 MiB") && said.contains("1.0 MiB in time"), "{said}");
        assert!(!text(&DrainReport { left_bytes: 0, ..report }).contains("in time"));
    }
}
