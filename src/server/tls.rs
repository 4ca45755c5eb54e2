//! TLS, terminated by rustls in front of both engines.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pingora_core::protocols::Stream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tls_connection::TlsConnection;
use crate::cluster::OwnCertificate;
use crate::config::TlsFiles;

/// How often the files are checked for a change.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time of a handshake, and after it of the preface of HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no certificate or no private key.
    #[error("cannot use {file}: {problem}")]
    File {
        /// The path of the file.
        file: String,
        /// The fault in the file.
        problem: String,
    },
    /// The private key does not belong to the certificate, or rustls refuses one of them.
    #[error("cannot use the certificate with the private key: {0}")]
    Pair(#[from] tokio_rustls::rustls::Error),
}

/// Terminates TLS with the certificate in use. When the certificate changes, open connections keep theirs.
pub(super) struct ServerTls {
    files: TlsFiles,
    acceptor: ArcSwap<Acceptor>,
    certificate: OwnCertificate,
}

/// What answers handshakes. It is replaced as a whole: a handshake in progress keeps the one that it began with.
struct Acceptor(TlsAcceptor);

impl ServerTls {
    /// Reads the certificate and the private key from `files`.
    ///
    /// # Errors
    /// A file cannot be read, or the certificate and the key cannot be used.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let (acceptor, certificate) = read(&files)?;
        let acceptor = ArcSwap::from_pointee(Acceptor(acceptor));
        let certificate = Arc::new(ArcSwap::from_pointee(certificate));
        Ok(Self { files, acceptor, certificate })
    }

    /// Returns the certificate that clients see. It changes when the certificate is reloaded.
    pub(super) fn own_certificate(&self) -> OwnCertificate {
        self.certificate.clone()
    }

    /// Answers a handshake and agrees on HTTP/2 if the client can speak it, else on HTTP/1.1. Returns `None` if the
    /// handshake fails or takes longer than 10 seconds. HTTP/2 must begin within another 10 seconds.
    pub(super) async fn accept(&self, stream: Stream) -> Option<TlsConnection> {
        let acceptor = self.acceptor.load().0.clone();
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.ok()?.ok()?;
        Some(TlsConnection::new(stream, HANDSHAKE_TIMEOUT))
    }

    /// Reloads the certificate and the private key whenever their files change. If the new pair cannot be used, the
    /// error is logged once and the previous pair stays in effect. Never returns.
    pub(super) async fn reload(self: Arc<Self>) {
        let mut seen = file_stamps(&self.files);
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let current = file_stamps(&self.files);
            if current == seen {
                continue;
            }
            seen = current;
            match read(&self.files) {
                Ok((acceptor, certificate)) => {
                    self.acceptor.store(Arc::new(Acceptor(acceptor)));
                    self.certificate.store(Arc::new(certificate));
                    tracing::info!("certificate reloaded");
                }
                Err(error) => tracing::error!(%error, "failed to reload certificate"),
            }
        }
    }
}

/// When a file was written, and its length in bytes; `None` if it cannot be read.
type FileStamp = Option<(SystemTime, u64)>;

/// Returns the stamps of the certificate's file and of the key's file.
fn file_stamps(files: &TlsFiles) -> [FileStamp; 2] {
    [&files.cert, &files.key].map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

/// Reads both files and returns what answers handshakes with them, and the first certificate.
fn read(files: &TlsFiles) -> Result<(TlsAcceptor, CertificateDer<'static>), TlsError> {
    let unusable =
        |file: &Path, problem: String| TlsError::File { file: file.display().to_string(), problem };
    let open = |file: &Path| File::open(file).map(BufReader::new).map_err(|e| unusable(file, e.to_string()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_reader_iter(open(&files.cert)?)
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(&files.cert, e.to_string()))?;
    let certificate = chain.first().cloned();
    let certificate = certificate
        .ok_or_else(|| unusable(&files.cert, "it holds no certificate in PEM format".to_owned()))?;
    let key = PrivateKeyDer::from_pem_reader(open(&files.key)?)
        .map_err(|e| unusable(&files.key, format!("it holds no private key in PEM format: {e}")))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), certificate))
}
