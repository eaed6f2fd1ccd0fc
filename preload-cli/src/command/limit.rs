//! `preload limit`: how much may pass between an agent and the others, while it runs.

use clap::Args;
use emberline_agent::api::{LimitChange, Limits};

use crate::{
    failure::Result,
    options::Context,
    session::Session,
    units::{self, parse_bytes},
};

/// Show or change the most payload a second that passes between a node and the others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload limit                             what holds now
  preload limit --upload 100MB              a second, all others together; holds at once
  preload limit --upload 0 --download 0     no limit

Holds until the agent is started again; cluster.max_upload_bytes in its configuration holds from the start.")]
pub(crate) struct Limit {
    /// Served to other nodes; 0: no limit.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    upload: Option<u64>,
    /// Asked of other nodes and read from origins; 0: no limit.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    download: Option<u64>,
}

impl Limit {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let change = LimitChange { max_upload_bytes: self.upload, max_download_bytes: self.download };
        let session = Session::open_to_fleet(context).await?;
        let limits = if change == LimitChange::default() {
            session.client().limits().await
        } else {
            session.client().limit(&change).await
        };
        session.close().await;
        context.output.answer(&limits?, |limits, _| text(limits))
    }
}

fn text(limits: &Limits) -> String {
    let shown = |bytes: u64| if bytes == 0 { "no limit".to_owned() } else { units::rate(bytes as f64) };
    format!("upload    {}\ndownload  {}\n", shown(limits.max_upload_bytes), shown(limits.max_download_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nought_is_no_limit() {
        let limits = Limits { max_upload_bytes: 100 << 20, max_download_bytes: 0 };
        assert_eq!(text(&limits), format!("upload    {}\ndownload  no limit\n", units::rate(104_857_600.0)));
    }
}
