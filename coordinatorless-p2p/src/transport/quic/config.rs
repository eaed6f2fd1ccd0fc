//! How QUIC is tuned, and why; every limit has its name here.

use std::{sync::Arc, time::Duration};

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, VarInt, congestion::CubicConfig};

use crate::error::{Error, ErrorKind, Result};

/// Packets that a peer may leave unacknowledged; one more and it says so at once. Of links that are full both
/// ways acknowledgements take their share, and where the kernel hands over packets one by one, as it does behind
/// a shaper, each costs a wake-up.
const UNACKNOWLEDGED: u32 = 5;
/// How long fewer of them wait: where so little is under way, it must not wait for more.
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(5);

/// Sizes and patience. The default is meant for a data centre.
#[derive(Debug, Clone)]
pub struct QuicConfig {
    /// How long a connection may take until both certificates are checked.
    pub connect_timeout: Duration,
    /// A peer that says nothing for this long is gone. At least three times `keep_alive`.
    pub idle_timeout: Duration,
    /// How often a quiet connection is asked for a sign of life.
    pub keep_alive: Duration,
    /// A connection without streams or datagrams is closed after this time.
    pub unused_after: Duration,
    /// Connections that may exist at once; further ones are refused.
    pub max_connections: usize,
    /// Handshakes that may be under way at once; from half of them on, addresses must prove that
    /// they are not forged.
    pub max_handshakes: usize,
    /// Handshakes with others begun in a second; those above wait.
    pub handshakes_per_second: u32,
    /// Streams that a peer may have open towards us on one connection.
    pub max_streams: u32,
    /// Streams opened by peers and not yet accepted by us; peers wait beyond that.
    pub incoming_queue: usize,
    /// Datagrams received and not yet taken by us; later ones are dropped beyond that.
    pub datagram_queue: usize,
    /// What a peer may send on one stream before we read it, in bytes: rate × round trip.
    pub stream_window_bytes: u32,
    /// What a peer may send on all streams before we read it, in bytes. A bound on memory per peer.
    pub receive_window_bytes: u32,
    /// What may be queued or unacknowledged towards a peer, in bytes. A bound on memory per peer.
    pub send_window_bytes: u64,
    /// The largest datagram that path discovery tries for, in bytes of UDP payload: 8,952 fills
    /// 9,000-byte frames over IPv6, 1,452 fills ordinary ones. From 1,200 to 9,000.
    pub max_payload_bytes: u16,
    /// Socket buffers to ask the kernel for, in bytes.
    pub socket_buffer_bytes: usize,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(8),
            keep_alive: Duration::from_secs(2),
            unused_after: Duration::from_secs(60),
            max_connections: 4096,
            max_handshakes: 64,
            handshakes_per_second: 256,
            max_streams: 1024,
            incoming_queue: 256,
            datagram_queue: 1024,
            stream_window_bytes: 16 << 20,
            receive_window_bytes: 64 << 20,
            send_window_bytes: 32 << 20,
            max_payload_bytes: 8952,
            socket_buffer_bytes: 8 << 20,
        }
    }
}

impl QuicConfig {
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if !(1200..=9000).contains(&self.max_payload_bytes) {
            return wrong(format!("max_payload_bytes {} is not within 1200 to 9000", self.max_payload_bytes));
        }
        if self.keep_alive.is_zero() || self.idle_timeout < 3 * self.keep_alive {
            return wrong(format!(
                "idle_timeout {:?} is less than three times keep_alive {:?}",
                self.idle_timeout, self.keep_alive
            ));
        }
        if self.incoming_queue == 0 || self.datagram_queue == 0 || self.max_handshakes == 0 {
            return wrong("queues and handshakes need a limit above 0".to_owned());
        }
        Ok(())
    }

    pub(super) fn transport(&self) -> Result<Arc<quinn::TransportConfig>> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|e| {
            Error::with_source(
                ErrorKind::Invalid,
                format!("idle_timeout {:?} is too long", self.idle_timeout),
                e,
            )
        })?;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.max_payload_bytes);
        let mut acknowledgements = AckFrequencyConfig::default();
        acknowledgements
            .ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED))
            .max_ack_delay(Some(ACKNOWLEDGED_AFTER));
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams))
            // The one greeting that ends a handshake.
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.receive_window_bytes))
            .send_window(self.send_window_bytes)
            .datagram_receive_buffer_size(Some(256 << 10))
            .datagram_send_buffer_size(256 << 10)
            .mtu_discovery_config(Some(discovery))
            .ack_frequency_config(Some(acknowledgements))
            // Without it a stream that has begun is sent to its end, whatever the priority of those that wait.
            // No two of ours have the same, so that chunks still complete one after the other and can be passed
            // on, rather than all at the end.
            .send_fairness(true)
            // Until it is measured; the default, a third of a second, is for the open internet.
            .initial_rtt(Duration::from_millis(100))
            // Measured 11–26 % less CPU than BBR.
            .congestion_controller_factory(Arc::new(CubicConfig::default()))
            // Off costs four times the CPU.
            .enable_segmentation_offload(true);
        Ok(Arc::new(transport))
    }
}
