//! A small HTTP server whose behavior is set path by path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How the app answers the requests to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppBehavior {
    /// Answers 200.
    Fine,
    /// Answers 500.
    Error,
    /// Closes the connection without an answer.
    Close,
    /// Reads, and never answers.
    Hang,
}

/// The running server.
#[derive(Clone)]
pub(super) struct TestApp {
    pub(super) endpoint: SocketAddr,
    behaviors: Arc<Mutex<HashMap<&'static str, AppBehavior>>>,
    /// For a path, how many requests are still answered well and how the later ones are.
    later_behaviors: Arc<Mutex<HashMap<&'static str, (usize, AppBehavior)>>>,
    /// The paths of all requests.
    pub(super) requested: Arc<Mutex<Vec<String>>>,
    /// The `x-key` headers of all requests.
    pub(super) keys: Arc<Mutex<Vec<String>>>,
    /// Notified when a request hangs.
    pub(super) hanging: Arc<Notify>,
}

impl TestApp {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            endpoint: listener.local_addr().unwrap(),
            behaviors: Arc::default(),
            later_behaviors: Arc::default(),
            requested: Arc::default(),
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

    pub(super) fn set(&self, path: &'static str, behavior: AppBehavior) {
        self.behaviors.lock().insert(path, behavior);
    }

    /// Sets how the app answers the requests to a path after the next `count`.
    pub(super) fn set_after(&self, path: &'static str, count: usize, behavior: AppBehavior) {
        self.later_behaviors.lock().insert(path, (count, behavior));
    }

    fn behavior(&self, path: &str) -> AppBehavior {
        if let Some((count, behavior)) = self.later_behaviors.lock().get_mut(path) {
            match count.checked_sub(1) {
                Some(less) => *count = less,
                None => return *behavior,
            }
        }
        self.behaviors.lock().get(path).copied().unwrap_or(AppBehavior::Fine)
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
        self.requested.lock().push(path.to_owned());
        let status = match self.behavior(path) {
            AppBehavior::Fine => "200 OK",
            AppBehavior::Error => "500 Oh",
            AppBehavior::Close => return,
            AppBehavior::Hang => {
                self.hanging.notify_one();
                // Until the client closes the connection.
                let _ = socket.read_u8().await;
                return;
            }
        };
        let _ = socket.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
    }
}
