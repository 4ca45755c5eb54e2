//! Instances restored from a checkpoint: how soon one is acquired and sends a page, against a cold start of the same
//! image; how fast a pool refills; and how soon an instance is removed.

use std::path::Path;

use super::refill::{POOL_SIZE, refill};
use crate::bench::{Bench, in_turn};
use crate::clock::now;
use crate::container_host::{ContainerHost, Stack, StartMode, millis};
use crate::cpu;
use crate::failure::Failure;
use crate::report::{Bound, Row};
use crate::stats::{Median, median, quantile};

/// An image, and the bounds of its figures.
struct ImageCase {
    template: &'static str,
    /// A text in its front page.
    text: &'static str,
    /// Number of restores and of cold starts; of a quick run a tenth and one.
    samples: (usize, usize),
    /// Maximum milliseconds from the acquire to the first page.
    restore: f64,
    /// Minimum ratio of the time of a cold start to that of a restore.
    ratio: Bound,
    /// Minimum instances per second.
    refill: Bound,
    /// The names of the figures: restore, first page, first page against that of a warm instance, restore without
    /// sharing, on demand, cold start, refill, refill against the processors, release, teardown.
    rows: [&'static str; 10],
}

macro_rules! rows {
    ($image:literal) => {
        [
            concat!($image, ": restore p50"),
            concat!($image, ": first page"),
            concat!($image, ": first page beside"),
            concat!($image, ": restore, nothing shared"),
            concat!($image, ": on demand, p50 to URL"),
            concat!($image, ": cold start"),
            concat!($image, ": refill"),
            concat!($image, ": refill of all cores"),
            concat!($image, ": release p50"),
            concat!($image, ": teardown, longest"),
        ]
    };
}

const IMAGES: [ImageCase; 3] = [
    ImageCase {
        template: "sample",
        text: "<h1",
        samples: (30, 5),
        restore: 80.0,
        ratio: Bound::None,
        refill: Bound::None,
        rows: rows!("sample"),
    },
    ImageCase {
        template: "php",
        text: "A PHP app of your own",
        samples: (30, 5),
        restore: 60.0,
        ratio: Bound::AtLeast(3.0),
        refill: Bound::AtLeast(20.0),
        rows: rows!("php"),
    },
    ImageCase {
        template: "wordpress",
        text: "Hello world!",
        samples: (15, 5),
        restore: 120.0,
        ratio: Bound::AtLeast(8.0),
        refill: Bound::AtLeast(8.0),
        rows: rows!("wordpress"),
    },
];

/// Number of pages after the first of an instance. Their median is the time of a later page.
const WARM_PAGES: usize = 8;

/// Maximum ratio of the time of the first page of a restored instance to that of a later page.
const FIRST_PAGE_BOUND: Bound = Bound::AtMost(1.2);

/// Minimum ratio of a refill to what all processors could restore.
const REFILL_BOUND: Bound = Bound::AtLeast(0.7);

/// Measures every image that was built, and prints which were not.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("restore") else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for image in IMAGES.iter().filter(|image| stack.has_image("restore", image.template)) {
        rows.extend(image.measure(bench, &stack)?);
    }
    Ok(rows)
}

/// The milliseconds of acquires, pages and releases, one instance after another.
#[derive(Default)]
struct Visits {
    acquire: Vec<f64>,
    page: Vec<f64>,
    /// The median of several later requests of the same page.
    warm: Vec<f64>,
    /// How long all processors of this machine together were busy until the instance was acquired.
    busy: Vec<f64>,
    total: Vec<f64>,
    release: Vec<f64>,
    teardown: Vec<f64>,
}

impl Visits {
    /// Acquires instances one after another, requests pages of each, and releases it.
    fn make(&mut self, host: &ContainerHost, text: &str, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            let (begin, busy_before) = (now(), cpu::busy_millis()?);
            let id = host.acquire()?;
            let acquired = begin.elapsed();
            self.busy.push(cpu::busy_millis()? - busy_before);
            let begin_page = now();
            host.first_page(&id, text)?;
            let total = acquired + begin_page.elapsed();
            let later =
                (0..WARM_PAGES).map(|_| host.page_millis(&id, text)).collect::<Result<Vec<_>, _>>()?;
            self.warm.push(median(&later).value);
            let begin = now();
            host.release(&id)?;
            let released = begin.elapsed();
            host.wait_until_gone(&id)?;
            self.acquire.push(millis(acquired));
            self.page.push(millis(total - acquired));
            self.total.push(millis(total));
            self.release.push(millis(released));
            self.teardown.push(millis(begin.elapsed()));
        }
        Ok(())
    }
}

