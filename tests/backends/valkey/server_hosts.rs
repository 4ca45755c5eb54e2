//! The hosts of a Valkey, which no instance may reach.

use std::collections::BTreeSet;

use try_it_now::store::valkey::{Mode, Settings, server_hosts};

use super::tcp;
use crate::support::valkey_server::{ReplicatedValkey, SERVICE, ValkeyCluster};

#[tokio::test]
async fn a_sentinel_names_the_primary_and_its_replicas() {
    let Some(servers) = ReplicatedValkey::start() else { return };
    let settings = Settings {
        addresses: vec![tcp(servers.address())],
        mode: Mode::Sentinel { service: SERVICE.to_owned() },
        // The login of the servers is not that of the Sentinels.
        password: Some("of the servers".to_owned()),
        ..Settings::default()
    };
    let (sentinel, primary, replica) =
        (servers.address().0, servers.primary.address().0, servers.replica.address().0);
    assert_eq!(server_hosts(&settings).await.unwrap(), BTreeSet::from([sentinel, primary, replica]));
}

#[tokio::test]
async fn a_cluster_names_all_its_servers() {
    let Some(cluster) = ValkeyCluster::start() else { return };
    let all = cluster.addresses();
    let settings =
        Settings { addresses: vec![tcp(all[0].clone())], mode: Mode::Cluster, ..Settings::default() };
    let expected: BTreeSet<String> = all.into_iter().map(|(host, _)| host).collect();
    assert_eq!(server_hosts(&settings).await.unwrap(), expected);
}

#[tokio::test]
async fn hosts_that_cannot_be_asked_are_an_error() {
    let nobody = tcp(("127.0.0.1".to_owned(), 1));
    for mode in [Mode::Cluster, Mode::Sentinel { service: SERVICE.to_owned() }] {
        let settings = Settings { addresses: vec![nobody.clone()], mode, ..Settings::default() };
        server_hosts(&settings).await.unwrap_err();
    }
    let single = Settings { addresses: vec![nobody], ..Settings::default() };
    assert_eq!(server_hosts(&single).await.unwrap(), BTreeSet::from(["127.0.0.1".to_owned()]));
}
