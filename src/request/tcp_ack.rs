//! Whether the client's kernel acknowledged the bytes that were written.
//!
//! **Trap: a write to a client that left succeeds.** A write only gives the bytes to this host's kernel. If the client
//! is connected, its kernel acknowledges them; if it left, its kernel answers with a reset. So only the kernel's
//! counter of acknowledged bytes shows what arrived, and only for the bytes that were counted before TLS or HTTP/2
//! write their closing messages: a client that received its response and left refuses those messages.

use pingora_core::protocols::SocketDigest;

/// The state `TCP_CLOSE`, which follows a reset.
const TCP_CLOSE: u8 = 7;

/// What the kernel knows about the bytes that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckState {
    /// The client's kernel acknowledged all bytes. Also the state of a connection that has no such counter.
    Acknowledged,
    /// The client's kernel acknowledged all bytes, and then the client reset the connection. It may have left without
    /// reading them.
    AcknowledgedThenReset,
    /// The client's kernel refused some bytes.
    Refused,
    /// The client's kernel has neither acknowledged nor refused all bytes.
    Pending,
}

/// How many bytes were written on a connection up to a moment. Bytes that are written later do not belong to the
/// response: the closing messages of TLS or HTTP/2 are sent to a client that left, too, and refused.
#[derive(Debug, Clone, Copy)]
pub struct BytesWritten(u64);

impl BytesWritten {
    /// Counts all bytes that were written until now.
    pub fn so_far(socket: &SocketDigest) -> Self {
        let bytes = socket.tcp_info().map_or(0, |info| {
            info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans) + u64::from(info.tcpi_notsent_bytes)
        });
        Self(bytes)
    }
}

/// Whether the client reset the connection. The end of what it sends (FIN) is no reset: a client that closed its write
/// half still reads.
pub fn is_reset(socket: &SocketDigest) -> bool {
    socket.tcp_info().is_some_and(|info| info.tcpi_state == TCP_CLOSE)
}

impl AckState {
    /// Returns what the kernel knows now about the bytes in `written`.
    pub fn of(socket: &SocketDigest, written: BytesWritten) -> Self {
        match socket.tcp_info() {
            Some(info) => Self::from_counters(info.tcpi_state, written, info.tcpi_bytes_acked),
            None => AckState::Acknowledged,
        }
    }

    fn from_counters(state: u8, written: BytesWritten, acknowledged: u64) -> Self {
        match (acknowledged >= written.0, state == TCP_CLOSE) {
            (true, false) => AckState::Acknowledged,
            (true, true) => AckState::AcknowledgedThenReset,
            (false, true) => AckState::Refused,
            (false, false) => AckState::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn refused_bytes_differ_from_acknowledged_ones() {
        const ESTABLISHED: u8 = 1;
        assert_eq!(AckState::from_counters(ESTABLISHED, BytesWritten(700), 700), AckState::Acknowledged);
        assert_eq!(AckState::from_counters(ESTABLISHED, BytesWritten(700), 200), AckState::Pending);
        assert_eq!(
            AckState::from_counters(TCP_CLOSE, BytesWritten(700), 701),
            AckState::AcknowledgedThenReset
        );
        assert_eq!(AckState::from_counters(TCP_CLOSE, BytesWritten(700), 200), AckState::Refused);
    }

    /// Returns what the kernel knows at the end about a response to a client that does `client`, before or after the
    /// response.
    fn final_ack_state(client: impl FnOnce(TcpStream), is_response_first: bool) -> AckState {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client_end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server_end, _) = listener.accept().unwrap();
        let socket = SocketDigest::from_raw_fd(server_end.as_raw_fd());
        if is_response_first {
            server_end.write_all(b"answer").unwrap();
            client(client_end);
        } else {
            client(client_end);
            server_end.write_all(b"answer").unwrap();
        }
        let written = BytesWritten::so_far(&socket);
        server_end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Waits until the end of the connection is known here, by a close or a reset.
        let _ = server_end.read(&mut [0; 9]);
        // The client refuses bytes that are written after the end.
        let _ = server_end.write_all(b"goodbye");
        for _ in 0..400 {
            let state = AckState::of(&socket, written);
            if state != AckState::Pending {
                return state;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        AckState::Pending
    }

    #[test]
    fn the_kernel_knows_whether_a_response_arrived() {
        let (keep, kept) = std::sync::mpsc::channel();
        let reads = move |mut it: TcpStream| {
            it.read_exact(&mut [0; 6]).unwrap();
            it.shutdown(std::net::Shutdown::Write).unwrap();
            keep.send(it).unwrap();
        };
        assert_eq!(final_ack_state(reads, true), AckState::Acknowledged);
        drop(kept);
        assert_eq!(final_ack_state(drop, false), AckState::Refused, "it left before the response");
        assert_eq!(final_ack_state(drop, true), AckState::AcknowledgedThenReset, "it left without reading");
    }
}