impl Visits {
    /// Returns the first page of each instance against later requests of the same page.
    fn first_page(&self, what: &'static str) -> Row {
        let pairs: Vec<(f64, f64)> = self.page.iter().copied().zip(self.warm.iter().copied()).collect();
        let note = format!("later {:.1} ms", median(&self.warm).value);
        Row::of(what, "ms", &pairs, "a later one", FIRST_PAGE_BOUND, note)
    }

    /// Returns instances that were started in another way, as ratios to restores at the same time.
    fn beside_restores(&self, what: &'static str, ratios: &[f64], bound: Bound, note: String) -> Row {
        let measured = median(&self.total).value;
        let (ratio, pairs) = (median(ratios), ratios.len());
        Row { what: what.into(), measured, unit: "ms", ratio, to: "restore", bound, pairs, note }
    }

    /// Returns the instances per second of refills against the maximum of all processors: if they did nothing else and
    /// never waited.
    fn of_all_cores(&self, what: &'static str, refills: &[f64]) -> Result<Row, Failure> {
        let count = cpu::count()?;
        // A clock of 100 ticks per second cannot measure a single restore.
        let each = self.busy.iter().sum::<f64>() / self.busy.len() as f64;
        let maximum = count as f64 * 1000.0 / each;
        let pairs: Vec<(f64, f64)> = refills.iter().map(|rate| (*rate, maximum)).collect();
        let note = format!("{each:.0} ms of processor time per restore, {count} processors");
        Ok(Row::of(what, "/s", &pairs, "cores / CPU time", REFILL_BOUND, note))
    }
}

impl ImageCase {
    fn measure(&self, bench: &Bench, stack: &Stack) -> Result<Vec<Row>, Failure> {
        let Self { template, text, .. } = *self;
        let (program, core): (&Path, usize) = (&bench.programs.server, bench.cores.server);
        let (restores, colds) = if bench.size.pairs > 1 { self.samples } else { (self.samples.0 / 10, 1) };

        let template = stack.template(template);
        let host = stack.serve(program, &template, 0, StartMode::Shared, core)?;
        let cold_host = stack.serve(program, &template, 0, StartMode::Cold, core)?;
        let unshared_host = stack.serve(program, &template, 0, StartMode::Unshared, core)?;
        // The first acquire waits for the image and the checkpoint, which exist afterwards.
        Visits::default().make(&host, text, 1)?;
        Visits::default().make(&unshared_host, text, 1)?;
        let [mut restored, mut unshared, mut cold] =
            [Visits::default(), Visits::default(), Visits::default()];
        let (mut ratios, mut unshared_ratios) = (Vec::new(), Vec::new());
        // In turn, so that other work of the machine affects all of them.
        for _ in 0..colds {
            let before = restored.total.len();
            restored.make(&host, text, restores / colds)?;
            unshared.make(&unshared_host, text, restores / colds)?;
            cold.make(&cold_host, text, 1)?;
            unshared_ratios
                .push(median(&unshared.total[before..]).value / median(&restored.total[before..]).value);
            ratios.push(cold.total[cold.total.len() - 1] / median(&restored.total[before..]).value);
        }
        let (unshared_breakdown, _) = breakdown(&unshared_host, &unshared)?;
        let (breakdown, steps) = breakdown(&host, &restored)?;
        bench.findings.add_stack("Restore to the first page", self.template, steps);
        let beside_warm = beside_warm(&host, text, restores / 3)?;
        drop((host, unshared_host, cold_host));
        let host = stack.serve(program, &template, POOL_SIZE, StartMode::Shared, core)?;
        let waves = if bench.size.pairs > 1 { 5 } else { 1 };
        let (refills, with_releases): (Vec<f64>, Vec<f64>) = (0..waves)
            .map(|_| Ok((refill(&host, false)?, refill(&host, true)?)))
            .collect::<Result<_, Failure>>()?;
        drop(host);

        let [
            restore_row,
            page_row,
            beside_row,
            unshared_row,
            demand_row,
            cold_row,
            refill_row,
            cores_row,
            release_row,
            teardown_row,
        ] = self.rows;
        let total = median(&restored.total);
        let above: Vec<f64> = restored.acquire.iter().map(|acquire| acquire - total.value).collect();
        let longest = restored.teardown.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            Row::absolute(restore_row, "ms", total, Bound::AtMost(self.restore), restores, breakdown),
            restored.first_page(page_row),
            Row::of(
                beside_row,
                "ms",
                &beside_warm,
                "that of a warm one",
                FIRST_PAGE_BOUND,
                "both right after a restore".to_owned(),
            ),
            unshared.beside_restores(unshared_row, &unshared_ratios, Bound::None, unshared_breakdown),
            Row {
                what: demand_row.into(),
                measured: median(&restored.acquire).value,
                unit: "ms",
                ratio: median(&above),
                to: "ms above restore",
                bound: Bound::AtMost(10.0),
                pairs: restores,
                note: "from an empty pool; the restore includes the first page".to_owned(),
            },
            cold.beside_restores(cold_row, &ratios, self.ratio, "with installation and warm-up".to_owned()),
            Row::absolute(
                refill_row,
                "/s",
                median(&refills),
                self.refill,
                waves,
                format!(
                    "{POOL_SIZE} acquired at once; released at once too: {:.1} /s",
                    median(&with_releases).value
                ),
            ),
            restored.of_all_cores(cores_row, &refills)?,
            Row::absolute(
                release_row,
                "ms",
                median(&restored.release),
                Bound::AtMost(5.0),
                restores,
                format!("p99 {:.1} ms", quantile(&restored.release, 0.99)),
            ),
            Row::absolute(
                teardown_row,
                "ms",
                Median { value: longest, low: longest, high: longest },
                Bound::AtMost(1000.0),
                restores,
                format!("p50 {:.1} ms", median(&restored.teardown).value),
            ),
        ])
    }
}

