//! TCP connections in a checkpoint. A connection between two processes of an instance goes on in all its restored
//! instances. One to anything else, such as a server outside, the proxy or a ready check, cannot: its other end belongs
//! to the frozen instance. It is closed in the images, so that the app sees a closed connection at once and makes a new
//! one, as after any loss of its network.
//!
//! CRIU has the kernel send what had not been sent while it restores a socket. The process with the other end is restored
//! at the same time: if its socket does not exist yet, the kernel resets the connection, and the restore fails. So a failed
//! restore of such a checkpoint is tried again ([`have_unsent_data`]).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use super::sharing::{CriuImage, Malformed, ProtoMessage};

/// The image of open files.
const FILES: &str = "files.img";
/// The field of an open file that describes an internet socket, and its fields that are read or set.
const INTERNET_SOCKET: u32 = 4;
const TYPE: u32 = 4;
const PROTOCOL: u32 = 5;
const STATE: u32 = 6;
const SOURCE_PORT: u32 = 7;
const PEER_PORT: u32 = 8;
const SOURCE_ADDRESS: u32 = 11;
const PEER_ADDRESS: u32 = 12;
const SHUTDOWN: u32 = 19;

/// How the names of the images of connections begin. Each is a message, followed by the data in both queues.
const STREAM_PREFIX: &str = "tcp-stream-";
/// The bytes of an image before its first message, and of a message's length.
const MAGIC_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;
/// The field of a connection with the number of bytes that were not sent.
const UNSENT: u32 = 12;

const SOCK_STREAM: u64 = 1;
const IPPROTO_TCP: u64 = 6;
/// The states of TCP, as the kernel numbers them.
const TCP_CLOSE: u64 = 7;
const TCP_LISTEN: u64 = 10;
/// The value of `shutdown` for a socket to which nothing more is written.
const SHUTDOWN_WRITE: u64 = 2;

/// One end of a connection: its address and port, and those of its peer.
#[derive(Debug, PartialEq, Eq, Hash)]
struct End {
    own: (Ipv6Addr, u64),
    peer: (Ipv6Addr, u64),
}

impl End {
    /// Returns the end that a socket has; `None` for a socket without a connection.
    fn of(socket: &ProtoMessage) -> Option<Self> {
        let state = socket.number(STATE)?;
        let is_tcp = socket.number(TYPE) == Some(SOCK_STREAM) && socket.number(PROTOCOL) == Some(IPPROTO_TCP);
        if !is_tcp || state == TCP_CLOSE || state == TCP_LISTEN {
            return None;
        }
        let end = |address, port| Some((self::address(socket, address)?, socket.number(port)?));
        Some(Self { own: end(SOURCE_ADDRESS, SOURCE_PORT)?, peer: end(PEER_ADDRESS, PEER_PORT)? })
    }

    fn mirrored(&self) -> Self {
        Self { own: self.peer, peer: self.own }
    }
}

/// Returns an address of a socket. That of version 4 becomes one of version 6: the two ends of a connection may see it
/// in different versions.
fn address(socket: &ProtoMessage, field: u32) -> Option<Ipv6Addr> {
    let words: Vec<u32> = socket.all_numbers(field).map(|word| word as u32).collect();
    match *words.as_slice() {
        // The bytes are in the order of the network, whatever the order of this machine is.
        [v4] => Some(std::net::Ipv4Addr::from(v4.to_ne_bytes()).to_ipv6_mapped()),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (part, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                part.copy_from_slice(&word.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes))
        }
        _ => None,
    }
}

/// Closes the connections in a checkpoint's images whose other end is not in them too. Returns how many these were.
///
/// # Errors
/// The image of open files cannot be read or written.
pub(super) fn close_outside(images: &Path) -> io::Result<usize> {
    let path = images.join(FILES);
    let malformed = |why: Malformed| io::Error::other(format!("{FILES}: {why}"));
    let mut files = CriuImage::read(&fs::read(&path)?).map_err(malformed)?;
    let closed = close_in(&mut files).map_err(malformed)?;
    if closed > 0 {
        let draft = path.with_extension("draft");
        fs::write(&draft, files.write())?;
        fs::rename(draft, path)?;
    }
    Ok(closed)
}

fn close_in(files: &mut CriuImage) -> Result<usize, Malformed> {
    let mut ends = HashSet::new();
    for record in &files.records {
        for socket in record.all_bytes(INTERNET_SOCKET) {
            ends.extend(End::of(&ProtoMessage::read(socket)?));
        }
    }
    let mut closed = 0;
    for record in &mut files.records {
        record.change_each::<Malformed>(INTERNET_SOCKET, |mut socket| {
            if End::of(&socket).is_none_or(|end| ends.contains(&end.mirrored())) {
                return Ok(None);
            }
            // Without a port it is not bound, so an address that the instance does not have does no harm.
            for (field, value) in
                [(STATE, TCP_CLOSE), (SOURCE_PORT, 0), (PEER_PORT, 0), (SHUTDOWN, SHUTDOWN_WRITE)]
            {
                socket.set_number(field, value);
            }
            closed += 1;
            Ok(Some(socket))
        })?;
    }
    Ok(closed)
}

/// Returns whether a connection in a checkpoint's images has data that was not sent. An image that cannot be read has none.
pub(crate) fn have_unsent_data(images: &Path) -> bool {
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    let streams = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(STREAM_PREFIX));
    streams
        .filter_map(|entry| fs::read(entry.path()).ok())
        .any(|image| unsent_bytes(&image).is_ok_and(|unsent| unsent > 0))
}

