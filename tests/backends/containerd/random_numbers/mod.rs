//! Instances of one checkpoint draw different random numbers. Each program draws before it is frozen, so that its
//! generators are seeded, and then in two restored instances.

use std::collections::{BTreeMap, BTreeSet};

use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ImageRef, ShareMemory};

use super::{REVISION, TestNode, compiled_program, send_command, start, with_timeout};
use crate::support::skip::skip;
use crate::support::stack;

/// What was drawn: the numbers of generators that promise secret numbers, and those of others.
#[derive(Debug, Default)]
struct Numbers {
    secret: BTreeMap<String, String>,
    open: BTreeMap<String, String>,
    /// The other lines.
    others: BTreeMap<String, String>,
}

impl Numbers {
    fn read(answer: &str) -> Self {
        let mut numbers = Self::default();
        for line in answer.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["secret", name, value] => numbers.secret.insert((*name).to_owned(), (*value).to_owned()),
                ["open", name, value] => numbers.open.insert((*name).to_owned(), (*value).to_owned()),
                [name, value] => numbers.others.insert((*name).to_owned(), (*value).to_owned()),
                _ => panic!("{answer}"),
            };
        }
        assert!(!numbers.secret.is_empty(), "the program has answered nothing");
        assert!(numbers.secret.values().all(|value| value.len() >= 8), "{answer}");
        numbers
    }
}

/// Returns an image that `make images` builds; `None` and prints why if it is missing.
pub(super) fn image(name: &str) -> Option<ImageRef> {
    let archive = stack::image_archive(name);
    if !archive.is_file() {
        skip(&format!("the image {name} is missing (run `make images`)"));
        return None;
    }
    Some(ImageRef::Tar(archive))
}

/// What was drawn before the freeze, twice in each of two restored instances, and what the bake reports.
struct Draws {
    before: Numbers,
    after: Vec<Numbers>,
    report: String,
}

impl Draws {
    /// Has an app draw, bakes it, and has two restored instances draw in turns.
    async fn of(test_node: &TestNode, app: &App) -> Self {
        let runtime = test_node.open().await;
        let (id, started) = start(&runtime, app).await;
        assert_eq!(started.method, StartMethod::Cold);
        let before = Numbers::read(&send_command(&runtime, started.endpoint, "draw").await);
        with_timeout(runtime.bake(&id, REVISION, app)).await.unwrap();
        let report = runtime.describe_random_numbers(REVISION, app).await.unwrap();
        let instances = [start(&runtime, app).await, start(&runtime, app).await];
        let mut after = Vec::new();
        for _ in 0..2 {
            for (_, instance) in &instances {
                assert_eq!(instance.method, StartMethod::Restored);
                after.push(Numbers::read(&send_command(&runtime, instance.endpoint, "draw").await));
            }
        }
        for (id, _) in instances {
            with_timeout(runtime.stop(&id)).await.unwrap();
        }
        Self { before, after, report }
    }

    /// Returns the generators that promise secret numbers and gave one twice.
    #[expect(clippy::print_stdout, reason = "docs/random-numbers.md names the others")]
    fn repeating(&self) -> BTreeSet<&str> {
        let all = || std::iter::once(&self.before).chain(&self.after);
        let names = self.after[0].secret.keys().map(String::as_str);
        let repeats = |name: &&str| {
            let drawn: Vec<_> = all().filter_map(|numbers| numbers.secret.get(*name)).collect();
            assert!(drawn.len() >= self.after.len(), "{name} was not drawn");
            drawn.iter().collect::<BTreeSet<_>>().len() < drawn.len()
        };
        let repeating = names.filter(repeats).collect();
        for (name, value) in &self.after[0].open {
            println!("{name} repeats: {}", self.after[1].open[name] == *value);
        }
        println!("{}", self.report);
        repeating
    }

    /// Panics if a number of a generator that promises secret numbers was drawn twice, or if the report does not say
    /// that all is well.
    fn assert_different(&self) {
        assert!(self.after[0].secret.len() >= self.before.secret.len());
        assert_eq!(self.repeating(), BTreeSet::new(), "{:#?}", self.after);
        assert!(self.report.ends_with("no known generator repeats"), "{}", self.report);
    }

    /// Returns how many of OpenSSL's generators the report names.
    fn openssl_generators(&self) -> u64 {
        let count = self.report.strip_prefix("random numbers: ").and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{}", self.report))
    }
}

