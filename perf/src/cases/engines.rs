//! Docker and Podman: how soon an instance of an empty pool sends its page, beside `docker run`; how fast a pool refills,
//! beside the engine alone; and how long an acquire takes while the engine starts containers and while it starts none,
//! beside a server whose instances are processes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::refill::{POOL_SIZE, refill};
use crate::bench::{Bench, in_turn, micros};
use crate::clock::now;
use crate::container_host::{ContainerHost, Stack, StartMode, millis};
use crate::failure::Failure;
use crate::load::{self, Until};
use crate::report::{Bound, Row};
use crate::repository;
use crate::server::{Programs, RuntimeKind, ServerOptions};
use crate::stats::median;
use crate::traffic::Acquires;

/// A text in the front page of the image.
const TEXT: &str = "A PHP app of your own";
/// Containers that the engine alone starts at a time, as a server does by default.
const STARTS_AT_ONCE: usize = 4;
/// Acquires of one load from a pool to which nothing is added.
const ACQUIRES: usize = 6;
/// Maximum time until a container that the engine started alone sends its page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// An engine of the stack, and the names of its figures.
struct Engine {
    mode: StartMode,
    /// The variable of the stack that names its socket.
    variable: &'static str,
    /// More options of `docker run`: what the stack's engine needs on a machine with few rights.
    options: &'static [&'static str],
    rows: [&'static str; 4],
}

const ENGINES: [Engine; 2] = [
    Engine {
        mode: StartMode::Docker,
        variable: "DOCKER_HOST",
        options: &[],
        rows: [
            "Docker: start to page",
            "Docker: refill",
            "Docker: acquire during a refill",
            "Docker: acquire, p50",
        ],
    },
    Engine {
        mode: StartMode::Podman,
        variable: "CONTAINER_HOST",
        options: &["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=10000:10000"],
        rows: [
            "Podman: start to page",
            "Podman: refill",
            "Podman: acquire during a refill",
            "Podman: acquire, p50",
        ],
    },
];

/// Measures both engines, and prints which do not run.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let Some(stack) = Stack::find_for("engines") else { return Ok(Vec::new()) };
    if !stack.has_image("engines", "php") {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for engine in &ENGINES {
        if let Some(socket) = stack.socket("engines", engine.variable) {
            rows.extend(engine.measure(bench, &stack, socket)?);
        }
    }
    Ok(rows)
}

impl Engine {
    fn measure(&self, bench: &Bench, stack: &Stack, socket: &str) -> Result<Vec<Row>, Failure> {
        let (server, core) = (&bench.programs.server, bench.cores.server);
        let [start_row, refill_row, noisy_row, acquire_row] = self.rows;
        let (starts, refills, acquires) = if bench.size.pairs > 1 { (15, 5, POOL_SIZE) } else { (2, 1, 2) };

        let template = stack.template("php");
        let host = stack.serve(server, &template, 0, self.mode, core)?;
        // The first acquire waits for the image.
        let first = host.acquire()?;
        host.first_page(&first, TEXT)?;
        let program = repository::stack()?.join("engines/usr/bin/docker");
        let mut alone = Alone { program, socket, options: self.options, image: String::new() };
        // The server names a container by the id of its instance.
        alone.image = alone.run(&["inspect", "--format", "{{.Image}}", &first])?;
        host.release(&first)?;
        let pairs = in_turn(
            starts,
            || {
                let begin = now();
                let id = host.acquire()?;
                host.first_page(&id, TEXT)?;
                let took = millis(begin.elapsed());
                host.release(&id)?;
                host.wait_until_gone(&id)?;
                Ok(took)
            },
            || {
                let begin = now();
                let container = alone.start()?;
                let took = millis(begin.elapsed());
                drop(container);
                Ok(took)
            },
        )?;
        let note = "from an empty pool, with the ready check".to_owned();
        let start = Row::of(start_row, "ms", &pairs, "docker run", Bound::AtMost(1.1), note);
        drop(host);

        let host = stack.serve(server, &template, POOL_SIZE, self.mode, core)?;
        let pairs = in_turn(refills, || refill(&host, false), || alone.start_many())?;
        let note = format!("{POOL_SIZE} acquired at once, beside {STARTS_AT_ONCE} docker run at a time");
        let refill = Row::of(refill_row, "/s", &pairs, "the engine alone", Bound::AtLeast(0.8), note);
        let noisy = acquire_during_refill(bench, &host, acquires, noisy_row)?;
        drop(host);
        Ok(vec![start, refill, noisy, self.acquire(bench, stack, acquire_row)?])
    }

