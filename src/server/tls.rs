//! TLS, ended by rustls in front of both engines.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::cluster::OwnCertificate;
use crate::config::TlsFiles;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Longest time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{file}: {what}")]
    File {
        /// Which one.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The two do not fit together.
    #[error("the certificate and the key: {0}")]
    Pair(#[from] tokio_rustls::rustls::Error),
}

/// The certificate in use. Connections already made keep theirs when it changes.
pub struct Tls {
    files: TlsFiles,
    acceptor: ArcSwap<Acceptor>,
    own: OwnCertificate,
}

/// Swapped as one; a handshake under way keeps the one that it began with.
struct Acceptor(TlsAcceptor);

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let (acceptor, own) = read(&files)?;
        let (acceptor, own) =
            (ArcSwap::from_pointee(Acceptor(acceptor)), Arc::new(ArcSwap::from_pointee(own)));
        Ok(Self { files, acceptor, own })
    }

    /// The certificate that is shown, always the one in use.
    pub fn own(&self) -> OwnCertificate {
        self.own.clone()
    }

    /// Answers a handshake: HTTP/2 where the client can, else HTTP/1.1. `None` when it fails or takes too long.
    pub async fn accept(&self, stream: Stream) -> Option<TlsIo> {
        let acceptor = self.acceptor.load().0.clone();
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.ok()?.ok()?;
        Some(TlsIo::new(stream))
    }

    /// Looks at the files for ever and takes over a new pair. A bad one is told of once, and the old stays.
    pub async fn reload(self: Arc<Self>) {
        let mut seen = stamps(&self.files);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamps(&self.files);
            if now == seen {
                continue;
            }
            seen = now;
            match read(&self.files) {
                Ok((acceptor, own)) => {
                    self.acceptor.store(Arc::new(Acceptor(acceptor)));
                    self.own.store(Arc::new(own));
                    tracing::info!("the certificate was renewed");
                }
                Err(error) => {
                    tracing::error!(%error, "the new certificate cannot be used; the old one stays")
                }
            }
        }
    }
}

type Stamp = Option<(SystemTime, u64)>;

/// When the files were written and how long they are.
fn stamps(files: &TlsFiles) -> [Stamp; 2] {
    [&files.cert, &files.key].map(|file| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

fn read(files: &TlsFiles) -> Result<(TlsAcceptor, CertificateDer<'static>), TlsError> {
    let wrong = |file: &Path, what: String| TlsError::File { file: file.display().to_string(), what };
    let open = |file: &Path| File::open(file).map(BufReader::new).map_err(|e| wrong(file, e.to_string()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_reader_iter(open(&files.cert)?)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(&files.cert, e.to_string()))?;
    let own = chain.first().cloned();
    let own = own.ok_or_else(|| wrong(&files.cert, "it holds no certificate".to_owned()))?;
    let key = PrivateKeyDer::from_pem_reader(open(&files.key)?)
        .map_err(|e| wrong(&files.key, format!("it holds no private key: {e}")))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), own))
}

/// An encrypted connection as Pingora knows connections.
#[derive(Debug)]
pub struct TlsIo {
    inner: TlsStream<Stream>,
    alpn: Option<ALPN>,
    digest: Arc<SslDigest>,
}

impl TlsIo {
    fn new(inner: TlsStream<Stream>) -> Self {
        let session = inner.get_ref().1;
        let alpn = match session.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(b"http/1.1") => Some(ALPN::H1),
            _ => None,
        };
        let version = session.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
        let cipher =
            session.negotiated_cipher_suite().map(|c| format!("{:?}", c.suite())).unwrap_or_default();
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, vec![]));
        Self { inner, alpn, digest }
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for TlsIo {
    async fn shutdown(&mut self) {
        // A client that is gone need not be told that we go.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl UniqueID for TlsIo {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().0.id()
    }
}

impl Ssl for TlsIo {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.digest.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl GetTimingDigest for TlsIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().0.get_timing_digest()
    }
}

impl GetProxyDigest for TlsIo {
    fn get_proxy_digest(&self) -> Option<Arc<pingora_core::protocols::raw_connect::ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for TlsIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().0.get_socket_digest()
    }
}

impl Peek for TlsIo {}
