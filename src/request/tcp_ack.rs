//! Whether a client took what was written to it.
//!
//! A write only hands bytes to the kernel. For a client that has left, its own kernel answers them with a reset; only a
//! client that is there has them acknowledged.

use pingora_core::protocols::SocketDigest;

/// `TCP_CLOSE`: after a reset.
const CLOSED: u8 = 7;

/// What the kernel knows of the bytes that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckState {
    /// The client's kernel has them all; or nothing can be said about that here.
    Taken,
    /// The same, and then the client reset the connection: it may have left without reading them.
    Dropped,
    /// The client's kernel refused some.
    Refused,
    /// It has not said yet.
    Open,
}

/// How many bytes were written on a connection up to a moment. What is written later is none of an answer's: to a client
/// that took its answer and left, the end of TLS or HTTP/2 is still said, and refused.
#[derive(Debug, Clone, Copy)]
pub struct Written(u64);

impl Written {
    /// All until now.
    pub fn so_far(socket: &SocketDigest) -> Self {
        let bytes = socket.tcp_info().map_or(0, |info| {
            info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans) + u64::from(info.tcpi_notsent_bytes)
        });
        Self(bytes)
    }
}

impl AckState {
    /// What the kernel says now of what was written by then.
    pub fn of(socket: &SocketDigest, written: Written) -> Self {
        match socket.tcp_info() {
            Some(info) => Self::read(info.tcpi_state, written, info.tcpi_bytes_acked),
            None => AckState::Taken,
        }
    }

    fn read(state: u8, written: Written, acknowledged: u64) -> Self {
        match (acknowledged >= written.0, state == CLOSED) {
            (true, false) => AckState::Taken,
            (true, true) => AckState::Dropped,
            (false, true) => AckState::Refused,
            (false, false) => AckState::Open,
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
    fn what_was_refused_is_told_from_what_was_taken() {
        const ESTABLISHED: u8 = 1;
        assert_eq!(AckState::read(ESTABLISHED, Written(700), 700), AckState::Taken);
        assert_eq!(AckState::read(ESTABLISHED, Written(700), 200), AckState::Open);
        assert_eq!(AckState::read(CLOSED, Written(700), 701), AckState::Dropped);
        assert_eq!(AckState::read(CLOSED, Written(700), 200), AckState::Refused);
    }

    /// What the kernel says in the end of an answer to a client that does this.
    fn receipt_of(client: impl FnOnce(TcpStream), answer_first: bool) -> AckState {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut here, _) = listener.accept().unwrap();
        let socket = SocketDigest::from_raw_fd(here.as_raw_fd());
        if answer_first {
            here.write_all(b"answer").unwrap();
            client(there);
        } else {
            client(there);
            here.write_all(b"answer").unwrap();
        }
        let written = Written::so_far(&socket);
        here.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Until the client's end of it is known here, for better or worse.
        let _ = here.read(&mut [0; 9]);
        // What is said after it is refused by all.
        let _ = here.write_all(b"goodbye");
        for _ in 0..400 {
            let receipt = AckState::of(&socket, written);
            if receipt != AckState::Open {
                return receipt;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        AckState::Open
    }

    #[test]
    fn the_kernel_tells_what_became_of_an_answer() {
        let (keep, kept) = std::sync::mpsc::channel();
        let reads = move |mut it: TcpStream| {
            it.read_exact(&mut [0; 6]).unwrap();
            it.shutdown(std::net::Shutdown::Write).unwrap();
            keep.send(it).unwrap();
        };
        assert_eq!(receipt_of(reads, true), AckState::Taken);
        drop(kept);
        assert_eq!(receipt_of(drop, false), AckState::Refused, "it was gone before");
        assert_eq!(receipt_of(drop, true), AckState::Dropped, "it went without reading");
    }
}
