//! `preload record`: the reading order of an artifact, shown and forgotten.

use coordinatorless_p2p::SwarmId;

use crate::{
    api::{ReadStretch, ReadingOrderInfo},
    engine::Engine,
    error::{Error, ErrorKind, Result},
};

/// Stretches that are shown.
const SHOWN_MAX: usize = 1000;

fn nothing(named: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("in which order {named} is read was not recorded yet"))
}

/// # Errors
/// `NotFound` when nothing was recorded.
pub(crate) async fn show(engine: &Engine, swarm: SwarmId, named: &str) -> Result<ReadingOrderInfo> {
    let missing = || nothing(named);
    let order = engine.store.reading_order(swarm).await.ok_or_else(missing)?;
    let blueprint = engine.store.blueprint(swarm).ok_or_else(missing)?;
    let mut info = ReadingOrderInfo {
        reference: named.to_owned(),
        swarm: swarm.to_string(),
        chunks: 0,
        bytes: 0,
        stretches: Vec::new(),
    };
    let mut last: Option<(usize, u64)> = None;
    for place in order.chunks(blueprint.chunk_count()).into_iter().filter_map(|index| blueprint.place(index))
    {
        info.chunks += 1;
        info.bytes += u64::from(place.bytes);
        let goes_on = last == Some((place.file, place.offset));
        last = Some((place.file, place.offset + u64::from(place.bytes)));
        let is_full = info.stretches.len() >= SHOWN_MAX;
        match info.stretches.last_mut() {
            Some(stretch) if goes_on => stretch.bytes += u64::from(place.bytes),
            _ if is_full => last = None,
            _ => info.stretches.push(ReadStretch {
                path: blueprint.files[place.file].path.to_string(),
                offset: place.offset,
                bytes: u64::from(place.bytes),
            }),
        }
    }
    Ok(info)
}

/// # Errors
/// `NotFound` when nothing was recorded.
pub(crate) async fn forget(engine: &Engine, swarm: SwarmId, named: &str) -> Result<()> {
    if engine.store.forget_reading_order(swarm).await? { Ok(()) } else { Err(nothing(named)) }
}
