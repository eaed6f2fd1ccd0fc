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
///
/// Four values at a time, so that it costs little beside making the random bytes. A value is infinite
/// or NaN if its exponent is all ones; clearing the exponent's highest bit makes it a small number.
fn make_finite(values: &mut [u8], dtype: Dtype) {
    const EACH: u64 = 0x0001_0001_0001_0001;
    let exponents = EACH * if dtype == Dtype::BF16 { 0x7f80 } else { 0x7c00 };
    let (words, rest) = values.as_chunks_mut::<8>();
    debug_assert!(rest.is_empty(), "rows are multiples of 32 values");
    for word in words {
        let bits = u64::from_le_bytes(*word);
        let zeros_in_exponent = (bits & exponents) ^ exponents;
        // The sign bit of each sum says that there was at least one zero; sums do not reach the next value.
        let is_finite = (zeros_in_exponent + EACH * 0x7fff) & (EACH * 0x8000);
        let is_not = is_finite ^ (EACH * 0x8000);
        *word = (bits & !(is_not >> 1)).to_le_bytes();
    }
}
