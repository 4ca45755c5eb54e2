//! Many copies of WordPress at once, all of them written to.
//!
//! `SOAK_SECONDS` (60) and `SOAK_COPIES` (50) say for how long and how many; `make soak` takes ten minutes.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::containers::{Host, inside, release, stop};
use crate::support::harness::{Demo, Server, eventually_within, get, request};

/// A first start installs WordPress.
const BAKE: Duration = Duration::from_secs(240);
/// Visitors who write at the same time.
const WRITERS: usize = 4;

const M: u64 = 1 << 20;
/// Bytes that a copy may take, on average, with all that it writes in the time: it begins with 32 MiB.
const EACH: u64 = 80 * M;
/// Bytes that all copies may have in common: what WordPress and its MariaDB have in memory.
const SHARED: u64 = 256 * M;

/// A copy, and who is in it.
struct Copy {
    number: usize,
    demo: Demo,
    password: String,
    /// Posts that it has.
    posts: AtomicUsize,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

impl Copy {
    fn title(&self, post: usize) -> String {
        format!("copy{}post{post}end", self.number)
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
        let (title, words) = (self.title(post), "Words of a visitor. ".repeat(50));
        let body = format!(
            "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>{texts}\
             <param><value><struct>{}{}</struct></value></param>\
             <param><value><boolean>1</boolean></value></param></params></methodCall>",
            member("title", &title),
            member("description", &words)
        );
        let headers = [("content-type", "text/xml")];
        let answer = request(port, "POST", &self.demo.host, "/xmlrpc.php", &headers, &body).await;
        assert!(answer.status == 200 && !answer.text().contains("fault"), "{title}: {}", answer.text());
    }

    /// Looks at its first page: its own last post is there, and nobody else's.
    async fn look(&self, port: u16) {
        let page = get(port, &self.demo.host, "/").await;
        assert_eq!(page.status, 200);
        let text = page.text();
        let posts = self.posts.load(SeqCst);
        if posts > 0 {
            assert!(text.contains(&self.title(posts - 1)), "copy {} of {posts} posts", self.number);
        }
        let own = format!("copy{}post", self.number);
        let foreign = text.match_indices("copy").filter(|(at, _)| is_title(&text[*at..]));
        let foreign: Vec<_> = foreign.filter(|(at, _)| !text[*at..].starts_with(&own)).collect();
        assert!(foreign.is_empty(), "copy {} shows what is another's", self.number);
    }

