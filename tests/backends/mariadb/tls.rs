//! Connections are encrypted where MariaDB offers it.

use std::fs;

use mysql_async::prelude::Queryable;
use try_it_now::instance::NodeId;
use try_it_now::runtime::Databases;
use try_it_now::runtime::mariadb::{MariaDb, Settings, Tls, survey};

use crate::suites::databases::settings;
use crate::support::mariadb_server::{MariaDbServer, Version};

#[tokio::test]
async fn a_connection_is_encrypted_where_mariadb_offers_it_and_refused_where_its_certificate_must_be_trusted()
{
    for version in [Version::New, Version::Old] {
        let folder = std::env::temp_dir().join(format!("tin-tls-{}", NodeId::random()));
        fs::create_dir_all(&folder).unwrap();
        let certificate = rcgen::generate_simple_self_signed(["db.test".to_owned()]).unwrap();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&cert, certificate.cert.pem()).unwrap();
        fs::write(&key, certificate.signing_key.serialize_pem()).unwrap();
        let options = [format!("--ssl-cert={}", cert.display()), format!("--ssl-key={}", key.display())];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let Some(server) = MariaDbServer::start_with(version, &options).await else { return };
        let prefer = settings(&server, "node-a");
        assert!(survey(&prefer).await.unwrap().is_encrypted, "{version:?}");
        let off = Settings { tls: Tls::Off, ..prefer.clone() };
        assert!(!survey(&off).await.unwrap().is_encrypted, "{version:?}");
        let verify = Settings { tls: Tls::Verify, ..prefer.clone() };
        let refused = MariaDb::new(verify).list().await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{version:?}: {refused}");
        fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn a_mariadb_without_tls_is_used_without_and_refused_where_tls_is_required() {
    let Some(server) = MariaDbServer::start_with(Version::Old, &["--skip-ssl"]).await else { return };
    let prefer = settings(&server, "node-a");
    let found = survey(&prefer).await.unwrap();
    assert!(!found.is_encrypted && found.lists_users && !found.has_anonymous_user, "{found:?}");
    assert!(found.version.starts_with("10.11") && found.max_connections > 1, "{found:?}");
    assert!(found.grants.iter().all(|grant| !grant.contains("PASSWORD '")), "{found:?}");
    let verify = Settings { tls: Tls::Verify, ..prefer };
    assert!(MariaDb::new(verify).list().await.is_err());
    server.admin().await.query_drop("SELECT 1").await.unwrap();
}