/// Returns pairs of the first page of a restored instance and a page of a warm instance in the same situation: right
/// after a restore, when the processors have done something else for a while.
fn beside_warm(host: &ContainerHost, text: &str, pairs: usize) -> Result<Vec<(f64, f64)>, Failure> {
    let warm = host.acquire()?;
    (0..=WARM_PAGES).try_for_each(|_| host.first_page(&warm, text))?;
    let after_restore = |of_restored: bool| {
        let restored = host.acquire()?;
        let took = host.page_millis(if of_restored { &restored } else { &warm }, text)?;
        host.release(&restored)?;
        host.wait_until_gone(&restored)?;
        Ok(took)
    };
    let found = in_turn(pairs.max(1), || after_restore(true), || after_restore(false))?;
    host.release(&warm)?;
    host.wait_until_gone(&warm)?;
    Ok(found)
}

/// The steps of a restore, each with its milliseconds.
type Steps = Vec<(String, f64)>;

/// Returns how the time of a restore is divided: the steps that the server logs, and the rest; as a text too.
fn breakdown(host: &ContainerHost, visits: &Visits) -> Result<(String, Steps), Failure> {
    let mut launches = host.launches()?;
    let mut steps = Steps::new();
    let mut sum = 0.0;
    for step in ["namespace", "snapshot", "files", "container", "task", "start"] {
        // The server has logged one more: its first restore, which these visits do not count.
        let times = launches.remove(step).filter(|times| times.len() > visits.total.len());
        let times =
            times.ok_or_else(|| format!("the server did not restore, or did not log the step {step}"))?;
        let each = median(&times[times.len() - visits.total.len()..]).value / 1000.0;
        sum += each;
        steps.push((step.to_owned(), each));
    }
    let acquire = median(&visits.acquire).value;
    steps.push(("ready check and records".to_owned(), acquire - sum));
    steps.push(("first page".to_owned(), median(&visits.page).value));
    let text: Vec<String> = steps.iter().map(|(step, took)| format!("{step} {took:.1}")).collect();
    Ok((format!("p99 {:.0}; {}", quantile(&visits.total, 0.99), text.join(", ")), steps))
}