    /// Asks its database itself.
    fn check(&self, host: &Host) {
        const SOCKET: &str = "--socket=/run/mysqld/mysqld.sock";
        let query = "SELECT post_title FROM wordpress.wp_posts WHERE post_type = 'post' AND post_title LIKE 'copy%' ORDER BY ID";
        let rows = inside(host, &self.demo, &["mariadb", SOCKET, "--skip-column-names", "--execute", query]);
        let expected: Vec<_> = (0..self.posts.load(SeqCst)).map(|post| self.title(post)).collect();
        assert!(rows.lines().eq(&expected), "copy {} has {rows}", self.number);
        let tables = inside(host, &self.demo, &["mariadb-check", SOCKET, "--extended", "--all-databases"]);
        let states: Vec<_> = tables.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert!(states.len() >= 12 && states.iter().all(|state| *state == "OK"), "{tables}");
    }
}

/// Whether a title of a post begins there: `copy7post3end`.
fn is_title(text: &str) -> bool {
    let number = text["copy".len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    number.len() < text.len() - "copy".len() && number.starts_with("post")
}

/// What the server says that all its instances take.
async fn memory(server: &Server) -> Option<Value> {
    let stats = server.stats().await;
    stats["templates"][0].get("memory").cloned()
}

/// Writes to all copies in turns until the time is over, and looks at each now and then.
async fn write(server: &Server, copies: &[Copy], time: Duration) {
    let (next, end) = (AtomicUsize::new(0), Instant::now() + time);
    // A copy answers one visitor at a time, and each round is over before the next comes to the same copy.
    let writer = async |which: usize| {
        let own: Vec<_> = copies.iter().skip(which).step_by(WRITERS).collect();
        for copy in own.iter().cycle() {
            if Instant::now() >= end {
                return;
            }
            copy.publish(server.port).await;
            if next.fetch_add(1, SeqCst).is_multiple_of(3) {
                copy.look(server.port).await;
            }
        }
    };
    futures_util::future::join_all((0..WRITERS.min(copies.len())).map(writer)).await;
}

/// The most that the server has said its instances take, until this is dropped or `done`.
async fn most(server: &Server, done: &tokio_util::sync::CancellationToken) -> [u64; 3] {
    let mut most = [0; 3];
    loop {
        if let Some(memory) = memory(server).await {
            for (most, name) in most.iter_mut().zip(["instances", "charged_bytes", "shared_bytes"]) {
                *most = (*most).max(memory[name].as_u64().unwrap());
            }
        }
        tokio::select! {
            () = done.cancelled() => return most,
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
async fn fifty_copies_of_wordpress_are_written_to_and_each_has_its_own_rows() {
    let (time, count) =
        (Duration::from_secs(setting("SOAK_SECONDS", 60)), setting("SOAK_COPIES", 50) as usize);
    let Some(host) = Host::ready_wordpress() else { return };
    let most_of_all = (count + 4).to_string();
    let sizes = [("POOL_TARGET_SIZE", "2"), ("POOL_MIN_SIZE", "1"), ("POOL_MAX_SIZE", &*most_of_all)];
    let mut server = host.serve(&sizes).await.full_within(BAKE).await;
    let before = available();

    let begun = Instant::now();
    let mut copies = Vec::new();
    for number in 0..count {
        let handed = server.call("POST", "/api/v1/demo/acquire", "").await;
        assert_eq!(handed.status, 200, "{number}: {}", handed.text());
        let handed = handed.json();
        let password = handed["credentials"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        copies.push(Copy { number, demo: Demo::from_json(&handed), password, posts: AtomicUsize::new(0) });
    }
    let all_there = begun.elapsed();
    let idle = eventually_within(Duration::from_secs(120), "all are measured", async || {
        memory(&server).await.filter(|memory| memory["instances"].as_u64().unwrap() >= count as u64)
    })
    .await;
    let taken_idle = before.saturating_sub(available());

    let done = tokio_util::sync::CancellationToken::new();
    let writing = async {
        write(&server, &copies, time).await;
        done.cancel();
    };
    let (most, ()) = futures_util::join!(most(&server, &done), writing);
    let [instances, charged, shared] = most;
    let posts: usize = copies.iter().map(|copy| copy.posts.load(SeqCst)).sum();
    println!(
        "{count} copies after {all_there:?}: idle {idle}, {} MiB less available; {posts} posts in {time:?}: {} MiB in all \
         of {instances}, {} MiB shared, {} MiB less available",
        taken_idle / M,
        charged / M,
        shared / M,
        before.saturating_sub(available()) / M,
    );
    assert!(posts >= count, "{posts} posts: each has one at least");
    assert!(instances >= count as u64);
    assert!(charged <= instances * EACH, "{} MiB for {instances}", charged / M);
    assert!(shared > M && shared <= SHARED, "{} MiB", shared / M);

    for copy in &copies {
        copy.look(server.port).await;
        copy.check(&host);
    }
    let log = server.log().join("\n");
    assert!(!log.contains("an instance died") && !log.contains("a restore failed"), "all of them live");
    for copy in &copies {
        release(&server, &copy.demo.id).await;
    }
    stop(&mut server).await;
    host.nothing_left().await;
}

#[test]
fn titles_are_told_from_other_words() {
    assert!(is_title("copy12post3end"));
    assert!(!is_title("copyright post") && !is_title("copypost") && !is_title("copy1"));
}
