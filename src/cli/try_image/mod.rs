//! `try-image`: finds out in one run whether an image works as a template.
//!
//! The image is started once to find its port and a page that answers (`explore.rs`). From both follows a template
//! (`suggestion.rs`). This template is then started cold, baked and restored by the pool, as a server does it, and what
//! was measured is printed with the template (`report.rs`).
//!
//! The command has a state folder of its own, and so a node of its own: it never touches what a server runs. It removes
//! everything at its end; what a killed run left is removed by the next one.

mod explore;
mod report;
mod suggestion;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bake::interrupted;
use super::command::{CONFIG_ERROR, FAILURE, fail, own_program, run_collecting_problems};
use super::doctor;
use super::error::CommandError;
use crate::clock::Clock;
use crate::config::{self, Config, RuntimeSettings};
use crate::pool::{self, BakeOutcome, Pool};
use crate::proxy::routes::RouteTable;
use crate::runtime::{NoDatabases, Runtime, StartMethod};
use crate::server::backends::{embedded_queue, open_memory_store, start_runtime};
use crate::server::state_dir::NodeDir;
use crate::telemetry::Metrics;
use crate::template::{ImageRef, NodeSecret};
pub(super) use explore::{ExploreRequest, explore};
use report::{Report, Verdict};
pub(super) use suggestion::Suggestion;

/// The name of the folder in `STATE_DIR` for the nodes of this command.
pub(super) const FOLDER: &str = "try-image";
/// Restored instances that are measured.
const RESTORES: usize = 5;
/// Longest time to stop one instance.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// An image, and what it does not say about itself.
#[derive(Debug, Args)]
pub(super) struct ImageOptions {
    /// The image: a name such as wordpress:6, or oci: and the path of an archive (OCI, or of docker save)
    image: String,
    /// The port that serves its pages, in place of what the image exposes or is seen to listen on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// An environment variable of the app; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How long the app may take until it answers, such as 90s
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60s")]
    pub(super) timeout: Duration,
}

/// What to try.
#[derive(Debug, Args)]
pub(super) struct TryImage {
    #[command(flatten)]
    image: ImageOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A program and its arguments in place of those of the image; the last option
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true)]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() { Err("write NAME=VALUE") } else { Ok((name.to_owned(), value.to_owned())) }
}

/// Parses a time of at least one second.
pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    let time = config::parse_duration(text).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or("write a time of at least one second, such as 90s")
}

/// Tries an image and prints the result. The exit status is that of the verdict, or 1 or 64 if nothing was tried.
pub(super) fn run(options: TryImage) -> ExitCode {
    let own_program = match own_program() {
        Ok(path) => path,
        Err(status) => return status,
    };
    let suggestion = match suggestion(&options.image, &options.command) {
        Ok(suggestion) => suggestion,
        Err(problem) => return fail(CONFIG_ERROR, problem),
    };
    let config = match config::read_for_containers(&suggestion.toml(), &own_program) {
        Ok(config) => config,
        Err(errors) => return fail(CONFIG_ERROR, errors),
    };
    let trial = try_image(&options, suggestion, config, &own_program);
    let (outcome, problems) = match run_collecting_problems(trial) {
        Ok(ran) => ran,
        Err(status) => return status,
    };
    match outcome {
        Ok(mut report) => {
            report.log = problems;
            let text = if options.json { report.json() } else { report.text() };
            if let Err(error) = io::stdout().write_all(text.as_bytes()) {
                return fail(FAILURE, error);
            }
            ExitCode::from(report.verdict.exit_status())
        }
        Err(error) => fail(FAILURE, error),
    }
}

/// Returns the template of an image of which nothing is known yet.
///
/// # Errors
/// The image's name is malformed, or its archive cannot be read.
pub(super) fn suggestion(options: &ImageOptions, command: &[String]) -> Result<Suggestion, String> {
    let folder = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let image = ImageRef::parse(&options.image, &folder)
        .map_err(|remedy| format!("the image {:?} cannot be used: {remedy}", options.image))?;
    if let ImageRef::Tar(path) = &image {
        let found = std::fs::File::open(path).and_then(|file| file.metadata());
        match found {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(format!("{} is no archive but a folder", path.display())),
            Err(error) => return Err(format!("cannot read the image in {}: {error}", path.display())),
        }
    }
    let env: BTreeMap<_, _> = options.env.iter().cloned().collect();
    Ok(Suggestion {
        image,
        port: options.port,
        page: None,
        timeout: options.timeout,
        env,
        command: command.to_vec(),
        ttl: None,
        has_egress: false,
    })
}

