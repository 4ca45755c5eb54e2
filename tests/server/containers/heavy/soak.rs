//! Many instances of WordPress at the same time, all of which are written to.
//!
//! `SOAK_SECONDS` (60) and `SOAK_COPIES` (50) set the duration and the number of instances. `make soak` runs for ten
//! minutes.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::containers::{ContainerHost, exec_in, release, shut_down};
use crate::support::harness::{AcquiredInstance, Server, eventually_within, get, request};

/// The first start installs WordPress.
const BAKE_TIMEOUT: Duration = Duration::from_secs(240);
/// Visitors who write at the same time.
const WRITERS: usize = 4;

const MIB: u64 = 1 << 20;
/// The largest average number of bytes that an instance may use, including all that it writes. It begins with 32 MiB.
const MAX_BYTES_PER_INSTANCE: u64 = 80 * MIB;
/// The largest number of bytes that all instances may share: the memory of WordPress and its MariaDB.
const MAX_SHARED_BYTES: u64 = 256 * MIB;

/// An instance and its visitor.
struct SoakInstance {
    number: usize,
    instance: AcquiredInstance,
    password: String,
    /// The number of its posts.
    posts: AtomicUsize,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

impl SoakInstance {
    fn title(&self, post: usize) -> String {
        format!("site{}post{post}end", self.number)
    }

    /// Publishes a post, as an editor's program does.
    async fn publish(&self, port: u16) {
        let post = self.posts.fetch_add(1, SeqCst);
        let texts = ["1", "admin", &self.password]
            .map(|text| format!("<param><value><string>{text}</string></value></param>"))
            .concat();
        let member = |name: &str, text: &str| {
            format!("<member><name>{name}</name><value><string>{text}</string></value></member>")
        };
        let (title, words) = (self.title(post), "Text of a visitor. ".repeat(50));
        let body = format!(
            "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>{texts}\
             <param><value><struct>{}{}</struct></value></param>\
             <param><value><boolean>1</boolean></value></param></params></methodCall>",
            member("title", &title),
            member("description", &words)
        );
        let headers = [("content-type", "text/xml")];
        let answer = request(port, "POST", &self.instance.host, "/xmlrpc.php", &headers, &body).await;
        assert!(answer.status == 200 && !answer.text().contains("fault"), "{title}: {}", answer.text());
    }

    /// Asserts that its front page has its own last post and no post of another instance.
    async fn check_front_page(&self, port: u16) {
        let page = get(port, &self.instance.host, "/").await;
        assert_eq!(page.status, 200);
        let text = page.text();
        let posts = self.posts.load(SeqCst);
        if posts > 0 {
            assert!(text.contains(&self.title(posts - 1)), "instance {} with {posts} posts", self.number);
        }
        let own = format!("site{}post", self.number);
        let foreign = text.match_indices("site").filter(|(at, _)| is_title(&text[*at..]));
        let foreign: Vec<_> = foreign.filter(|(at, _)| !text[*at..].starts_with(&own)).collect();
        assert!(foreign.is_empty(), "instance {} shows a post of another", self.number);
    }

