//! Instances restored from a checkpoint: how soon a visitor has one that answers, against a cold start of the same image,
//! how fast a pool refills, and how soon one is gone.

use std::path::Path;
use std::time::Duration;

use super::refill::{Impact, POOL, refill};
use super::{Bench, in_turn};
use crate::Failure;
use crate::clock::now;
use crate::processors;
use crate::report::{Bound, Row};
use crate::site::{How, Site, Stack};
use crate::stats::{Median, median};

/// An image, and what is expected of it.
struct Image {
    template: &'static str,
    /// What its front page holds.
    text: &'static str,
    /// Restores, and cold starts; a tenth, and one, when it is to be quick.
    samples: (usize, usize),
    /// Most milliseconds from request to first good answer.
    restore: f64,
    /// How often the time of a restore goes into that of a cold start, at least.
    ratio: Bound,
    /// Least instances a second.
    refill: Bound,
    /// The rows: restore, first page, the same against a warm one's, with nothing shared, on demand, cold start, refill, the
    /// same against the processors, its impact, release, teardown.
    rows: [&'static str; 11],
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
            concat!($image, ": page p99 in a refill"),
            concat!($image, ": release p50"),
            concat!($image, ": teardown, longest"),
        ]
    };
}

const IMAGES: [Image; 3] = [
    Image {
        template: "sample",
        text: "<h1",
        samples: (30, 5),
        restore: 80.0,
        ratio: Bound::None,
        refill: Bound::None,
        rows: rows!("sample"),
    },
    Image {
        template: "php",
        text: "A PHP app of your own",
        samples: (30, 5),
        restore: 60.0,
        ratio: Bound::AtLeast(3.0),
        refill: Bound::AtLeast(20.0),
        rows: rows!("php"),
    },
    Image {
        template: "wordpress",
        text: "Hello world!",
        samples: (15, 5),
        restore: 120.0,
        ratio: Bound::AtLeast(8.0),
        refill: Bound::AtLeast(8.0),
        rows: rows!("wordpress"),
    },
];

/// Pages after the first of an instance, whose median says how long one takes.
const WARM_PAGES: usize = 8;

/// Most of what the first page of a restored instance takes, against a later one.
const FIRST_PAGE: Bound = Bound::AtMost(1.2);

/// Least of what all processors could restore that a refill does.
const BUSY: Bound = Bound::AtLeast(0.7);

/// Measures every image that there is, and names those that there are not.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("restore") else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for image in IMAGES.iter().filter(|image| stack.has_image("restore", image.template)) {
        rows.extend(image.measure(bench, &stack)?);
    }
    Ok(rows)
}

/// One visitor after another, in milliseconds.
#[derive(Default)]
struct Visits {
    acquire: Vec<f64>,
    page: Vec<f64>,
    /// The same page later, several times each visit: their median.
    warm: Vec<f64>,
    /// Milliseconds that all processors of this machine together were busy until there was an instance.
    busy: Vec<f64>,
    total: Vec<f64>,
    release: Vec<f64>,
    teardown: Vec<f64>,
}

