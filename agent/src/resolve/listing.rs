//! What one node asks another about an origin, and what it hears. Knows neither origins nor whom to ask.

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::SwarmId;

use crate::{
    error::{Error, ErrorKind, Result},
    manifest::Blueprint,
    origin::MANIFEST_FILE,
    services,
    snapshot::SnapshotFile,
};

/// How long a listing answers for a reference that can move, for whoever reads files.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// What listing an origin led to.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) blueprint: Arc<Blueprint>,
    /// The manifest that stands at the origin, not read yet.
    pub(super) published: Option<SnapshotFile>,
}

impl Listed {
    /// As one node tells another: the length of the published file's description, that, the blueprint.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let published = services::to_json(&self.published)?;
        let length = (published.len() as u32).to_le_bytes();
        Ok([&length[..], &published, &self.blueprint.encode()].concat())
    }

    pub(super) fn decode(answer: &[u8]) -> Result<Self> {
        let short = || Error::new(ErrorKind::Invalid, "a listing was cut short");
        let (length, rest) = answer.split_first_chunk::<4>().ok_or_else(short)?;
        let (published, blueprint) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
        let published: Option<SnapshotFile> = services::from_json(published)?;
        let is_manifest = |file: &SnapshotFile| file.path.as_str() == MANIFEST_FILE;
        if !published.as_ref().is_none_or(is_manifest) {
            return Err(Error::new(ErrorKind::Invalid, "a listing names another file as manifest"));
        }
        Ok(Self { blueprint: Arc::new(Blueprint::decode(blueprint)?), published })
    }
}

/// How a listing is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) outdated: Option<SwarmId>,
    /// One that began longer ago will not do.
    pub(super) max_age: Duration,
    /// Who asks has an older one, and does not wait for an origin that is silent.
    pub(super) hurries: bool,
}

impl Wish {
    /// As one node asks another: the reference, what is outdated, how old it may be in milliseconds, and
    /// whether to hurry, a line each. Whoever wants nothing special asks as every version does.
    pub(super) fn question(self, name: &str) -> String {
        let outdated = self.outdated.map(|swarm| swarm.to_string()).unwrap_or_default();
        match (self.max_age < FRESH || self.hurries, self.outdated) {
            (false, None) => name.to_owned(),
            (false, Some(_)) => format!("{name}\n{outdated}"),
            (true, _) => {
                format!("{name}\n{outdated}\n{}\n{}", self.max_age.as_millis(), u8::from(self.hurries))
            }
        }
    }

    pub(super) fn parse(question: &str) -> Result<(&str, Self)> {
        let mut lines = question.split('\n');
        let name = lines.next().unwrap_or_default();
        let outdated = lines.next().filter(|text| !text.is_empty()).map(str::parse).transpose()?;
        let number = |text: &str| {
            text.parse::<u64>().map_err(|e| Error::with_source(ErrorKind::Invalid, "question to a home", e))
        };
        let max_age = lines.next().map(number).transpose()?;
        let hurries = lines.next().map(number).transpose()?.is_some_and(|hurries| hurries != 0);
        let max_age = max_age.map_or(FRESH, |age| Duration::from_millis(age).min(FRESH));
        Ok((name, Self { outdated, max_age, hurries }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_asked_as_of_old_where_nothing_special_is_wanted_and_understands_what_is() {
        let swarm = SwarmId([7; 32]);
        let plain = Wish { outdated: None, max_age: FRESH, hurries: false };
        assert_eq!(plain.question("s3://b/p"), "s3://b/p");
        let outdated = Wish { outdated: Some(swarm), ..plain };
        assert_eq!(outdated.question("s3://b/p"), format!("s3://b/p\n{swarm}"));
        let aged = Wish { max_age: Duration::from_millis(1234), ..plain };
        for wish in [plain, outdated, aged, Wish { hurries: true, ..outdated }] {
            let question = wish.question("s3://b/p");
            let (name, heard) = Wish::parse(&question).unwrap();
            assert_eq!((name, format!("{heard:?}")), ("s3://b/p", format!("{wish:?}")));
        }
        assert!(Wish::parse("s3://b/p\n\nsoon").is_err());
        assert_eq!(Wish::parse("s3://b/p\n\n99999999").unwrap().1.max_age, FRESH, "no longer than it holds");
    }
}
