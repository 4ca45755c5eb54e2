//! A certificate for servers that speak TLS, and clients that trust it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::child;
use crate::failure::Failure;

/// A self-signed certificate for `localhost` and all hosts below it, in files that are removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Certificate {
    folder: PathBuf,
    /// What a client needs to agree on HTTP/2 with a server that has this certificate.
    pub(crate) client: Arc<ClientConfig>,
}

impl Certificate {
    /// Makes a certificate.
    pub(crate) fn create() -> Result<Self, Failure> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "*.localhost".to_owned()])?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let certificate = Self { folder: child::folder()?, client: Arc::new(client) };
        std::fs::write(certificate.chain_file(), &chain)?;
        std::fs::write(certificate.key_file(), &key)?;
        std::fs::write(certificate.both_file(), chain + &key)?;
        Ok(certificate)
    }

    /// Returns the file of the certificate.
    pub(crate) fn chain_file(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// Returns the file of the private key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// Returns the file with the certificate and the private key.
    pub(crate) fn both_file(&self) -> PathBuf {
        self.folder.join("both.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
