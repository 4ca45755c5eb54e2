//! What copies of a checkpoint take that share their memory, and that they take no longer for having much of it.

use super::{Bench, in_turn};
use crate::Failure;
use crate::clock::now;
use crate::report::{Bound, Row};
use crate::site::{How, Site, Stack};
use crate::stats::{Median, median};

/// What of a ready template is measured: its name, what its front page holds, and the row.
const APPS: [(&str, &str, &str); 3] = [
    ("php", "A PHP app of your own", "php: memory of a copy"),
    ("node", "A shop of your own", "node: memory of a copy"),
    ("wordpress", "Hello world!", "wordpress: memory of a copy"),
];

/// Most of what one that was started has for itself that an idle copy has.
const PRIVATE: Bound = Bound::AtMost(0.1);

/// Most of the time that a copy of an app takes whose heap is empty that one takes with a large one.
const LARGE_HEAP: Bound = Bound::AtMost(1.5);

/// Copies of WordPress that live at a time.
const MANY: usize = 100;

/// Measures what there is an image of, and names what there is not.
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

/// An idle copy against one that was started.
fn private(
    bench: &Bench,
    stack: &Stack,
    template: &str,
    text: &str,
    what: &'static str,
) -> Result<Row, Failure> {
    let of = stack.template(template);
    let serve = |how| stack.serve(&bench.programs.server, &of, 0, how, bench.cores.server);
    let (shared, cold) = (serve(How::Shared)?, serve(How::Cold)?);
    // The first copy of a checkpoint shows what those after it touch.
    drop(Guest::new(&shared, Some(text))?);
    let of_one = |site: &Site| {
        let guest = Guest::new(site, None)?;
        Ok::<_, Failure>(site.private_memory(&guest.id)? / f64::from(1 << 20))
    };
    let pairs = in_turn(bench.scale.pairs.min(3), || of_one(&shared), || of_one(&cold))?;
    let started = median(&pairs.iter().map(|(_, started)| *started).collect::<Vec<_>>()).value;
    let note = format!("its own, idle; one that was started {started:.0} MiB");
    Ok(Row::of(what, "MiB", &pairs, "started", PRIVATE, note))
}

/// Node with 200 MiB in its heap against node with nothing in it.
fn large_heap(bench: &Bench, stack: &Stack, text: &str) -> Result<Row, Failure> {
    const HEAP: &str = r#"HEAP_MIB = "200""#;
    let empty = stack.template_with("node", "node-empty", HEAP, r#"HEAP_MIB = "0""#)?;
    let large = stack.template("node");
    let serve = |of| stack.serve(&bench.programs.server, of, 0, How::Shared, bench.cores.server);
    let (large, empty) = (serve(&large)?, serve(&empty)?);
    let restore = |site: &Site| {
        let begin = now();
        let guest = Guest::new(site, Some(text))?;
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        drop(guest);
        Ok::<_, Failure>(took)
    };
    restore(&large)?;
    restore(&empty)?;
    let pairs = in_turn(bench.scale.tight_pairs, || restore(&large), || restore(&empty))?;
    let note = "a heap of 200 MiB, to the first page".to_owned();
    Ok(Row::of("node: restore p50", "ms", &pairs, "empty heap", LARGE_HEAP, note))
}

/// Many copies alive at a time, and what they take of the machine.
fn many(bench: &Bench, stack: &Stack, text: &str) -> Result<Row, Failure> {
    let count = if bench.scale.pairs > 1 { MANY } else { 4 };
    let of = stack.template("wordpress");
    let before = available()?;
    let site = stack.serve(&bench.programs.server, &of, count, How::Shared, bench.cores.server)?;
    let begin = now();
    site.wait_until_ready(count as u64)?;
    let took = begin.elapsed().as_secs_f64();
    let guest = Guest::new(&site, Some(text))?;
    let taken = (before - available()?) / f64::from(1 << 20);
    drop(guest);
    let alive = count as f64;
    Ok(Row {
        what: "wordpress: copies alive",
        measured: taken,
        unit: "GiB",
        ratio: Median { value: alive, low: alive, high: alive },
        to: "copies",
        bound: if count == MANY { Bound::AtLeast(alive) } else { Bound::None },
        pairs: 1,
        note: format!("made in {took:.0} s, {:.0} MiB each", taken * 1024.0 / alive),
    })
}

/// Somebody with an instance, which is given back and gone before anything else is measured.
struct Guest<'a> {
    site: &'a Site,
    id: String,
}

impl<'a> Guest<'a> {
    /// Takes one, and looks at its front page if that is said to hold something.
    fn new(site: &'a Site, text: Option<&str>) -> Result<Self, Failure> {
        let guest = Self { site, id: site.acquire()? };
        text.map_or(Ok(()), |text| site.first_page(&guest.id, text))?;
        Ok(guest)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let given_back = self.site.release(&self.id).and_then(|()| self.site.wait_until_gone(&self.id));
        if let Err(error) = given_back {
            eprintln!("perf: {}: {error}", self.id);
        }
    }
}

/// KiB of memory that programs could still have.
fn available() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or("the kernel does not say what memory is available")?.trim().parse()?)
}