fn app(image: ImageRef, command: &[&str]) -> App {
    App { image: Some(image), port: 8080, ..crate::suites::runtime::app(command) }
}

const NODE: &str = include_str!("programs/node.js");

fn node() -> Option<App> {
    Some(app(image("node")?, &["/usr/bin/node", "-e", NODE]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_node_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(app) = node() else { return };
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    assert!(draws.openssl_generators() >= 4, "{}", draws.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_without_shared_memory_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(app) = node() else { return };
    let draws = Draws::of(&test_node, &App { share_memory: ShareMemory::Off, ..app }).await;
    draws.assert_different();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_warned_of_an_app_with_options_of_its_own_for_node() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(mut app) = node() else { return };
    app.env.insert("NODE_OPTIONS".to_owned(), "--no-warnings".to_owned());
    let draws = Draws::of(&test_node, &app).await;
    let stored = ["child.randomUUID", "randomInt", "randomUUID", "webcrypto.randomUUID", "worker.randomUUID"];
    assert_eq!(draws.repeating(), BTreeSet::from(stored), "these are what Node stores");
    assert!(draws.report.contains(" is Node, which stores numbers"), "{}", draws.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_php_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(image) = image("php") else { return };
    let app = app(image, &["php", "-r", include_str!("programs/draw.php")]);
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    assert!(draws.openssl_generators() >= 2, "{}", draws.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_python_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(image) = image("runtimes") else { return };
    let app = app(image, &["python3", "-c", include_str!("programs/python.py")]);
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    // Three generators of each of three processes, and two of a thread.
    assert!(draws.openssl_generators() >= 8, "{}", draws.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_ruby_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(image) = image("runtimes") else { return };
    let app = app(image, &["ruby", "--disable=gems", "-e", include_str!("programs/ruby.rb")]);
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    assert!(draws.openssl_generators() >= 2, "{}", draws.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_postgresql_draw_different_numbers() {
    let Some(test_node) = TestNode::new() else { return };
    let Some(image) = image("runtimes") else { return };
    let app = app(image, &["python3", "-c", include_str!("programs/postgresql.py")]);
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    assert!(draws.openssl_generators() >= 2, "{}", draws.report);
}

/// A test of a program in the image of larger runtimes: its command, its environment, and how many of
/// OpenSSL's generators it has at least. `make random-numbers` builds the image.
macro_rules! larger_runtime {
    ($name:ident, $command:expr, $environment:expr, $generators:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[cfg(feature = "other-runtimes")]
        async fn $name() {
            let Some(test_node) = TestNode::new() else { return };
            let Some(image) = image("other-runtimes") else { return };
            let mut app = app(image, &$command);
            for (name, value) in $environment as [(&str, &str); _] {
                app.env.insert(name.to_owned(), value.to_owned());
            }
            let draws = Draws::of(&test_node, &app).await;
            draws.assert_different();
            assert!($generators.contains(&draws.openssl_generators()), "{}", draws.report);
        }
    };
}

larger_runtime!(instances_of_java_draw_different_numbers, ["java", "/opt/Draw.java"], [], 0..=0);
larger_runtime!(instances_of_go_draw_different_numbers, ["/opt/draw"], [], 0..=0);
larger_runtime!(
    instances_of_go_in_fips_mode_draw_different_numbers,
    ["/opt/draw"],
    [("GODEBUG", "fips140=on")],
    0..=0
);
larger_runtime!(
    instances_of_node_with_openssl_1_1_1_draw_different_numbers,
    ["/opt/node16", "-e", &format!("globalThis.crypto = require('crypto').webcrypto;\n{NODE}")],
    [],
    4..=99
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generator_that_is_wiped_in_a_child_is_seeded_anew_in_each_instance() {
    let Some(test_node) = TestNode::new() else { return };
    let image = compiled_program::image(&test_node, "random_numbers/programs/wiped.c", &[], "wiped");
    let app = app(image, &["/wiped"]);
    let draws = Draws::of(&test_node, &app).await;
    draws.assert_different();
    assert!(draws.report.contains("1 fork-aware range cleared"), "{}", draws.report);
    for numbers in &draws.after {
        assert_eq!(numbers.others["seeded"], "2", "once before the freeze and once after it");
        assert_eq!(numbers.others["kept"], "707070707070707", "other memory keeps its content");
    }
}
