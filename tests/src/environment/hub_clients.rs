//! Clients of the Hugging Face Hub in pinned versions, each in an environment of its own.

use std::path::PathBuf;

use super::{
    Result,
    cache::{python, virtual_environment},
    torch::transformers_torch,
};

const OLD_PINS: &[&str] = &["huggingface_hub==0.36.2", "hf_transfer==0.1.9", "hf_xet==1.8.0"];
/// Without PyTorch: the wheels that PyPI has of it need gigabytes of CUDA to be imported.
const TRANSFORMERS_PINS: &[&str] = &[
    "transformers==5.24.0",
    "huggingface_hub==2.4.0",
    "hf_xet==1.8.0",
    "safetensors==0.8.0",
    "numpy==2.4.6",
];

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubClient {
    /// `huggingface_hub` 2.4.0, with `hf_xet` beside it, as everything that is new has it.
    New,
    /// `huggingface_hub` 0.36.2, with `hf_xet` and `hf_transfer`: the last of the line that much is pinned to.
    Old,
    /// `transformers`, over `huggingface_hub` 2.4.0.
    Transformers,
    /// An older `transformers`, over `huggingface_hub` 0.36.2, with PyTorch: to be had as root on Debian.
    TransformersTorch,
}

impl HubClient {
    /// The `bin` folder of its environment.
    ///
    /// # Errors
    /// What is missing, with the end of the installer's log.
    pub fn bin(self) -> Result<PathBuf> {
        let dir = match self {
            Self::TransformersTorch => return Ok(transformers_torch()?.with_file_name("")),
            Self::New => return Ok(python()?.with_file_name("")),
            Self::Old => virtual_environment("hub-old", OLD_PINS, &[])?,
            Self::Transformers => virtual_environment("transformers", TRANSFORMERS_PINS, &[])?,
        };
        Ok(dir.join("bin"))
    }

    /// Package and version, as the conformance table has them.
    pub fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::New => ("huggingface_hub", "2.4.0"),
            Self::Old => ("huggingface_hub", "0.36.2"),
            Self::Transformers => ("transformers", "5.24.0"),
            Self::TransformersTorch => ("transformers", "4.44.2"),
        }
    }
}
