//! One safetensors file, streamed: header by the safetensors crate, then tensor after tensor.
//!
//! Holds one buffer of [`BUFFER_BYTES`], whatever the size of the tensors.

use std::{collections::HashMap, fs::File, io::Write, path::Path};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::architecture::Tensor;

/// What is made and written at a time; fits the second-level cache.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes `tensors` to `path`, in the order that the safetensors crate would give them.
/// Returns the file's size.
pub(super) fn write(path: &Path, mut tensors: Vec<Tensor>) -> Result<u64> {
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = header(path, &tensors)?;
    let total_bytes = (8 + header.len()) as u64 + tensors.iter().map(Tensor::bytes).sum::<u64>();
    let at = || format!("write {}", path.display());

    let mut file = File::create(path).at(at)?;
    // A preallocated file takes bytes three times as fast on ext4; not every file system can.
    let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, total_bytes);
    file.write_all(&(header.len() as u64).to_le_bytes()).at(at)?;
    file.write_all(&header).at(at)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    for tensor in &tensors {
        let mut rng = SmallRng::from_seed(tensor.seed);
        let mut left = tensor.bytes();
        while left > 0 {
            let piece = &mut buffer[..left.min(BUFFER_BYTES as u64) as usize];
            rng.fill_bytes(piece);
            make_finite(piece, tensor.dtype);
            file.write_all(piece).at(at)?;
            left -= piece.len() as u64;
        }
    }
    Ok(total_bytes)
}

fn header(path: &Path, tensors: &[Tensor]) -> Result<Vec<u8>> {
    let mut offset = 0;
    let infos = tensors
        .iter()
        .map(|tensor| {
            let begin = offset;
            offset += tensor.bytes() as usize;
            let data_offsets = (begin, offset);
            let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets };
            (tensor.name.clone(), info)
        })
        .collect();
    let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let refused = |e: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, format!("header of {}: {e}", path.display()))
    };
    let metadata = Metadata::new(Some(notes), infos).map_err(|e| refused(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| refused(&e))?;
    // Padded with blanks, so that the tensors start at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Turns infinities and NaNs, which equal nothing, into numbers: one of 256 for bfloat16.
fn make_finite(values: &mut [u8], dtype: Dtype) {
    let exponent: u16 = if dtype == Dtype::BF16 { 0x7f80 } else { 0x7c00 };
    for value in values.chunks_exact_mut(2) {
        let bits = u16::from_le_bytes([value[0], value[1]]);
        let bits = if bits & exponent == exponent { bits & !0x4000 } else { bits };
        value.copy_from_slice(&bits.to_le_bytes());
    }
}