    /// Asserts that its database has exactly its own posts and is intact.
    fn check_database(&self, host: &ContainerHost) {
        const SOCKET: &str = "--socket=/run/mysqld/mysqld.sock";
        let query = "SELECT post_title FROM wordpress.wp_posts WHERE post_type = 'post' AND post_title LIKE 'site%' ORDER BY ID";
        let rows =
            exec_in(host, &self.instance, &["mariadb", SOCKET, "--skip-column-names", "--execute", query]);
        let expected: Vec<_> = (0..self.posts.load(SeqCst)).map(|post| self.title(post)).collect();
        assert!(rows.lines().eq(&expected), "instance {} has {rows}", self.number);
        let tables =
            exec_in(host, &self.instance, &["mariadb-check", SOCKET, "--extended", "--all-databases"]);
        let states: Vec<_> = tables.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert!(states.len() >= 12 && states.iter().all(|state| *state == "OK"), "{tables}");
    }
}

/// Returns whether the text begins with the title of a post: `site7post3end`.
fn is_title(text: &str) -> bool {
    let number = text["site".len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    number.len() < text.len() - "site".len() && number.starts_with("post")
}

/// Returns what the server reports of the memory of all its instances.
async fn memory(server: &Server) -> Option<Value> {
    let stats = server.stats().await;
    stats["templates"][0].get("memory").cloned()
}

/// Writes to all instances in turn until the time is over, and checks some of their front pages.
async fn write(server: &Server, instances: &[SoakInstance], time: Duration) {
    let (next, end) = (AtomicUsize::new(0), Instant::now() + time);
    // An instance answers one visitor at a time, so each writer has instances of its own.
    let writer = async |which: usize| {
        let own: Vec<_> = instances.iter().skip(which).step_by(WRITERS).collect();
        for instance in own.iter().cycle() {
            if Instant::now() >= end {
                return;
            }
            instance.publish(server.port).await;
            if next.fetch_add(1, SeqCst).is_multiple_of(3) {
                instance.check_front_page(server.port).await;
            }
        }
    };
    futures_util::future::join_all((0..WRITERS.min(instances.len())).map(writer)).await;
}

/// Returns the largest figures that the server reports until `done` is cancelled.
async fn peak_memory(server: &Server, done: &tokio_util::sync::CancellationToken) -> [u64; 3] {
    let mut peak = [0; 3];
    loop {
        if let Some(memory) = memory(server).await {
            for (peak, name) in peak.iter_mut().zip(["instances", "charged_bytes", "shared_bytes"]) {
                *peak = (*peak).max(memory[name].as_u64().unwrap());
            }
        }
        tokio::select! {
            () = done.cancelled() => return peak,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}

fn available() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_instances_of_wordpress_are_written_to_and_each_has_its_own_rows() {
    let (time, count) =
        (Duration::from_secs(setting("SOAK_SECONDS", 60)), setting("SOAK_COPIES", 50) as usize);
    let Some(host) = ContainerHost::wordpress_template() else { return };
    let max_size = (count + 4).to_string();
    let sizes = [("POOL_TARGET_SIZE", "2"), ("POOL_MIN_SIZE", "1"), ("POOL_MAX_SIZE", &*max_size)];
    let mut server = host.start_server(&sizes).await.full_within(BAKE_TIMEOUT).await;
    let before = available();

    let begun = Instant::now();
    let mut instances = Vec::new();
    for number in 0..count {
        let acquired = server.call("POST", "/api/v1/demo/acquire", "").await;
        assert_eq!(acquired.status, 200, "{number}: {}", acquired.text());
        let acquired = acquired.json();
        let password = acquired["credentials"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        instances.push(SoakInstance {
            number,
            instance: AcquiredInstance::from_json(&acquired),
            password,
            posts: AtomicUsize::new(0),
        });
    }
    let all_acquired = begun.elapsed();
    let idle = eventually_within(Duration::from_secs(120), "all instances are measured", async || {
        memory(&server).await.filter(|memory| memory["instances"].as_u64().unwrap() >= count as u64)
    })
    .await;
    let used_idle = before.saturating_sub(available());

    let done = tokio_util::sync::CancellationToken::new();
    let writing = async {
        write(&server, &instances, time).await;
        done.cancel();
    };
    let (peak, ()) = futures_util::join!(peak_memory(&server, &done), writing);
    let [measured, charged, shared] = peak;
    let posts: usize = instances.iter().map(|instance| instance.posts.load(SeqCst)).sum();
    println!(
        "{count} instances after {all_acquired:?}: idle {idle}, {} MiB less available; {posts} posts in {time:?}: {} MiB in \
         all of {measured}, {} MiB shared, {} MiB less available",
        used_idle / MIB,
        charged / MIB,
        shared / MIB,
        before.saturating_sub(available()) / MIB,
    );
    assert!(posts >= count, "{posts} posts: each instance has at least one");
    assert!(measured >= count as u64);
    assert!(charged <= measured * MAX_BYTES_PER_INSTANCE, "{} MiB for {measured}", charged / MIB);
    assert!(shared > MIB && shared <= MAX_SHARED_BYTES, "{} MiB", shared / MIB);

    for instance in &instances {
        instance.check_front_page(server.port).await;
        instance.check_database(&host);
    }
    let log = server.log().join("\n");
    assert!(
        !log.contains("instance failed") && !log.contains("failed to restore instance"),
        "no instance died and no restore failed"
    );
    for instance in &instances {
        release(&server, &instance.instance.id).await;
    }
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[test]
fn titles_are_recognized() {
    assert!(is_title("site12post3end"));
    assert!(!is_title("siteright post") && !is_title("sitepost") && !is_title("site1"));
}
