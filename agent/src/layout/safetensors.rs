//! The header of a safetensors file: eight bytes of length, then JSON.
//!
//! Stricter and more frugal than needed to serve a model: names are reduced to a number at once, shapes
//! to a product, so memory is bounded by a small part of the header's own length. A dtype that is not
//! known here is no error (its size is then not checked); everything else that the reference reader
//! refuses makes the file opaque.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Header, MAX_HEADER_BYTES, MAX_TENSORS, Tensor, Tensors, name_key};

/// One request brings most headers whole: a model shard has some hundred tensors of about 120 bytes.
const FIRST_READ_BYTES: u64 = 64 << 10;

const LENGTH_BYTES: u64 = 8;

pub(super) fn read(size: u64, header: &[u8]) -> Header {
    let Some((length, json)) = header.split_first_chunk::<8>() else {
        return if size < LENGTH_BYTES { Header::Opaque } else { Header::Lacks(FIRST_READ_BYTES.min(size)) };
    };
    let json_bytes = u64::from_le_bytes(*length);
    if json_bytes > MAX_HEADER_BYTES - LENGTH_BYTES || json_bytes > size - LENGTH_BYTES {
        return Header::Opaque;
    }
    match json.get(..json_bytes as usize) {
        None => Header::Lacks(LENGTH_BYTES + json_bytes),
        Some(json) => match tensors(json, size - LENGTH_BYTES - json_bytes) {
            Some(tensors) => Header::Tensors(Tensors { header_bytes: LENGTH_BYTES + json_bytes, tensors }),
            None => Header::Opaque,
        },
    }
}

/// The tensors in the order of the data, if they cover exactly `data_bytes`.
fn tensors(json: &[u8], data_bytes: u64) -> Option<Vec<Tensor>> {
    let text = std::str::from_utf8(json).ok()?;
    let Entries(mut tensors) = serde_json::from_str(text).ok()?;

    tensors.sort_unstable_by_key(|tensor| tensor.key);
    if tensors.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return None;
    }
    // Several tensors may start at one place if all but one are empty.
    tensors.sort_unstable_by_key(|tensor| (tensor.begin, tensor.bytes, tensor.key));
    let mut end = 0u64;
    for tensor in &tensors {
        if tensor.begin != end {
            return None;
        }
        end = end.checked_add(tensor.bytes)?;
    }
    (end == data_bytes).then_some(tensors)
}

/// The whole JSON object.
struct Entries(Vec<Tensor>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = false;
                while let Some(Text(name)) = map.next_key()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut metadata, true) {
                            return Err(A::Error::custom("two __metadata__"));
                        }
                        map.next_value::<Option<Strings>>()?;
                        continue;
                    }
                    if tensors.len() as u64 == MAX_TENSORS {
                        return Err(A::Error::custom("too many tensors"));
                    }
                    let (begin, bytes) = map.next_value::<Entry<'de>>()?.place().map_err(A::Error::custom)?;
                    tensors.push(Tensor { begin, bytes, key: name_key(name.as_bytes()) });
                }
                Ok(Entries(tensors))
            }
        }
        d.deserialize_map(Object)
    }
}

/// What stands behind a tensor's name.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Text<'a>,
    shape: Elements,
    data_offsets: (u64, u64),
}

impl Entry<'_> {
    /// Start and length within the data.
    fn place(&self) -> Result<(u64, u64), &'static str> {
        let (begin, end) = self.data_offsets;
        let bytes = end.checked_sub(begin).ok_or("a tensor ends before it begins")?;
        if let Some(bits) = bits_of(&self.dtype.0) {
            let wanted = self.shape.0.checked_mul(bits).ok_or("a tensor's size overflows")?;
            if Some(wanted) != bytes.checked_mul(8) {
                return Err("a tensor's shape and span differ");
            }
        }
        Ok((begin, bytes))
    }
}

/// Bits of one element, for the dtypes that are known.
fn bits_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The product of a shape: how many elements the tensor has.
struct Elements(u64);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements, A::Error> {
                let mut product = 1u64;
                while let Some(dimension) = seq.next_element::<u64>()? {
                    product =
                        product.checked_mul(dimension).ok_or_else(|| A::Error::custom("shape overflows"))?;
                }
                Ok(Elements(product))
            }
        }
        d.deserialize_seq(Shape)
    }
}

/// A map of strings to strings, of which nothing is kept.
struct Strings;

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                while map.next_entry::<IgnoredAny, Text<'de>>()?.is_some() {}
                Ok(Strings)
            }
        }
        d.deserialize_map(Pairs)
    }
}
