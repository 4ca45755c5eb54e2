//! A small HTTP server that behaves as told, path by path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Fine,
    /// 500.
    Error,
    /// Closes without a word.
    Close,
    /// Reads, and never answers.
    Hang,
}

#[derive(Clone)]
pub(super) struct TestApp {
    pub(super) endpoint: SocketAddr,
    manners: Arc<Mutex<HashMap<&'static str, Manner>>>,
    /// The paths that were asked for.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    /// The keys that requests brought along.
    pub(super) keys: Arc<Mutex<Vec<String>>>,
    /// Rung when a request came that will not be answered.
    pub(super) hanging: Arc<Notify>,
}

impl TestApp {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            endpoint: listener.local_addr().unwrap(),
            manners: Arc::default(),
            asked: Arc::default(),
            keys: Arc::default(),
            hanging: Arc::default(),
        };
        let serving = app.clone();
        crate::telemetry::task::spawn("test app", async move {
            while let Ok((socket, _)) = listener.accept().await {
                crate::telemetry::task::spawn("test app connection", serving.clone().answer(socket));
            }
        });
        app
    }

    pub(super) fn set(&self, path: &'static str, manner: Manner) {
        self.manners.lock().insert(path, manner);
    }

    async fn answer(self, mut socket: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let keys = head.lines().filter_map(|line| line.strip_prefix("x-key: "));
        self.keys.lock().extend(keys.map(str::to_owned));
        let path = head.split(' ').nth(1).unwrap();
        self.asked.lock().push(path.to_owned());
        let manner = self.manners.lock().get(path).copied().unwrap_or(Manner::Fine);
        let status = match manner {
            Manner::Fine => "200 OK",
            Manner::Error => "500 Oh",
            Manner::Close => return,
            Manner::Hang => {
                self.hanging.notify_one();
                // Until the other side gives up.
                let _ = socket.read_u8().await;
                return;
            }
        };
        let _ = socket.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
    }
}
