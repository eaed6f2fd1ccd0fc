//! Records of how artifacts are read: found on this disk or with the homes of a swarm, given to these, shown and
//! forgotten. What an order is, and how it is written, is [`order`](crate::order)'s.

use std::time::Duration;

use bytes::Bytes;
use coordinatorless_p2p::{NodeId, SwarmId};
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    api::{ReadStretch, ReadingOrderInfo},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    order::ReadingOrder,
    services::Service,
    store::Store,
};

/// Stretches that are shown.
const SHOWN_MAX: usize = 1000;
/// The longest that a node gives to others.
const MAX_OFFERED_BYTES: usize = 64 << 10;
/// How long a home has to say the order that it keeps: a pull waits for it.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// How long an offer may take.
const OFFER_DEADLINE: Duration = Duration::from_secs(5);

/// The order in which a swarm's artifact was read before: as this disk has it, else as a home does. Cancel-safe.
pub(crate) async fn find(engine: &Engine, swarm: SwarmId) -> Option<ReadingOrder> {
    if let Some(order) = engine.store.reading_order(swarm).await {
        return Some(order);
    }
    let me = engine.cluster.id();
    let homes = engine.cluster.homes(&swarm.0).into_iter().filter(|home| *home != me);
    let mut asked: FuturesUnordered<_> = homes.map(|home| ask(engine, home, swarm)).collect();
    while let Some(answer) = asked.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

async fn ask(engine: &Engine, home: NodeId, swarm: SwarmId) -> Option<ReadingOrder> {
    let service = Service::ReadingOrder.number();
    let answer = engine.cluster.call(home, service, &swarm.0, ASK_DEADLINE).await.ok()?;
    match ReadingOrder::decode(&answer) {
        Ok(order) if order.swarm() == swarm => Some(order),
        Ok(_) => None,
        Err(e) => {
            tracing::debug!(home = %home.short(), error = %e, "a home's reading order cannot be read");
            None
        }
    }
}

/// Gives an order to the homes of its swarm, as far as they can be reached.
pub(crate) async fn offer(engine: &Engine, order: &ReadingOrder) {
    let (encoded, swarm) = (order.encode(), order.swarm());
    if encoded.len() > MAX_OFFERED_BYTES {
        return;
    }
    for home in engine.cluster.homes(&swarm.0) {
        let offered = if home == engine.cluster.id() {
            engine.store.keep_order_for_others(order.clone()).await
        } else {
            let service = Service::KeepReadingOrder.number();
            engine.cluster.call(home, service, &encoded, OFFER_DEADLINE).await.map(drop)
        };
        if let Err(e) = offered {
            tracing::debug!(home = %home.short(), error = %e, "a reading order could not be offered");
        }
    }
}

/// Answers [`Service::KeepReadingOrder`].
///
/// # Errors
/// `Invalid` for what is no order, or longer than what is kept for others.
pub(crate) async fn answer_offer(store: &Store, body: Bytes) -> Result<Bytes> {
    if body.len() > MAX_OFFERED_BYTES {
        return Err(Error::new(ErrorKind::Invalid, "a reading order of this length is not kept for others"));
    }
    store.keep_order_for_others(ReadingOrder::decode(&body)?).await?;
    Ok(Bytes::new())
}

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
