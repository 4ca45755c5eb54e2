//! The memory that the kernel uses for sockets, asked of it as `ss --memory` does (`sock_diag(7)`).

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::failure::Failure;

/// Types of messages: the request for sockets of a family, the end of the answer, an error (`linux/netlink.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// That the message is a request for all that match.
const REQUEST_DUMP: u16 = 0x301;
/// `AF_INET`, `IPPROTO_TCP`, and the state of an open connection (`linux/tcp_states.h`).
const IPV4: u8 = 2;
const TCP: u8 = 6;
const ESTABLISHED: u32 = 1 << 1;
/// The attribute with the memory of a socket (`linux/inet_diag.h`).
const SKMEMINFO: u16 = 7;
/// Lengths of the headers of a message and of a socket.
const MESSAGE_HEADER: usize = 16;
const SOCKET_HEADER: usize = 72;

/// Returns the bytes of the open connections whose own port, or whose peer's port, is one of these: received and not
/// read, sent and not acknowledged, and reserved for either.
///
/// # Errors
/// The kernel does not answer, or not as documented.
pub(crate) fn bytes(own_port: u16, peer_port: u16) -> Result<u64, Failure> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut request = Vec::new();
    request.extend_from_slice(&72_u32.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[IPV4, TCP, 1 << (SKMEMINFO - 1), 0]);
    request.extend_from_slice(&ESTABLISHED.to_ne_bytes());
    request.extend_from_slice(&[0; 48]);
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = vec![0; 64 * 1024];
    let mut sum = 0;
    loop {
        let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let mut rest = answer.get(..length).ok_or("a message of the kernel is too long")?;
        while rest.len() >= MESSAGE_HEADER {
            let message = rest.get(..u32_at(rest, 0)? as usize).ok_or("a message of the kernel is cut")?;
            match u16_at(message, 4)? {
                NLMSG_DONE => return Ok(sum),
                NLMSG_ERROR => return Err("the kernel does not describe sockets".into()),
                _ => sum += socket_bytes(&message[MESSAGE_HEADER..], own_port, peer_port)?,
            }
            rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Returns the bytes of one socket; 0 if it has other ports.
fn socket_bytes(message: &[u8], own_port: u16, peer_port: u16) -> Result<u64, Failure> {
    let port = |at| Ok::<_, Failure>(u16::from_be(u16_at(message, at)?));
    if port(4)? != own_port && port(6)? != peer_port {
        return Ok(0);
    }
    let mut rest = message.get(SOCKET_HEADER..).unwrap_or_default();
    while rest.len() >= 4 {
        let attribute = rest.get(..usize::from(u16_at(rest, 0)?)).ok_or("an attribute is cut")?;
        if u16_at(attribute, 2)? == SKMEMINFO {
            // Received; its maximum; sent; its maximum; reserved; queued to be sent, which contains what is sent; options.
            let [received, reserved, queued, options] =
                [0, 4, 5, 6].map(|number| u32_at(attribute, 4 + 4 * number));
            return Ok(u64::from(received?)
                + u64::from(reserved?)
                + u64::from(queued?)
                + u64::from(options?));
        }
        rest = rest.get(attribute.len().max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Err("the kernel does not report the memory of sockets".into())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Failure> {
    let bytes = bytes.get(at..at + 2).ok_or("a message of the kernel is cut")?;
    Ok(u16::from_ne_bytes(bytes.try_into()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Failure> {
    let bytes = bytes.get(at..at + 4).ok_or("a message of the kernel is cut")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_peer_has_not_read_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let before = bytes(port, 0).unwrap();
        client.write_all(&[1; 30_000]).unwrap();
        assert!(bytes(port, 0).unwrap() >= before + 30_000);
    }
}
