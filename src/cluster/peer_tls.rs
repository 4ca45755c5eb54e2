//! TLS on the way to another server, where the servers speak it on their port.
//!
//! The other server shows the certificate that it shows to visitors. It is believed when it is the very one that this
//! server shows, as where all have the same files, whoever signed it; else when it is good for the host that is asked
//! for, by what this system trusts, as a visitor's browser would judge.

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
const HANDSHAKE: Duration = Duration::from_secs(2);

/// The certificate that this server shows now.
pub type OwnCertificate = Arc<ArcSwap<CertificateDer<'static>>>;

/// Opens connections to other servers.
#[derive(Clone)]
pub struct PeerTls(TlsConnector);

impl PeerTls {
    /// Beside what the system trusts, `own` is believed.
    ///
    /// # Errors
    /// The system's cryptography is not to be had.
    pub fn new(own: OwnCertificate) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        // A system that trusts nobody, or of which a file cannot be read, leaves the certificate of our own.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::with_roots(own, roots)
    }

    fn with_roots(own: OwnCertificate, roots: RootCertStore) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let known = (!roots.is_empty())
            .then(|| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build())
            .transpose()
            .map_err(|error| Error::General(error.to_string()))?;
        let judge = Arc::new(Judge { own, known, provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Shakes hands on a connection that stands, for a request to `host`, which may have a port.
    ///
    /// # Errors
    /// Why it is not the server that it should be, or does not answer.
    pub async fn handshake(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_owned();
        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
        match timeout(HANDSHAKE, self.0.connect(name, stream)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

#[derive(Debug)]
struct Judge {
    own: OwnCertificate,
    known: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Who shows it has its key, as the handshake's signature proves: a server with our files.
        if shown == &**self.own.load() {
            return Ok(ServerCertVerified::assertion());
        }
        let known = self.known.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        known.verify_server_cert(shown, chain, name, ocsp, now)
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

    struct Pair {
        certificate: CertificateDer<'static>,
        key: KeyPair,
    }

    fn self_signed(name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Pair { certificate: certificate.der().clone(), key }
    }

    /// Asks a server with this certificate for `host`, as one that shows `own` and trusts `root`.
    async fn shake(server: &Pair, own: &CertificateDer<'static>, root: Option<&Pair>, host: &str) -> bool {
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
        let secure = PeerTls::with_roots(own, roots).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let answering = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let (_, shaken) = tokio::join!(answering, secure.handshake(stream, host));
        shaken.is_ok()
    }

    #[tokio::test]
    async fn the_certificate_that_this_server_shows_is_believed_whoever_signed_it() {
        let (ours, other) = (self_signed("*.demo.test"), self_signed("*.demo.test"));
        assert!(shake(&ours, &ours.certificate, None, "t-x.demo.test:8443").await);
        assert!(!shake(&other, &ours.certificate, None, "t-x.demo.test").await);
    }

    #[tokio::test]
    async fn another_certificate_is_believed_for_its_hosts_when_the_system_trusts_who_signed_it() {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(authority, key);
        let own = self_signed("*.demo.test").certificate;
        let server_key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["*.demo.test".to_owned()]).unwrap();
        let signed = params.signed_by(&server_key, &issuer).unwrap();
        let server = Pair { certificate: signed.der().clone(), key: server_key };
        let root = Pair { certificate, key: KeyPair::generate().unwrap() };
        assert!(shake(&server, &own, Some(&root), "t-x.demo.test").await);
        assert!(!shake(&server, &own, Some(&root), "t-x.other.test").await, "for another host");
        assert!(!shake(&server, &own, None, "t-x.demo.test").await, "of a stranger");
    }
}