    /// Returns how long acquires take while no container is started: one after another on a connection, of a pool to
    /// which nothing is added.
    fn acquire(&self, bench: &Bench, stack: &Stack, what: &'static str) -> Result<Row, Failure> {
        let loads = bench.size.pairs.min(5);
        // No load takes the last instance, whose end begins a refill.
        let ready = loads * ACQUIRES + 1;
        let (ready_check, pool) =
            ("[templates.php.ready]", "[templates.php.pool]\nreplenish_threshold = 0.0\n");
        let replaced = format!("{pool}replenish_interval = \"24h\"\n\n{ready_check}");
        let template = stack.template_with("php", "php-not-refilled", ready_check, &replaced)?;
        let host = stack.serve(&bench.programs.server, &template, ready, self.mode, bench.cores.server)?;
        host.wait_until_ready(ready as u64)?;
        let programs = Programs { server: bench.programs.server.clone(), runtime: RuntimeKind::Process };
        let options = ServerOptions::new(ready, bench.plain.address);
        let processes = programs.server(options, bench.cores.server)?;
        let p50 = |address| {
            let outcome =
                load::closed(address, Until::Responses(ACQUIRES as u64), &mut Acquires::one_by_one());
            Ok::<_, Failure>(micros(&outcome?, 0.5))
        };
        let of_both = || Ok((in_turn(1, || p50(host.address()), || p50(processes.address))?, bench.rtt()?));
        let measured = (0..loads).map(|_| of_both()).collect::<Result<Vec<_>, Failure>>()?;
        let of = |take: fn(&(f64, f64)) -> f64| -> Vec<(f64, f64)> {
            measured
                .iter()
                .flat_map(|(pairs, rtt)| pairs.iter().map(move |pair| (take(pair), *rtt)))
                .collect()
        };
        let with_processes: Vec<f64> =
            of(|(_, theirs)| *theirs).iter().map(|(time, rtt)| time / rtt).collect();
        let note = format!("while none is started; {:.1} rtt with processes", median(&with_processes).value);
        Ok(Row::of(what, "us", &of(|(ours, _)| *ours), "rtt", Bound::AtMost(5.0), note))
    }
}

/// Returns how long acquires of ready instances take, each on a connection of its own, while the engine starts containers.
fn acquire_during_refill(
    bench: &Bench,
    host: &ContainerHost,
    acquires: usize,
    what: &'static str,
) -> Result<Row, Failure> {
    let programs = Programs { server: bench.programs.server.clone(), runtime: RuntimeKind::Process };
    let options = ServerOptions::new(POOL_SIZE, bench.plain.address);
    let processes = ContainerHost::of_processes(programs.server(options, bench.cores.server)?);
    host.wait_until_ready(POOL_SIZE as u64)?;
    let micros = |host: &ContainerHost| {
        let begin = now();
        let id = host.acquire()?;
        Ok((id, begin.elapsed().as_secs_f64() * 1e6))
    };
    let pairs = in_turn(acquires, || micros(host), || micros(&processes))?;
    for ((id, _), _) in &pairs {
        host.release(id)?;
    }
    let rtt = bench.rtt()?;
    let pairs: Vec<(f64, f64)> = pairs.iter().map(|((_, ours), (_, theirs))| (*ours, *theirs)).collect();
    let ours: Vec<f64> = pairs.iter().map(|(ours, _)| *ours).collect();
    // No bound: each acquire has the engine start a container on the same processors.
    let note =
        format!("{:.1} rtt, with its connection, while containers are started", median(&ours).value / rtt);
    Ok(Row::of(what, "us", &pairs, "with processes", Bound::None, note))
}

