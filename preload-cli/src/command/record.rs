//! `preload record`: in which order a model was read, which is the order in which the next node fetches it.

use clap::Args;
use emberline_agent::api::ReadingOrderInfo;
use serde::Serialize;

use crate::{failure::Result, options::Context, reference, session::Session, units};

/// Stretches that are printed.
const SHOWN: usize = 20;

/// Show, take or clear the order in which a model is read. A model that is read while it comes is recorded by
/// itself; the next node fetches it in that order.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload record s3://models/llama-3-8b            what was recorded
  preload record s3://models/llama-3-8b --now      record what has been read of it so far
  preload record s3://models/llama-3-8b --clear    forget it; the next reading is recorded")]
pub(crate) struct Record {
    /// Reference, swarm id or manifest hash.
    #[arg(value_name = "REF")]
    reference: String,
    /// Record what has been read of it so far, instead of what was recorded.
    #[arg(long, conflicts_with = "clear")]
    now: bool,
    /// Forget what was recorded.
    #[arg(long)]
    clear: bool,
}

#[derive(Debug, Serialize)]
struct Cleared {
    reference: String,
    cleared: bool,
}

impl Record {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let reference = reference::from_here(&self.reference)?;
        let session = Session::open(context).await?;
        if self.clear {
            let done = session.client().forget_order(&reference).await;
            session.close().await;
            done?;
            let answer = Cleared { reference, cleared: true };
            return context.output.answer(&answer, |a, _| format!("cleared {}\n", a.reference));
        }
        let client = session.client();
        let info = if self.now {
            client.record_order(&reference).await
        } else {
            client.reading_order(&reference).await
        };
        session.close().await;
        context.output.answer(&info?, |info, _| text(info))
    }
}

fn text(info: &ReadingOrderInfo) -> String {
    let mut text = format!("{} chunks, {}\n", info.chunks, units::bytes(info.bytes));
    for stretch in info.stretches.iter().take(SHOWN) {
        let (offset, bytes) = (units::bytes(stretch.offset), units::bytes(stretch.bytes));
        text.push_str(&format!("  {}  from {offset}, {bytes}\n", stretch.path));
    }
    if info.stretches.len() > SHOWN {
        text.push_str(&format!("  and {} more\n", info.stretches.len() - SHOWN));
    }
    text
}
