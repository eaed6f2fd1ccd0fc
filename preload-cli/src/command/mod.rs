//! The commands, one file each: options, the call, the answer.

pub(crate) mod agent;
pub(crate) mod completions;
pub(crate) mod drain;
pub(crate) mod limit;
pub(crate) mod ls;
pub(crate) mod members;
pub(crate) mod path;
pub(crate) mod pin;
pub(crate) mod plan;
pub(crate) mod publish;
pub(crate) mod pull;
pub(crate) mod record;
pub(crate) mod rm;
pub(crate) mod secret;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod warm;