/// The engine without a server, driven by its own program.
struct Alone<'a> {
    program: PathBuf,
    socket: &'a str,
    options: &'static [&'static str],
    image: String,
}

/// A container that is removed when it is dropped.
struct Container<'a> {
    engine: &'a Alone<'a>,
    id: String,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.engine.run(&["rm", "--force", &self.id]) {
            eprintln!("perf: {}: {error}", self.id);
        }
    }
}

impl Alone<'_> {
    /// Runs the engine's program, and returns what it printed.
    fn run(&self, words: &[&str]) -> Result<String, Failure> {
        let mut docker = Command::new(&self.program);
        docker.args(["--host", self.socket]).args(words).stdin(Stdio::null());
        let output = docker.output()?;
        if !output.status.success() {
            return Err(format!("docker {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts a container with the limits of an instance, and waits for its page.
    fn start(&self) -> Result<Container<'_>, Failure> {
        let limits = ["--memory", "1g", "--cpus", "1", "--pids-limit", "512", "--network", "none"];
        let env = ["--env", "HOST=127.0.0.1", "--env", "PORT=80"];
        let words = [&["run", "--detach"], &limits[..], &env, self.options, &[&self.image]].concat();
        let container = Container { engine: self, id: self.run(&words)? };
        let namespace = File::open(format!("/proc/{}/ns/net", process_of(&container.id)?))?;
        // Only this thread enters the network of the container.
        let page = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| format!("cannot enter the network of a container: {error}"))?;
            wait_for_page()
        });
        page.join().map_err(|_| "the thread of a page panicked")??;
        Ok(container)
    }

    /// Starts as many containers as a pool has, some at a time. Returns how many a second sent their page.
    fn start_many(&self) -> Result<f64, Failure> {
        let begun = AtomicU32::new(0);
        let begin = now();
        let (rate, containers) = std::thread::scope(|scope| {
            let start_some = || {
                let mut containers = Vec::new();
                while begun.fetch_add(1, Ordering::Relaxed) < POOL_SIZE as u32 {
                    containers.push(self.start().map_err(|error| error.to_string())?);
                }
                Ok::<_, String>(containers)
            };
            let threads: Vec<_> = (0..STARTS_AT_ONCE).map(|_| scope.spawn(start_some)).collect();
            let panicked = |_| "the thread of a start panicked".to_owned();
            let containers: Result<Vec<_>, String> =
                threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect();
            (POOL_SIZE as f64 / begin.elapsed().as_secs_f64(), containers)
        });
        drop(containers?);
        Ok(rate)
    }
}

/// Returns a process of a container: one in a control group with its id, which the engine's monitor has too.
fn process_of(id: &str) -> Result<u32, Failure> {
    let processes = fs::read_dir("/proc")?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_inside = |pid: &u32| {
        let groups = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup"));
        groups.is_ok_and(|groups| groups.contains(id) && !groups.contains("conmon"))
    };
    numbers.find(is_inside).ok_or_else(|| format!("{id} has no process").into())
}

/// Requests the page of the app at port 80 of the loopback until it has the text.
fn wait_for_page() -> Result<(), String> {
    let deadline = now() + PAGE_TIMEOUT;
    loop {
        let mut answer = Vec::new();
        if let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)) {
            // An app that is not ready closes the connection or answers with an error.
            let _ = socket
                .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .and_then(|()| socket.read_to_end(&mut answer));
        }
        if memchr::memmem::find(&answer, TEXT.as_bytes()).is_some() {
            return Ok(());
        }
        if now() >= deadline {
            return Err("a container of the engine sent no page in time".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