/// Tries an image on a node of its own, and removes everything of it afterwards.
///
/// # Errors
/// containerd does not answer, another run tries an image, the command was interrupted, or something cannot be removed.
async fn try_image(
    options: &TryImage,
    suggestion: Suggestion,
    config: Config,
    own_program: &Path,
) -> Result<Report, CommandError> {
    let interrupted = interrupted().map_err(CommandError::Signals)?;
    if let Some(problem) = doctor::containerd_problem(&config.runtime.containerd_address).await {
        return Err(CommandError::Containerd(problem));
    }
    let folder = config.state_dir.join(FOLDER);
    let (node, others) = lock_nodes(&folder)?;
    progress("removing what an earlier run left, if any");
    for other in others {
        let left = open_runtime(&other, &config.runtime, own_program).await?;
        clear(left, other).await?;
    }
    let runtime = open_runtime(&node, &config.runtime, own_program).await?;
    stop_all(&*runtime).await?;
    let trial = Trial { options, config, own_program, node: &node, runtime: runtime.clone() };
    let outcome = tokio::select! {
        report = trial.run(suggestion) => Ok(report),
        () = interrupted => Err(CommandError::TrialInterrupted),
    };
    progress("removing everything");
    clear(runtime, node).await?;
    outcome
}

/// Locks a node for this run, and those that earlier runs left.
///
/// # Errors
/// Another run tries an image, or the folder cannot be used.
fn lock_nodes(folder: &Path) -> Result<(NodeDir, Vec<NodeDir>), CommandError> {
    let mut left = match NodeDir::lock_all(folder) {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(_)) => return Err(CommandError::TrialRuns(folder.to_owned())),
        Err(source) => return Err(CommandError::Folder { folder: folder.to_owned(), source }),
    };
    let node = match left.pop() {
        Some(node) => node,
        None => NodeDir::lock_any(folder)
            .map_err(|source| CommandError::Folder { folder: folder.to_owned(), source })?,
    };
    Ok((node, left))
}

/// Opens the runtime of a node, which adopts what an earlier process left of the node.
///
/// # Errors
/// The runtime does not answer.
pub(super) async fn open_runtime(
    node: &NodeDir,
    settings: &RuntimeSettings,
    own_program: &Path,
) -> Result<Arc<dyn Runtime>, CommandError> {
    let (_, forbidden_hosts) = watch::channel(BTreeSet::new());
    Ok(start_runtime(node, settings, own_program, None, forbidden_hosts).await?)
}

/// Stops all instances and removes all checkpoints of a node.
async fn stop_all(runtime: &dyn Runtime) -> Result<(), CommandError> {
    for id in runtime.list().await? {
        match tokio::time::timeout(STOP_DEADLINE, runtime.stop(&id)).await {
            Ok(stopped) => stopped?,
            Err(_) => return Err(CommandError::NotStopped(id)),
        }
    }
    Ok(runtime.discard_all_checkpoints().await?)
}

/// Removes everything of a node, and the node itself.
///
/// # Errors
/// Something cannot be removed.
pub(super) async fn clear(runtime: Arc<dyn Runtime>, node: NodeDir) -> Result<(), CommandError> {
    stop_all(&*runtime).await?;
    drop(runtime);
    let folder = node.containers_dir();
    node.remove().map_err(|source| CommandError::Folder { folder, source })
}

/// Prints what is done now.
fn progress(step: &str) {
    // A closed standard error has no reader, and the command goes on without one.
    let _ = writeln!(io::stderr(), "{step}");
}

/// The trial of one image.
struct Trial<'a> {
    options: &'a TryImage,
    config: Config,
    own_program: &'a Path,
    node: &'a NodeDir,
    runtime: Arc<dyn Runtime>,
}

