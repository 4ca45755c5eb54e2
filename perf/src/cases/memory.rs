//! How much memory instances take that share the memory of a checkpoint, and that much memory does not slow restores
//! down.

use crate::bench::{Bench, in_turn};
use crate::clock::now;
use crate::container_host::{AcquiredInstance, ContainerHost, Stack, StartMode};
use crate::failure::Failure;
use crate::report::{Bound, Row};
use crate::stats::{Median, median};

/// For each ready template its name, a text in its front page, and the name of the figure.
const APPS: [(&str, &str, &str); 3] = [
    ("php", "A PHP app of your own", "php: memory of an instance"),
    ("node", "A shop of your own", "node: memory of an instance"),
    ("wordpress", "Hello world!", "wordpress: memory of an instance"),
];

/// Maximum ratio of the private memory of an idle restored instance to that of a cold-started one.
const PRIVATE_BOUND: Bound = Bound::AtMost(0.1);

/// Maximum ratio of the time of a restore with a large heap to that with an empty one.
const LARGE_HEAP_BOUND: Bound = Bound::AtMost(1.5);

/// Instances of WordPress that run at a time.
const MANY: usize = 100;

/// Measures every template whose image was built, and prints which was not.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("memory") else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for (template, text, what) in APPS {
        if !stack.has_image("memory", template) {
            continue;
        }
        rows.push(private(bench, &stack, template, text, what)?);
        match template {
            "node" => rows.push(large_heap(bench, &stack, text)?),
            "wordpress" => rows.push(many(bench, &stack, text)?),
            _ => {}
        }
    }
    Ok(rows)
}

/// Compares the private memory of an idle restored instance with that of a cold-started one.
fn private(
    bench: &Bench,
    stack: &Stack,
    template: &str,
    text: &str,
    what: &'static str,
) -> Result<Row, Failure> {
    let template = stack.template(template);
    let serve = |mode| stack.serve(&bench.programs.server, &template, 0, mode, bench.cores.server);
    let (shared, cold) = (serve(StartMode::Shared)?, serve(StartMode::Cold)?);
    // The first instance of a checkpoint shows which pages later ones need.
    drop(AcquiredInstance::new(&shared, Some(text))?);
    let private_mib = |host: &ContainerHost| {
        let instance = AcquiredInstance::new(host, None)?;
        Ok::<_, Failure>(host.private_memory(&instance.id)? / f64::from(1 << 20))
    };
    let pairs = in_turn(bench.size.pairs.min(3), || private_mib(&shared), || private_mib(&cold))?;
    let started = median(&pairs.iter().map(|(_, started)| *started).collect::<Vec<_>>()).value;
    let note = format!("private, idle; a cold-started one has {started:.0} MiB");
    Ok(Row::of(what, "MiB", &pairs, "cold-started", PRIVATE_BOUND, note))
}

/// Compares restores of node with 200 MiB in its heap with those of node with an empty heap.
fn large_heap(bench: &Bench, stack: &Stack, text: &str) -> Result<Row, Failure> {
    const HEAP: &str = r#"HEAP_MIB = "200""#;
    let empty = stack.template_with("node", "node-empty", HEAP, r#"HEAP_MIB = "0""#)?;
    let large = stack.template("node");
    let serve =
        |template| stack.serve(&bench.programs.server, template, 0, StartMode::Shared, bench.cores.server);
    let (large, empty) = (serve(&large)?, serve(&empty)?);
    let restore = |host: &ContainerHost| {
        let begin = now();
        let instance = AcquiredInstance::new(host, Some(text))?;
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        drop(instance);
        Ok::<_, Failure>(took)
    };
    restore(&large)?;
    restore(&empty)?;
    let pairs = in_turn(bench.size.tight_pairs, || restore(&large), || restore(&empty))?;
    let note = "a heap of 200 MiB, to the first page".to_owned();
    Ok(Row::of("node: restore p50", "ms", &pairs, "empty heap", LARGE_HEAP_BOUND, note))
}

/// Runs many instances at a time, and measures how much memory of the machine they take.
fn many(bench: &Bench, stack: &Stack, text: &str) -> Result<Row, Failure> {
    let count = if bench.size.pairs > 1 { MANY } else { 4 };
    let template = stack.template("wordpress");
    let before = available()?;
    let host =
        stack.serve(&bench.programs.server, &template, count, StartMode::Shared, bench.cores.server)?;
    let begin = now();
    host.wait_until_ready(count as u64)?;
    let took = begin.elapsed().as_secs_f64();
    let instance = AcquiredInstance::new(&host, Some(text))?;
    let taken = (before - available()?) / f64::from(1 << 20);
    drop(instance);
    let running = count as f64;
    Ok(Row {
        what: "wordpress: running instances".into(),
        measured: taken,
        unit: "GiB",
        ratio: Median { value: running, low: running, high: running },
        to: "instances",
        bound: if count == MANY { Bound::AtLeast(running) } else { Bound::None },
        pairs: 1,
        note: format!("started in {took:.0} s, {:.0} MiB each", taken * 1024.0 / running),
    })
}

/// Returns the KiB of memory that are available to programs.
fn available() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or("/proc/meminfo has no available memory")?.trim().parse()?)
}