impl Visits {
    fn make(&mut self, site: &Site, text: &str, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            let (begin, busy_before) = (now(), processors::busy()?);
            let id = site.acquire()?;
            let acquired = begin.elapsed();
            self.busy.push(processors::busy()? - busy_before);
            let begin_page = now();
            site.first_page(&id, text)?;
            let total = acquired + begin_page.elapsed();
            let later = (0..WARM_PAGES).map(|_| page(site, &id, text)).collect::<Result<Vec<_>, _>>()?;
            self.warm.push(median(&later).value);
            let begin = now();
            site.release(&id)?;
            let released = begin.elapsed();
            site.wait_until_gone(&id)?;
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
    /// The first page against the same page later, on the same instance.
    fn first_page(&self, what: &'static str) -> Row {
        let pairs: Vec<(f64, f64)> = self.page.iter().copied().zip(self.warm.iter().copied()).collect();
        let note = format!("later {:.1} ms", median(&self.warm).value);
        Row::of(what, "ms", &pairs, "a later one", FIRST_PAGE, note)
    }

    /// Instances that were made in another way, as ratios to restores of the same time.
    fn beside_restores(&self, what: &'static str, ratios: &[f64], bound: Bound, note: String) -> Row {
        let measured = median(&self.total).value;
        let (ratio, pairs) = (median(ratios), ratios.len());
        Row { what, measured, unit: "ms", ratio, to: "restore", bound, pairs, note }
    }

    /// Refills a second against as many as the processors could do if they did nothing else, and never waited.
    fn of_all_cores(&self, what: &'static str, refills: &[f64]) -> Result<Row, Failure> {
        let count = processors::count()?;
        // A clock of 100 ticks a second tells nothing of a single one.
        let each = self.busy.iter().sum::<f64>() / self.busy.len() as f64;
        let most = count as f64 * 1000.0 / each;
        let pairs: Vec<(f64, f64)> = refills.iter().map(|rate| (*rate, most)).collect();
        let note = format!("{each:.0} ms of processor time a restore, {count} processors");
        Ok(Row::of(what, "/s", &pairs, "cores / CPU time", BUSY, note))
    }
}

impl Image {
    fn measure(&self, bench: &Bench, stack: &Stack) -> Result<Vec<Row>, Failure> {
        let Self { template, text, .. } = *self;
        let (program, core): (&Path, usize) = (&bench.programs.server, bench.cores.server);
        let (restores, colds) = if bench.scale.pairs > 1 { self.samples } else { (self.samples.0 / 10, 1) };

        let of = stack.template(template);
        let site = stack.serve(program, &of, 0, How::Shared, core)?;
        let cold_site = stack.serve(program, &of, 0, How::Cold, core)?;
        let stock_site = stack.serve(program, &of, 0, How::Stock, core)?;
        // The first brings the image here, and makes the checkpoint where there is none.
        Visits::default().make(&site, text, 1)?;
        Visits::default().make(&stock_site, text, 1)?;
        let [mut restored, mut stock, mut cold] = [Visits::default(), Visits::default(), Visits::default()];
        let (mut ratios, mut stock_ratios) = (Vec::new(), Vec::new());
        // In turn, so that what else the machine does hits both.
        for _ in 0..colds {
            let before = restored.total.len();
            restored.make(&site, text, restores / colds)?;
            stock.make(&stock_site, text, restores / colds)?;
            cold.make(&cold_site, text, 1)?;
            stock_ratios.push(median(&stock.total[before..]).value / median(&restored.total[before..]).value);
            ratios.push(cold.total[cold.total.len() - 1] / median(&restored.total[before..]).value);
        }
        let stock_breakdown = breakdown(&stock_site, &stock)?;
        let breakdown = breakdown(&site, &restored)?;
        let beside_warm = beside_warm(&site, text, restores / 3)?;
        drop((site, stock_site, cold_site));
        let site = stack.serve(program, &of, POOL, How::Shared, core)?;
        let waves = if bench.scale.pairs > 1 { 5 } else { 1 };
        let (refills, beside): (Vec<f64>, Vec<f64>) = (0..waves)
            .map(|_| Ok((refill(&site, false)?, refill(&site, true)?)))
            .collect::<Result<_, Failure>>()?;
        let impact = Impact::measure(&site, text, if bench.scale.pairs > 1 { 300 } else { 20 })?;
        drop(site);

        let [
            restore_row,
            page_row,
            beside_row,
            stock_row,
            demand_row,
            cold_row,
            refill_row,
            cores_row,
            impact_row,
            release_row,
            teardown_row,
        ] = self.rows;
        let total = median(&restored.total);
        let above: Vec<f64> = restored.acquire.iter().map(|acquire| acquire - total.value).collect();
        let longest = restored.teardown.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            own(restore_row, "ms", total, Bound::AtMost(self.restore), restores, breakdown),
            restored.first_page(page_row),
            Row::of(
                beside_row,
                "ms",
                &beside_warm,
                "a warm one's",
                FIRST_PAGE,
                "both right after a restore".to_owned(),
            ),
            stock.beside_restores(stock_row, &stock_ratios, Bound::None, stock_breakdown),
            Row {
                what: demand_row,
                measured: median(&restored.acquire).value,
                unit: "ms",
                ratio: median(&above),
                to: "ms above restore",
                bound: Bound::AtMost(10.0),
                pairs: restores,
                note: "from an empty pool; a restore counts to the first page".to_owned(),
            },
            cold.beside_restores(cold_row, &ratios, self.ratio, "with installation and warm-up".to_owned()),
            own(
                refill_row,
                "/s",
                median(&refills),
                self.refill,
                waves,
                format!("{POOL} taken at once; given back at once too: {:.1} /s", median(&beside).value),
            ),
            restored.of_all_cores(cores_row, &refills)?,
            impact.row(impact_row),
            own(
                release_row,
                "ms",
                median(&restored.release),
                Bound::AtMost(5.0),
                restores,
                format!("p99 {:.1} ms", quantile(&restored.release, 0.99)),
            ),
            own(
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

/// A row whose bound is one of the thing itself.
fn own(
    what: &'static str,
    unit: &'static str,
    value: Median,
    bound: Bound,
    pairs: usize,
    note: String,
) -> Row {
    Row { what, measured: value.value, unit, ratio: value, to: unit, bound, pairs, note }
}

/// The first page of a copy, and a page of a warm one at such a moment: right after a restore, when the processors have done
/// something else for a while.
fn beside_warm(site: &Site, text: &str, pairs: usize) -> Result<Vec<(f64, f64)>, Failure> {
    let warm = site.acquire()?;
    (0..=WARM_PAGES).try_for_each(|_| site.first_page(&warm, text))?;
    let after_restore = |of_copy: bool| {
        let copy = site.acquire()?;
        let took = page(site, if of_copy { &copy } else { &warm }, text)?;
        site.release(&copy)?;
        site.wait_until_gone(&copy)?;
        Ok(took)
    };
    let found = in_turn(pairs.max(1), || after_restore(true), || after_restore(false))?;
    site.release(&warm)?;
    site.wait_until_gone(&warm)?;
    Ok(found)
}

/// Milliseconds to an instance's front page.
pub(super) fn page(site: &Site, id: &str, text: &str) -> Result<f64, Failure> {
    let begin = now();
    site.first_page(id, text)?;
    Ok(millis(begin.elapsed()))
}

/// Where the time of a restore goes: the server's own account, and the visitor's of the rest.
fn breakdown(site: &Site, visits: &Visits) -> Result<String, Failure> {
    let mut launches = site.launches()?;
    let mut parts = Vec::new();
    let mut sum = 0.0;
    for part in ["namespace", "snapshot", "files", "container", "task", "start"] {
        // Of the server's first, which no visit here counts, there is one more.
        let times = launches.remove(part).filter(|times| times.len() > visits.total.len());
        let times = times.ok_or_else(|| format!("the server did not restore, or does not tell of {part}"))?;
        let each = median(&times[times.len() - visits.total.len()..]).value / 1000.0;
        sum += each;
        parts.push(format!("{part} {each:.1}"));
    }
    let acquire = median(&visits.acquire).value;
    let [ready, page] = [acquire - sum, median(&visits.page).value];
    Ok(format!(
        "p99 {:.0}; {}, ready check and records {ready:.1}, first page {page:.1}",
        quantile(&visits.total, 0.99),
        parts.join(", "),
    ))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The least value that `part` of all do not exceed.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((part * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}
