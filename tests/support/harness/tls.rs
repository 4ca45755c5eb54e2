//! Certificates made on the spot, and clients that trust one.

use std::path::Path;
use std::sync::Arc;

use rcgen::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Demo, Server, Wire, eventually};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

impl Server {
    /// A server that speaks TLS only, with `cert.pem` and `key.pem` in its folder. Its pool may not be full yet.
    pub async fn encrypted() -> (Self, Certificate) {
        let certificate = Certificate::new();
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        certificate.write(&cert, &key);
        let variables = [("TLS_CERT", cert.to_str().unwrap()), ("TLS_KEY", key.to_str().unwrap())];
        (Self::start_in(folder.clone(), &variables, &[]).await, certificate)
    }
}

/// A certificate for the server and all instances, and its key.
pub struct Certificate(CertifiedKey<rcgen::KeyPair>);

impl Certificate {
    pub fn new() -> Self {
        let names = ["localhost".to_owned(), "*.localhost".to_owned()];
        Self(rcgen::generate_simple_self_signed(names).unwrap())
    }

    /// Writes both files, the key first, whole from one moment to the next.
    pub fn write(&self, cert: &Path, key: &Path) {
        for (file, text) in [(key, self.0.signing_key.serialize_pem()), (cert, self.0.cert.pem())] {
            let new = file.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, file).unwrap();
        }
    }

    /// Acquires an instance over TLS, waiting until one is ready.
    pub async fn acquire(&self, port: u16) -> Demo {
        eventually("an instance is handed out", async || {
            let mut wire = Wire::over(self.connect(port, &[]).await.unwrap());
            wire.send("POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                .await;
            let answer = wire.answer().await;
            (answer.status == 200).then(|| Demo::from_json(&answer.json()))
        })
        .await
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// A handshake with a client that trusts this certificate only.
    pub async fn connect(&self, port: u16, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
