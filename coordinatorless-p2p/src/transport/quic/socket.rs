//! The UDP socket below QUIC: how it is bound, how large its buffers are, how much it sends at once.
//!
//! Invariant: no batch handed to the kernel is larger than an IP datagram may be. quinn sends up
//! to 10 datagrams at once; ten jumbo ones are refused with EMSGSIZE, which quinn takes for a failed
//! probe of the path, and falls back to 1,200 bytes without a word.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};

/// The largest payload of a UDP datagram over IPv4, which bounds a batch as well, in bytes.
const MAX_BATCH_BYTES: usize = 65_507;

/// Binds a UDP socket; one on `[::]` takes IPv4 too.
pub(super) fn bind(addr: SocketAddr, buffer_bytes: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    enlarge_buffers(&socket, buffer_bytes);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// As large as we may: past `net.core.rmem_max` only with CAP_NET_ADMIN.
fn enlarge_buffers(socket: &Socket, bytes: usize) {
    use rustix::net::sockopt::set_socket_recv_buffer_size_force as force_receive;
    if force_receive(socket, bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    let _ = socket.set_send_buffer_size(bytes);
    // The kernel reports twice what it grants, the other half being its bookkeeping.
    let granted = socket.recv_buffer_size().map_or(0, |b| b / 2);
    if granted < bytes {
        tracing::info!(
            granted_bytes = granted,
            wanted_bytes = bytes,
            "the kernel grants small receive buffers; sysctl net.core.rmem_max raises them"
        );
    }
}

/// A socket that never hands the kernel too large a batch.
#[derive(Debug)]
pub(super) struct CappedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// The largest datagram that was sent, which bounds how many go into a batch.
    largest_segment: AtomicUsize,
    max_payload_bytes: usize,
}

impl CappedSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, max_payload_bytes: usize) -> Self {
        Self { inner, largest_segment: AtomicUsize::new(1), max_payload_bytes: max_payload_bytes.max(1) }
    }
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.largest_segment.fetch_max(segment, Ordering::Relaxed);
        if transmit.contents.len() <= MAX_BATCH_BYTES || segment == 0 || segment > MAX_BATCH_BYTES {
            return self.inner.try_send(transmit);
        }
        // A batch that was begun before the path turned out to be this wide.
        for contents in transmit.contents.chunks(MAX_BATCH_BYTES / segment * segment) {
            self.inner.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: transmit.segment_size,
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let fit = MAX_BATCH_BYTES / self.largest_segment.load(Ordering::Relaxed).max(1);
        self.inner.max_transmit_segments().min(fit).max(1)
    }

    fn max_receive_segments(&self) -> usize {
        // Sizes the receive buffer (segments × payload, 32 of them); the kernel merges at most 64 KiB.
        self.inner.max_receive_segments().min(65_536usize.div_ceil(self.max_payload_bytes))
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Kernel(Mutex<Vec<usize>>);

    impl AsyncUdpSocket for Kernel {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nobody waits in these tests")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            if transmit.contents.len() > MAX_BATCH_BYTES {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::MSGSIZE.raw_os_error()));
            }
            self.0.lock().unwrap().push(transmit.contents.len());
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }

        fn max_transmit_segments(&self) -> usize {
            64
        }

        fn max_receive_segments(&self) -> usize {
            64
        }
    }

    fn send(socket: &CappedSocket, segments: usize, segment: usize) -> io::Result<()> {
        socket.try_send(&Transmit {
            destination: ([127, 0, 0, 1], 2).into(),
            ecn: None,
            contents: &vec![0; segments * segment],
            segment_size: Some(segment),
            src_ip: None,
        })
    }

    #[test]
    fn ten_jumbo_datagrams_reach_the_kernel_in_batches_that_it_takes() {
        let kernel = Arc::new(Kernel::default());
        let socket = CappedSocket::new(Arc::clone(&kernel) as _, 8952);
        send(&socket, 10, 1452).unwrap();
        assert!(socket.max_transmit_segments() >= 10, "ordinary datagrams keep the full batch");
        send(&socket, 10, 8952).unwrap();
        assert_eq!(*kernel.0.lock().unwrap(), [14_520, 7 * 8952, 3 * 8952]);
        assert_eq!(socket.max_transmit_segments(), 7, "and from then on batches are made to fit");
    }

    #[test]
    fn a_socket_on_the_unspecified_v6_address_takes_v4_too() {
        let Ok(dual) = bind("[::]:0".parse().unwrap(), 1 << 16) else {
            return; // a machine without IPv6
        };
        let port = dual.local_addr().unwrap().port();
        let v4 = bind("127.0.0.1:0".parse().unwrap(), 1 << 16).unwrap();
        v4.send_to(b"x", ("127.0.0.1", port)).unwrap();
        dual.set_nonblocking(false).unwrap();
        dual.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let (n, from) = dual.recv_from(&mut [0; 8]).unwrap();
        assert_eq!((n, from.ip().to_canonical()), (1, v4.local_addr().unwrap().ip()));
    }
}
