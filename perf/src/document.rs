//! The document of a run: on which machine what was measured, as JSON and as one page of HTML with its charts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::charts::{self, Chart, escaped};
use crate::cpu;
use crate::failure::Failure;
use crate::findings::Findings;
use crate::report::Row;
use crate::repository;

/// The document of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    environment: Environment,
    /// The load averages at the start and at the end.
    load_average: [String; 2],
    rows: &'a [Row],
    findings: &'a Findings,
}

/// The machine, and the programs on it.
#[derive(Debug, Serialize)]
struct Environment {
    /// Seconds since 1970.
    time: u64,
    commit: Option<String>,
    processor: String,
    processors: usize,
    memory_mib: u64,
    kernel: String,
    /// How the kernel controls congestion.
    tcp: String,
    arguments: Vec<String>,
    versions: Vec<String>,
}

impl<'a> Document<'a> {
    /// Describes this machine and a run on it.
    pub(crate) fn new(
        server: &Path,
        load_average: [String; 2],
        rows: &'a [Row],
        findings: &'a Findings,
    ) -> Result<Self, Failure> {
        Ok(Self { environment: Environment::find(server, findings)?, load_average, rows, findings })
    }

    /// Returns it as JSON.
    pub(crate) fn json(&self) -> Result<Vec<u8>, Failure> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Writes `report.json`, `report.html` and `charts/*.svg` into a folder, which is made.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let charts = self.charts();
        let pictures = folder.join("charts");
        fs::create_dir_all(&pictures)?;
        fs::write(folder.join("report.json"), self.json()?)?;
        fs::write(folder.join("report.html"), self.html(&charts))?;
        for chart in &charts {
            fs::write(pictures.join(chart.file_name()).with_extension("svg"), &chart.svg)?;
        }
        Ok(())
    }

    fn charts(&self) -> Vec<Chart> {
        let Findings { bars, lines, stacks, .. } = self.findings;
        [charts::bars(&bars.borrow()), charts::lines(&lines.borrow()), charts::stacks(&stacks.borrow())]
            .concat()
    }

    fn html(&self, charts: &[Chart]) -> String {
        let Environment { time, commit, processor, processors, memory_mib, kernel, tcp, arguments, versions } =
            &self.environment;
        let mut facts = String::new();
        let commit = commit.as_deref().unwrap_or("unknown").to_owned();
        let [before, after] = &self.load_average;
        for (name, value) in [
            ("Commit", commit),
            ("Time", format!("{time} seconds since 1970")),
            ("Machine", format!("{processors} processors ({processor}), {memory_mib} MiB of memory")),
            ("Kernel", format!("{kernel}; {tcp}")),
            ("Versions", versions.join("; ")),
            ("Command", arguments.join(" ")),
            ("Load average", format!("{before} at the start, {after} at the end")),
        ] {
            let _ = write!(facts, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
        }
        let mut lines = String::new();
        for row in self.rows {
            let cells = row.cells();
            let class = match row.is_kept() {
                Some(true) => "kept",
                Some(false) => "missed",
                None => "",
            };
            let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
            let _ = write!(lines, "<tr class='{class}'>{cells}</tr>");
        }
        let head: String = crate::report::HEAD.iter().map(|cell| format!("<th>{cell}</th>")).collect();
        let pictures: String = charts.iter().map(|chart| format!("<figure>{}</figure>", chart.svg)).collect();
        format!("{PAGE_BEGIN}<dl>{facts}</dl><table><tr>{head}</tr>{lines}</table>{pictures}</body></html>\n")
    }
}

/// The page up to its content. It loads nothing.
const PAGE_BEGIN: &str = "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
    <meta name='viewport' content='width=device-width'><title>Try It Now: performance</title><style>\
    body { font: 15px/1.4 system-ui, sans-serif; color: #222; background: #fff; max-width: 80em; margin: 2em auto; \
    padding: 0 1em }\
    dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1em } dt { color: #666 } dd { margin: 0 }\
    table { border-collapse: collapse; font-size: 13px } th, td { text-align: left; padding: .25em .6em; \
    border-bottom: 1px solid #ddd } .kept td:nth-child(6) { color: #197a2f } .missed td:nth-child(6) { color: #b00020; \
    font-weight: 600 }\
    figure { margin: 1.5em 0 } svg { max-width: 100%; height: auto; border: 1px solid #ddd }\
    </style></head><body><h1>Try It Now: performance</h1>";

impl Environment {
    fn find(server: &Path, findings: &Findings) -> Result<Self, Failure> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("", |(_, value)| value.trim()).to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_mib = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024;
        let mut versions: Vec<String> = version(server).into_iter().collect();
        versions.extend(findings.versions.borrow().iter().cloned());
        if let Ok(stack) = repository::stack() {
            for program in ["bin/containerd", "sbin/runc", "sbin/criu", "bin/valkey-server"] {
                versions.extend(version(&stack.join("usr").join(program)));
            }
        }
        let congestion = read("/proc/sys/net/ipv4/tcp_congestion_control");
        #[expect(clippy::disallowed_methods, reason = "a document needs the date, and no test another one")]
        let time = std::time::SystemTime::now();
        Ok(Self {
            time: time.duration_since(UNIX_EPOCH)?.as_secs(),
            commit: repository::commit(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: cpu::count()?,
            memory_mib,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            tcp: format!("congestion control {}", congestion.trim()),
            arguments: std::env::args().collect(),
            versions,
        })
    }
}

/// Returns the first line that a program prints as its version; `None` if it is not there.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
