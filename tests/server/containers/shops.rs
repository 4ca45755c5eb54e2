//! Shops and sites with their databases on a MariaDB outside of their containers, in sealed instances: each reaches its
//! database through a port in its own namespace, and nothing else of any network.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use try_it_now::telemetry::task;

use super::clean::restores;
use super::{ContainerHost, FULL_TIMEOUT, exec_in, release, shut_down};
use crate::engines::shops::{
    Visitor, database_settings, release_first, shipped_template, visit_shops, visit_sites, write_module,
};
use crate::support::harness::{Server, eventually, eventually_within, get};
use crate::support::mariadb_server::{MariaDbServer, Version};

/// How many connections a site may have at a time.
const MAX_CONNECTIONS: usize = 7;

/// A MariaDB on a loopback address, and containerd with one of the shipped templates, sealed.
struct Host {
    mariadb: MariaDbServer,
    containers: ContainerHost,
}

impl Host {
    async fn new(template: &str) -> Option<Self> {
        let containers = ContainerHost::php()?;
        let mariadb = MariaDbServer::start(Version::New).await?;
        let text = shipped_template(template);
        let name = template.split('-').next().unwrap();
        let text = text.replace(&format!("templates.{name}"), &format!("templates.{}", containers.template));
        let header = format!("[templates.{}.database", containers.template);
        assert!(text.contains("\negress = \"internet\"\n") && text.contains(&header), "{text}");
        let text = text.replace("\negress = \"internet\"\n", "\n");
        let limit = format!("{header}]\nmax_connections = {MAX_CONNECTIONS}\n");
        let text = text.replacen(&format!("{header}]\n"), &limit, 1);
        std::fs::write(containers.folder.join("templates.toml"), text).unwrap();
        Some(Self { mariadb, containers })
    }

    async fn start(&self, more: &[(&str, &str)]) -> Server {
        let own = database_settings(&self.mariadb);
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let variables: Vec<_> = own.chain([("POOL_MAX_SIZE", "2")]).chain(more.iter().copied()).collect();
        self.containers.start_server(&variables).await
    }

    /// Releases the last instance and ends the server. No container, file, database or user is left.
    async fn end(&self, mut server: Server, last: &Visitor) {
        release(&server, &last.instance.id).await;
        shut_down(&mut server).await;
        self.containers.assert_nothing_left().await;
        assert_eq!(self.mariadb.names().await, [] as [&str; 0]);
    }

    /// Runs a PHP program in an instance. Returns what it writes.
    fn php(&self, visitor: &Visitor, program: &str) -> String {
        exec_in(&self.containers, &visitor.instance, &["php", "-r", program])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sealed_shops_have_their_own_hosts_modules_passwords_and_databases() {
    let Some(host) = Host::new("prestashop").await else { return };
    write_module(&host.containers.folder);
    // The domain of a shop is in its database, so a restored one would not have it.
    let server = host.start(&[("CRIU_ENABLED", "false")]).await.full_within(FULL_TIMEOUT).await;
    let [one, two] = visit_shops(&server).await;
    release_first(&host.mariadb, &server, [&one, &two]).await;
    assert!(two.first_page().await.contains("Hummingbird mug"));
    host.end(server, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_restored_sites_have_their_own_hosts_posts_passwords_and_databases() {
    let Some(host) = Host::new("wordpress-official").await else { return };
    let server = host.start(&[]).await.full_within(FULL_TIMEOUT).await;
    let [one, two] = visit_sites(&server).await;
    let restored = restores(&server, &host.containers).await;
    assert!(restored > 0, "{restored}");

    // Each reaches the port of its database, and nothing else.
    let reaches = |visitor: &Visitor, address: &str| {
        let program = format!("echo @stream_socket_client('tcp://{address}', $c, $t, 3) ? 'yes' : 'no';");
        host.php(visitor, &program)
    };
    for site in [&one, &two] {
        assert_eq!(reaches(site, "127.0.0.54:3306"), "yes");
        for outside in [&format!("{}:{}", host.mariadb.host(), host.mariadb.port()), "198.51.100.1:80"] {
            assert_eq!(reaches(site, outside), "no", "{outside}");
        }
    }
    // One that logs in nowhere takes only what it may have: the other one has its pages.
    let flood = "$kept = []; $greeted = 0;
        for ($i = 0; $i < 60; $i++) { $kept[] = stream_socket_client('tcp://127.0.0.54:3306'); }
        $read = $kept; $write = $except = null; sleep(2);
        stream_select($read, $write, $except, 5);
        echo count($read);";
    let greeted: usize = host.php(&one, flood).parse().unwrap();
    assert!((1..=MAX_CONNECTIONS + 1).contains(&greeted), "{greeted}");
    assert!(two.first_page().await.contains("Hello world!"));
    eventually("the first one has its pages again", async || {
        (get(one.port, &one.instance.host, "/").await.status == 200).then_some(())
    })
    .await;

    release_first(&host.mariadb, &server, [&one, &two]).await;
    assert!(two.first_page().await.contains("Hello world!"));
    host.end(server, &two).await;
}

/// Requests pages that need the database until the end. Returns how each failed.
async fn read_pages(
    port: u16,
    host: String,
    count: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !is_over.load(SeqCst) {
        let answer = get(port, &host, "/").await;
        match answer.status == 200 && answer.text().contains("Hello world!") {
            true => drop(count.fetch_add(1, SeqCst)),
            false => failures.push(format!("{} {}", answer.status, answer.text())),
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_keeps_its_database_through_handovers_a_kill_of_the_server_and_a_restart_of_mariadb() {
    let Some(mut host) = Host::new("wordpress-official").await else { return };
    let settings = [("SHUTDOWN_GRACE", "300s"), ("POOL_TARGET_SIZE", "1"), ("POOL_MIN_SIZE", "1")];
    let mut server = host.start(&settings).await.full_within(FULL_TIMEOUT).await;
    let mut site = Visitor::come(&server).await;
    let (count, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| read_pages(site.port, site.instance.host.clone(), count.clone(), is_over.clone()))
        .map(|reading| task::spawn("visitor", reading))
        .collect();
    for round in 0..3 {
        let before = count.load(SeqCst);
        let more = async || (count.load(SeqCst) > before + 5).then_some(());
        eventually_within(FULL_TIMEOUT, "pages before the handover", more).await;
        server.replace().await;
        let before = count.load(SeqCst);
        let more = async || (count.load(SeqCst) > before + 5).then_some(());
        eventually_within(FULL_TIMEOUT, &format!("pages after handover {round}"), more).await;
    }
    is_over.store(true, SeqCst);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Vec::<String>::new());
    }

    server.signal("KILL");
    server.wait_for_exit().await;
    let server = host.start(&settings).await;
    site.port = server.port;
    assert!(site.first_page().await.contains("Hello world!"));

    host.mariadb.kill();
    assert_eq!(get(site.port, &site.instance.host, "/").await.status, 500);
    host.mariadb.restart().await;
    assert!(site.first_page().await.contains("Hello world!"));
    host.end(server.full_within(FULL_TIMEOUT).await, &site).await;
}
