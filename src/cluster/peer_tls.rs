//! TLS to a peer, where the nodes use TLS on their port.
//!
//! A peer shows the certificate that it shows to visitors. Its certificate is accepted
//!
//! - if it is the very certificate that this node shows, whichever authority signed it: all nodes have the same files,
//! - else if it is valid for the requested host by the roots that this system trusts, as a visitor's browser decides.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// Longest time of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The certificate that this node shows at present.
pub type OwnCertificate = Arc<ArcSwap<CertificateDer<'static>>>;

/// Encrypts connections to peers.
#[derive(Clone)]
pub struct PeerTls(TlsConnector);

impl PeerTls {
    /// Creates a client that accepts the certificate `own`, and those that the system's roots accept.
    ///
    /// # Errors
    /// The cryptography provider supports no usable protocol version.
    pub fn new(own: OwnCertificate) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        // Without any readable roots, only the certificate `own` is accepted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::with_roots(own, roots)
    }

    fn with_roots(own: OwnCertificate, roots: RootCertStore) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let roots = (!roots.is_empty())
            .then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build())
            .transpose()
            .map_err(|error| Error::General(error.to_string()))?;
        let verifier = Arc::new(PeerVerifier { own, roots, provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Performs the TLS handshake on an established connection, for a request to `host`, which may include a port.
    ///
    /// # Errors
    /// `host` is no valid name, the peer's certificate is not accepted, or the handshake takes longer than 2 s.
    pub async fn handshake(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_owned();
        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
        match timeout(HANDSHAKE_TIMEOUT, self.0.connect(name, stream)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Accepts the certificate `own`, and whatever the roots accept.
#[derive(Debug)]
struct PeerVerifier {
    own: OwnCertificate,
    /// `None` where the system has no roots.
    roots: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The signature in the handshake proves that the peer has the key: it is a node with the same files.
        if shown == &**self.own.load() {
            return Ok(ServerCertVerified::assertion());
        }
        let roots = self.roots.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        roots.verify_server_cert(shown, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    struct TestCertificate {
        certificate: CertificateDer<'static>,
        key: KeyPair,
    }

    fn self_signed(name: &str) -> TestCertificate {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        TestCertificate { certificate: certificate.der().clone(), key }
    }

    /// Returns whether a node that shows `own` and trusts `root` accepts the certificate of `server` for `host`.
    async fn accepts(
        server: &TestCertificate,
        own: &CertificateDer<'static>,
        root: Option<&TestCertificate>,
        host: &str,
    ) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(root.map(|root| root.certificate.clone()));
        let own = Arc::new(ArcSwap::from_pointee(own.clone()));
        let tls = PeerTls::with_roots(own, roots).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let answering = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let (_, connected) = tokio::join!(answering, tls.handshake(stream, host));
        connected.is_ok()
    }

    #[tokio::test]
    async fn the_certificate_that_this_node_shows_is_accepted_whichever_authority_signed_it() {
        let (own, other) = (self_signed("*.demo.test"), self_signed("*.demo.test"));
        assert!(accepts(&own, &own.certificate, None, "t-x.demo.test:8443").await);
        assert!(!accepts(&other, &own.certificate, None, "t-x.demo.test").await);
    }

    #[tokio::test]
    async fn another_certificate_is_accepted_for_its_hosts_when_the_system_trusts_its_authority() {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(authority, key);
        let own = self_signed("*.demo.test").certificate;
        let server_key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["*.demo.test".to_owned()]).unwrap();
        let signed = params.signed_by(&server_key, &issuer).unwrap();
        let server = TestCertificate { certificate: signed.der().clone(), key: server_key };
        let root = TestCertificate { certificate, key: KeyPair::generate().unwrap() };
        assert!(accepts(&server, &own, Some(&root), "t-x.demo.test").await);
        assert!(!accepts(&server, &own, Some(&root), "t-x.other.test").await, "for another host");
        assert!(!accepts(&server, &own, None, "t-x.demo.test").await, "by an unknown authority");
    }
}
