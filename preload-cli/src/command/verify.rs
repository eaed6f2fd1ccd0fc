//! `preload verify`: re-hash what is here.

use clap::Args;
use emberline_agent::{api::VerifyReport, error::ErrorKind};

use crate::{
    client::Client,
    failure::{Failure, Result},
    options::Context,
    output::table,
    reference,
    session::Session,
    units,
};

/// Re-hash what is here and fetch again what is wrong.
///
/// Ends with exit code 0 when every byte is as it should be, by then.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload verify                                 everything on this node
  preload verify s3://models/llama-3-8b
  preload verify --no-repair --json")]
pub(crate) struct Verify {
    /// Which artifacts; all of them unless given.
    #[arg(value_name = "REF")]
    references: Vec<String>,
    /// Only report what is wrong. It is not served any more; `preload pull` fetches it anew.
    #[arg(long)]
    no_repair: bool,
    /// The default; here so that it can be said.
    #[arg(long, hide = true, conflicts_with = "no_repair")]
    repair: bool,
}

impl Verify {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let session = Session::open(context).await?;
        let reports = self.verify(session.client()).await;
        session.close().await;
        let reports = reports?;
        context.output.answer(&reports, |reports, width| {
            let texts: Vec<String> = reports.iter().map(|r| table::verify(r, width)).collect();
            if texts.is_empty() { "nothing here to verify".to_owned() } else { texts.join("\n") }
        })?;
        judge(&reports)
    }

    async fn verify(&self, client: &Client) -> Result<Vec<VerifyReport>> {
        let names = if self.references.is_empty() {
            client.artifacts(false).await?.into_iter().map(|a| a.swarm).collect()
        } else {
            self.references.iter().map(|r| reference::from_here(r)).collect::<Result<Vec<_>>>()?
        };
        let mut reports = Vec::with_capacity(names.len());
        for name in names {
            reports.push(client.verify(&name, !self.no_repair).await?);
        }
        Ok(reports)
    }
}

/// Rot that is still there is a failure.
fn judge(reports: &[VerifyReport]) -> Result<()> {
    let found: u64 = reports.iter().map(|r| r.corrupt.len() as u64).sum();
    let repaired: u64 = reports.iter().map(|r| r.repaired).sum();
    let lost: u64 = reports.iter().map(|r| r.lost.len() as u64).sum();
    let restored: u64 = reports.iter().map(|r| r.restored).sum();
    let wrong = match (found.saturating_sub(repaired), lost.saturating_sub(restored)) {
        (0, 0) => return Ok(()),
        (0, files) => format!("{} removed or replaced on the disk", units::count(files, "file")),
        (1, _) => "1 chunk does not have its hash".to_owned(),
        (chunks, _) => format!("{chunks} chunks do not have their hash"),
    };
    Err(Failure::new(ErrorKind::Corrupt, wrong)
        .advice("they are out of use now: run `preload pull` or `preload verify` again to fetch them anew")
        .answered())
}

#[cfg(test)]
mod tests {
    use emberline_agent::api::CorruptChunk;

    use super::*;

    #[test]
    fn rot_that_is_left_is_exit_code_7() {
        let chunk = CorruptChunk { path: "a".to_owned(), offset: 0, bytes: 1, hash: "e".repeat(64) };
        let mut report = VerifyReport {
            reference: "s3://b/p".to_owned(),
            chunks: 9,
            bytes: 9,
            corrupt: vec![chunk],
            repaired: 0,
            lost: vec![],
            restored: 0,
            not_here_chunks: 3,
            not_here_bytes: 3,
            seconds: 0.1,
        };
        assert_eq!(judge(std::slice::from_ref(&report)).unwrap_err().exit, 7);
        report.repaired = 1;
        assert!(judge(std::slice::from_ref(&report)).is_ok());
        // An empty file has no chunk that could be wrong.
        report.lost.push("empty".to_owned());
        assert_eq!(judge(std::slice::from_ref(&report)).unwrap_err().exit, 7);
        report.restored = 1;
        assert!(judge(&[report]).is_ok());
        assert!(judge(&[]).is_ok());
    }
}
