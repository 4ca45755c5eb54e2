//! Clients that close their write half, and clients that reset the connection.

use std::os::fd::AsRawFd;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const MAX_WAIT: Duration = Duration::from_secs(20);

/// Returns both ends of a connection of TCP.
async fn guarded_socket() -> (TcpStream, GuardedConnection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let digest = SocketDigest::from_raw_fd(server.as_raw_fd());
    let mut server = L4Stream::from(server);
    server.set_socket_digest(digest);
    (client, GuardedConnection::new(Box::new(server), ClientTimeouts::default()))
}

#[tokio::test]
async fn the_end_of_what_a_client_sends_is_hidden_while_an_exchange_runs() {
    for request in [GET.to_owned(), format!("{POST}hello"), format!("{CHUNKED}1\r\na\r\n0\r\n\r\n")] {
        let (mut client, mut guard) = guarded();
        send(&mut client, &request).await;
        client.shutdown().await.unwrap();
        assert_eq!(read_now(&mut guard).unwrap(), open(request));
        assert_eq!(read_now(&mut guard).unwrap(), open(""));
        guard.exchange_signal().finish_exchange();
        assert_eq!(read_now(&mut guard).unwrap(), ended(""));
    }
}

#[tokio::test]
async fn the_end_of_the_connection_comes_after_the_requests_before_it_are_answered() {
    let (mut client, mut guard) = guarded();
    send(&mut client, GET.repeat(2)).await;
    drop(client);
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), open(GET));
    guard.exchange_signal().finish_exchange();
    assert_eq!(read_now(&mut guard).unwrap(), ended(""));
}

#[tokio::test]
async fn an_engine_sees_the_end_only_after_it_has_flushed_its_response() {
    for request in [GET, UPGRADE] {
        let (mut client, mut guard) = guarded();
        send(&mut client, request).await;
        client.shutdown().await.unwrap();
        assert_eq!(read_now(&mut guard).unwrap(), open(request));
        if request == UPGRADE {
            guard.exchange_signal().start_tunnel();
        } else {
            guard.write_all(b"response").await.unwrap();
            guard.exchange_signal().finish_exchange();
        }
        assert_eq!(read_now(&mut guard).unwrap(), open(""), "the response is not flushed");
        guard.flush().await.unwrap();
        assert_eq!(read_now(&mut guard).unwrap(), ended(""));
    }
}

#[tokio::test]
async fn a_reset_ends_an_exchange_and_a_closed_write_half_does_not() {
    for is_half_closed in [false, true] {
        let (mut client, mut guard) = guarded_socket().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut buf = [0; 64];
        assert_eq!(timeout(MAX_WAIT, guard.read(&mut buf)).await.unwrap().unwrap(), GET.len());
        if is_half_closed {
            client.shutdown().await.unwrap();
            assert!(timeout(Duration::from_millis(700), guard.read(&mut buf)).await.is_err());
        }
        client.set_zero_linger().unwrap();
        drop(client);
        let ended = timeout(MAX_WAIT, guard.read(&mut buf)).await.expect("the reset is noticed");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{is_half_closed}");
    }
}

#[tokio::test]
async fn a_client_that_left_answers_a_response_with_a_reset_which_ends_the_exchange() {
    let (mut client, mut guard) = guarded_socket().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    drop(client);
    let mut buf = [0; 64];
    assert_eq!(timeout(MAX_WAIT, guard.read(&mut buf)).await.unwrap().unwrap(), GET.len());
    assert!(timeout(Duration::from_millis(700), guard.read(&mut buf)).await.is_err());
    guard.write_all(b"a piece of a response").await.unwrap();
    let ended = timeout(MAX_WAIT, guard.read(&mut buf)).await.expect("the reset is noticed");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
