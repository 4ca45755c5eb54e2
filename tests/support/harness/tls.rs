//! Self-signed certificates, and clients that trust one of them.

use std::path::Path;
use std::sync::Arc;

use rcgen::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{AcquiredInstance, RawConnection, Server, eventually};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

impl Server {
    /// Starts a server that speaks only TLS, with `cert.pem` and `key.pem` in its folder. Does not wait for the pool.
    pub async fn with_tls() -> (Self, Certificate) {
        Self::with_tls_and(&[]).await
    }

    /// Starts such a server with these variables too.
    pub async fn with_tls_and(variables: &[(&str, &str)]) -> (Self, Certificate) {
        let certificate = Certificate::new();
        let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        certificate.write(&cert, &key);
        let files = [("TLS_CERT", cert.to_str().unwrap()), ("TLS_KEY", key.to_str().unwrap())];
        let variables = [&files, variables].concat();
        (Self::start_in(folder.clone(), &variables, &[]).await, certificate)
    }
}

/// A certificate for the server and all instances, with its key.
pub struct Certificate(CertifiedKey<rcgen::KeyPair>);

impl Certificate {
    pub fn new() -> Self {
        let names = ["localhost".to_owned(), "*.localhost".to_owned()];
        Self(rcgen::generate_simple_self_signed(names).unwrap())
    }

    /// Writes the key and then the certificate. Each file is replaced atomically.
    pub fn write(&self, cert: &Path, key: &Path) {
        for (file, text) in [(key, self.0.signing_key.serialize_pem()), (cert, self.0.cert.pem())] {
            let new = file.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, file).unwrap();
        }
    }

    /// Acquires an instance over TLS. Waits until one is ready.
    pub async fn acquire(&self, port: u16) -> AcquiredInstance {
        eventually("an instance is acquired", async || {
            let mut connection = RawConnection::over(self.connect(port, &[]).await.unwrap());
            connection
                .send("POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                .await;
            let answer = connection.read_answer().await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        })
        .await
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    /// Connects with a client that trusts only this certificate.
    pub async fn connect(&self, port: u16, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        self.connect_over(stream, alpn).await
    }

    /// Begins TLS on a connection, as a client that trusts only this certificate.
    pub async fn connect_over(
        &self,
        stream: TcpStream,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