/// Returns how many bytes of a connection were not sent, by its image.
fn unsent_bytes(image: &[u8]) -> Result<u64, Malformed> {
    let rest = image.get(MAGIC_BYTES..).ok_or(Malformed::Short)?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(Malformed::Short)?;
    let message = rest.get(..u32::from_le_bytes(*length) as usize).ok_or(Malformed::Short)?;
    Ok(ProtoMessage::read(message)?.number(UNSENT).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_was_not_sent_is_found() {
        let image = |unsent: Option<u64>| {
            let mut message = Vec::new();
            prost::encoding::uint64::encode(3, &5, &mut message);
            if let Some(unsent) = unsent {
                prost::encoding::uint64::encode(UNSENT, &unsent, &mut message);
            }
            let length = (message.len() as u32).to_le_bytes();
            [&b"MAGIC---"[..], &length, &message, b"queue"].concat()
        };
        assert_eq!(unsent_bytes(&image(Some(300))), Ok(300));
        assert_eq!(unsent_bytes(&image(None)), Ok(0));
        for length in 0..image(None).len() - b"queue".len() {
            assert_eq!(unsent_bytes(&image(None)[..length]), Err(Malformed::Short), "{length} bytes");
        }
        let folder = std::env::temp_dir().join(format!("try-it-now-streams-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tcp-stream-1.img"), image(Some(0))).unwrap();
        fs::write(folder.join("files.img"), image(Some(1))).unwrap();
        assert!(!have_unsent_data(&folder));
        fs::write(folder.join("tcp-stream-2.img"), image(Some(1))).unwrap();
        assert!(have_unsent_data(&folder));
        fs::remove_dir_all(&folder).unwrap();
        assert!(!have_unsent_data(&folder));
    }

    const ESTABLISHED: u64 = 1;

    fn words(address: &str) -> Vec<u64> {
        let bytes = match address.parse().unwrap() {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        };
        let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        words.map(u64::from).collect()
    }

    fn socket(state: u64, (own, port): (&str, u64), (peer, peer_port): (&str, u64)) -> ProtoMessage {
        let mut bytes = Vec::new();
        for (number, value) in [
            (TYPE, SOCK_STREAM),
            (PROTOCOL, IPPROTO_TCP),
            (STATE, state),
            (SOURCE_PORT, port),
            (PEER_PORT, peer_port),
        ] {
            prost::encoding::uint64::encode(number, &value, &mut bytes);
        }
        for (number, address) in [(SOURCE_ADDRESS, own), (PEER_ADDRESS, peer)] {
            prost::encoding::uint64::encode_repeated(number, &words(address), &mut bytes);
        }
        ProtoMessage::read(&bytes).unwrap()
    }

    /// Closes what must be closed among these sockets, and returns the state and port of each.
    fn close(sockets: &[ProtoMessage]) -> Vec<(u64, u64)> {
        let mut image = CriuImage::read(&[0x19, 0x43, 0x56, 0x54, 0, 0, 0, 0]).unwrap();
        for socket in sockets {
            let mut record = ProtoMessage::default();
            record.push_bytes(INTERNET_SOCKET, &socket.write());
            image.records.push(record);
        }
        close_in(&mut image).unwrap();
        let sockets = image.records.iter().flat_map(|record| record.all_bytes(INTERNET_SOCKET));
        let sockets = sockets.map(|socket| ProtoMessage::read(socket).unwrap());
        sockets.map(|socket| (socket.number(STATE).unwrap(), socket.number(SOURCE_PORT).unwrap())).collect()
    }

    #[test]
    fn a_connection_with_both_ends_in_the_images_stays() {
        let (app, database) = (("127.0.0.1", 40_000), ("127.0.0.1", 3306));
        let both = [socket(ESTABLISHED, app, database), socket(ESTABLISHED, database, app)];
        assert_eq!(close(&both), [(ESTABLISHED, 40_000), (ESTABLISHED, 3306)]);
    }

    #[test]
    fn the_two_ends_may_see_the_addresses_in_different_versions() {
        let app = socket(ESTABLISHED, ("127.0.0.1", 40_000), ("127.0.0.1", 80));
        let server = socket(ESTABLISHED, ("::ffff:127.0.0.1", 80), ("::ffff:127.0.0.1", 40_000));
        assert_eq!(close(&[app, server]), [(ESTABLISHED, 40_000), (ESTABLISHED, 80)]);
    }

    #[test]
    fn a_connection_to_anything_else_is_closed() {
        let outside = socket(ESTABLISHED, ("10.1.2.3", 40_000), ("198.51.100.7", 443));
        let half_closed = socket(8, ("::1", 80), ("::1", 40_001));
        // Another connection of the same app to the same port.
        let other = socket(ESTABLISHED, ("::1", 40_002), ("::1", 80));
        assert_eq!(close(&[outside, half_closed, other]), [(TCP_CLOSE, 0); 3]);
    }

    #[test]
    fn sockets_that_listen_or_are_closed_stay() {
        let listening = socket(TCP_LISTEN, ("0.0.0.0", 80), ("0.0.0.0", 0));
        let closed = socket(TCP_CLOSE, ("127.0.0.1", 81), ("127.0.0.1", 5));
        assert_eq!(close(&[listening, closed]), [(TCP_LISTEN, 80), (TCP_CLOSE, 81)]);
    }
}