impl Trial<'_> {
    /// Finds out what the image needs and how its instances start.
    async fn run(self, suggestion: Suggestion) -> Report {
        let mut report = Report::new(suggestion.image.to_string());
        if let Err(why) = self.fill(&mut report, suggestion).await {
            report.verdict = Verdict::DoesNotWork;
            report.problem = Some(why);
        }
        report
    }

    /// Fills a report.
    ///
    /// # Errors
    /// The image does not work; the error says why.
    async fn fill(&self, report: &mut Report, mut suggestion: Suggestion) -> Result<(), String> {
        let template = self.config.templates.iter().next().ok_or("there is no template")?.clone();
        progress("fetching the image");
        self.runtime.fetch(&template.app).await.map_err(|error| error.to_string())?;
        let facts = self.runtime.image_facts(&template.app).ok_or("the image has no configuration")?;
        report.set_facts(&facts, self.options.image.port);

        progress("starting it to find its port and a page that answers");
        let request = ExploreRequest {
            public_url: &self.config.server.public,
            template: &template,
            facts: &facts,
            port: self.options.image.port,
        };
        let found = explore(&*self.runtime, request).await.map_err(|error| error.to_string())?;
        report.set_found(&found, &facts);
        suggestion.port = Some(found.port);
        suggestion.page = found.page;
        report.template = Some(suggestion.toml());

        let pool = self.pool(&suggestion).map_err(|error| error.to_string())?;
        let measured = measure(&pool, suggestion.name().as_str(), report).await;
        pool.shut_down().await;
        measured
    }

    /// Returns a pool of the suggested template, as a server makes it.
    fn pool(&self, suggestion: &Suggestion) -> Result<Arc<Pool>, CommandError> {
        let config = config::read_for_containers(&suggestion.toml(), self.own_program)
            .map_err(|errors| CommandError::Suggestion(errors.to_string()))?;
        let folder = self.node.containers_dir();
        let unusable = |source| CommandError::Folder { folder: folder.clone(), source };
        let clock = Clock::System;
        let store = open_memory_store(self.node, &*self.runtime, clock.clone()).map_err(unusable)?;
        Ok(Pool::new(pool::PoolParts {
            store: Arc::new(store),
            runtime: self.runtime.clone(),
            databases: Arc::new(NoDatabases),
            queue: embedded_queue(config.queue.workers),
            routes: Arc::new(RouteTable::default()),
            metrics: Arc::new(Metrics::new()),
            clock,
            node: self.node.id().clone(),
            secret: Some(NodeSecret::random(self.node.secret().map_err(unusable)?)),
            public_url: Arc::new(config.server.public),
            templates: config.templates,
            acquire_timeout: config.acquire_timeout,
        }))
    }
}

/// Measures a cold start, a bake and restores.
///
/// # Errors
/// The cold start fails, so the image does not work.
async fn measure(pool: &Pool, name: &str, report: &mut Report) -> Result<(), String> {
    progress("measuring a cold start");
    let cold = pool.supply.try_start(name).await.map_err(|error| error.to_string())?;
    report.cold = Some(cold.took);
    report.memory = cold.memory.map(|memory| memory.private);
    report.verdict = Verdict::ColdOnly;

    progress("baking: starting an instance, freezing it, and comparing two restored ones");
    let begun = Instant::now();
    match pool.supply.bake(name).await {
        Ok(BakeOutcome::Baked { repeated }) => report.repeated = repeated,
        Ok(BakeOutcome::AlreadyBaked | BakeOutcome::NeverBaked) => {}
        Err(error) => {
            report.problem = Some(format!("cannot be baked: {error}"));
            return Ok(());
        }
    }
    report.bake = Some(begun.elapsed());
    report.checkpoint = pool.supply.describe_checkpoint(name).await;
    for number in 1..=RESTORES {
        progress(&format!("restoring an instance ({number} of {RESTORES})"));
        match pool.supply.try_start(name).await {
            Ok(start) if start.method == StartMethod::Restored => {
                report.restores.push(start.took);
                report.memory = start.memory.map(|memory| memory.private).or(report.memory);
            }
            Ok(_) => {
                report.problem = Some("its checkpoint cannot be restored; see the log lines".to_owned());
                return Ok(());
            }
            Err(error) => {
                report.problem = Some(format!("a restored instance does not work: {error}"));
                return Ok(());
            }
        }
    }
    report.verdict = Verdict::Restores;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_times_are_checked() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("5ms").is_err() && time("soon").is_err());
    }
}
