//! The part of a template that says what to run: a command on this host, or an image.

use std::path::{Path, PathBuf};

use super::file_context::{FileContext, utf8};
use super::toml_table::TomlTable;
use crate::template::egress::{Destination, MAX_DESTINATIONS};
use crate::template::{App, Egress, ImageRef, ResourceLimits, RuntimeHandler, ShareMemory};

/// As the first word of a command on this host: the path of this program.
const OWN_PROGRAM: &str = "try-it-now";
/// In a command on this host and in its environment: the folder of the file of templates.
const FOLDER: &str = "{folder}";
/// The variables that the runtime sets for each instance.
const INSTANCE_VARIABLES: [&str; 5] = ["HOST", "PORT", "INSTANCE_ID", "INSTANCE_URL", "INSTANCE_HOST"];

const COMMAND_RULE: &str = "write a list of texts, the program first, such as [\"node\", \"server.js\"]";
const IMAGE_RULE: &str = "write the image to run, such as \"wordpress:6\" or \"oci:./app.tar\"";
/// The fewest bytes that a container may be allowed to write.
const MIN_DISK: u64 = 1 << 20;
/// The most processes that a kernel can number.
pub(super) const MAX_PIDS: u64 = 4_194_304;

/// Reads what a template runs. `None` when an error leaves no command.
pub(super) fn app(table: &mut TomlTable<'_>, context: &FileContext<'_>) -> Option<App> {
    let folder = context.file.parent().unwrap_or(Path::new(""));
    let has_image = table.has("image");
    match context.has_containers {
        Some(true) if !has_image => {
            table.report("image", "it is missing", format!("{IMAGE_RULE}, or unset CONTAINER_MODE"));
        }
        Some(false) if has_image => {
            let remedy = "set CONTAINER_MODE to containerd, docker or podman, or write a command instead";
            table.report("image", "it needs containers", remedy);
        }
        _ => {}
    }
    // A missing or superfluous image is reported now; the other keys are read as the template was meant.
    let is_container = has_image || context.has_containers == Some(true);
    let image = table.text("image", IMAGE_RULE, Some).and_then(|text| {
        let report = |remedy| table.report("image", format!("{text:?} cannot be used"), remedy);
        ImageRef::parse(text, folder).map_err(report).ok()
    });
    let fill = |text: &str| match is_container {
        true => text.to_owned(),
        false => text.replace(FOLDER, &folder.to_string_lossy()),
    };
    let command = command(table, context, is_container, fill);
    let mut env = table.pairs("env", variable_problem);
    env.values_mut().for_each(|value| *value = fill(value));
    let files = table.text("files", "write the path of a folder, relative to this file", |text| {
        (!text.is_empty() && !text.contains('\0')).then(|| folder.join(text))
    });
    if is_container && table.has("files") {
        table.report("files", "an image has its own files", "put them into the image");
    }
    let user = user(table, is_container);
    let port = table.number("port", 1, 65_535).map(|n| n as u16);
    if !is_container && table.has("port") {
        table.report("port", "every instance gets its own, as PORT", "leave it out");
    }
    let limits = limits(table, is_container);
    let egress = egress(table, is_container, context.has_engine);
    let share_memory = share_memory(table, is_container);
    let runtime = runtime(table, is_container);
    if utf8(folder).is_none() {
        table.report("", "the path of the file is no UTF-8 text", "move it");
        return None;
    }
    let port = port.filter(|_| is_container).unwrap_or(0);
    let files = files.map(without_dots);
    Some(App { image, command: command?, user, port, env, files, limits, egress, share_memory, runtime })
}

/// Returns what is wrong with an environment variable of an app, if anything.
pub(super) fn variable_problem(name: &str, value: &str) -> Option<&'static str> {
    match name {
        _ if INSTANCE_VARIABLES.contains(&name) => Some("every instance gets its own value"),
        _ if name.is_empty() || name.contains(['=', '\0']) => Some("it is no name of a variable"),
        _ if value.contains('\0') => Some("its value contains a NUL"),
        _ => None,
    }
}

/// Returns the command; empty when an image runs its own.
fn command(
    table: &mut TomlTable<'_>,
    context: &FileContext<'_>,
    is_container: bool,
    fill: impl Fn(&str) -> String,
) -> Option<Vec<String>> {
    if !table.has("command") {
        if !is_container {
            table.report("command", "it is missing", COMMAND_RULE);
        }
        return is_container.then(Vec::new);
    }
    let word = |text: &str| (!text.contains('\0')).then(|| fill(text));
    let mut command: Vec<String> = table.texts("command", COMMAND_RULE, word)?;
    match command.first_mut() {
        Some(program) if program == OWN_PROGRAM && !is_container => {
            *program = context.own_program.to_owned();
        }
        Some(program) if !program.is_empty() => {}
        _ => {
            table.report("command", "it names no program", COMMAND_RULE);
            return None;
        }
    }
    Some(command)
}

/// Returns a path without `.` parts, so that equal paths compare as equal.
fn without_dots(path: PathBuf) -> PathBuf {
    path.components().collect()
}

fn user(table: &mut TomlTable<'_>, is_container: bool) -> Option<String> {
    const RULE: &str = "write a user of the image and perhaps a group, such as \"node\" or \"1000:1000\"";
    let is_user = |text: &str| {
        let has_bad = text.contains(|c: char| c.is_control() || c.is_whitespace());
        (!text.is_empty() && !has_bad).then(|| text.to_owned())
    };
    let user = table.text("user", RULE, is_user);
    if table.has("user") && !is_container {
        table.report(
            "user",
            "a command on this host runs as the server's user",
            "leave it out, or write an image",
        );
        return None;
    }
    user
}

fn egress(table: &mut TomlTable<'_>, is_container: bool, has_engine: bool) -> Egress {
    const RULE: &str = "write \"internet\", or a list such as [\"api.example.com:443\"]";
    let Some(wanted) = table.word_or_texts("egress", RULE) else { return Egress::Sealed };
    if !is_container {
        let remedy = "leave it out, or write an image";
        table.report("egress", "a command on this host reaches all that the host reaches", remedy);
        return Egress::Sealed;
    }
    let list = match wanted {
        Ok("internet") => return Egress::Internet,
        Ok(word) => {
            table.report("egress", format!("{word:?} cannot be used"), RULE);
            return Egress::Sealed;
        }
        Err(list) => list,
    };
    if has_engine {
        let remedy = "write \"internet\" or leave it out, or set CONTAINER_MODE=containerd";
        table.report("egress", "Docker and Podman cannot limit where an instance connects to", remedy);
    }
    if list.is_empty() || list.len() > MAX_DESTINATIONS {
        let remedy = format!("name 1 to {MAX_DESTINATIONS}, or leave it out for none");
        table.report("egress", format!("it names {} places", list.len()), remedy);
    }
    let mut destinations = Vec::new();
    for text in list {
        match text.parse::<Destination>() {
            Ok(destination) => destinations.push(destination),
            Err(remedy) => table.report("egress", format!("{text:?} cannot be used"), remedy),
        }
    }
    // Sorted and without repetitions, so that another notation of the same list gives the same revision.
    destinations.sort_unstable();
    destinations.dedup();
    Egress::Only(destinations)
}

fn share_memory(table: &mut TomlTable<'_>, is_container: bool) -> ShareMemory {
    if table.has("share_memory") && !is_container {
        table.report("share_memory", "only containers share memory", "leave it out, or write an image");
    }
    let rule = "write \"auto\", \"off\" or \"with-shm\"";
    let choice = table.text("share_memory", rule, |word| match word {
        "auto" => Some(ShareMemory::Auto),
        "off" => Some(ShareMemory::Off),
        "with-shm" => Some(ShareMemory::WithShm),
        _ => None,
    });
    choice.unwrap_or_default()
}

fn runtime(table: &mut TomlTable<'_>, is_container: bool) -> Option<RuntimeHandler> {
    if table.has("runtime") && !is_container {
        table.report("runtime", "only containers have a runtime handler", "leave it out, or write an image");
    }
    let rule = "write \"runsc\", \"kata\", \"runc\", or a whole name such as \"io.containerd.runsc.v1\", and no path";
    table.text("runtime", rule, RuntimeHandler::parse)
}

fn limits(table: &mut TomlTable<'_>, is_container: bool) -> ResourceLimits {
    let Some(mut table) = table.table("limits") else { return ResourceLimits::default() };
    let limits = ResourceLimits {
        cpu_seconds: table.number("cpu_seconds", 1, u64::from(u32::MAX)),
        memory: table.size("memory"),
        open_files: table.number("open_files", 8, 1 << 20),
        file_size: table.size("file_size"),
        pids: table.number("pids", 1, MAX_PIDS).map(|n| n as u32),
        disk: table.size("disk"),
        millicpus: table.decimal("cpus", 0.01, 1024.0).map(|cpus| (cpus * 1000.0).round() as u32),
    };
    if is_container && table.has("cpu_seconds") {
        let remedy = "write cpus instead, such as cpus = 0.5";
        table.report("cpu_seconds", "it limits a process, not a container", remedy);
    }
    for key in ["pids", "disk", "cpus"] {
        if !is_container && table.has(key) {
            table.report(key, "only containers have this limit", "leave it out, or write an image");
        }
    }
    if let (true, Some(disk)) = (is_container, limits.disk) {
        let memory = limits.container_memory();
        if disk < MIN_DISK {
            table.report("disk", "it is too small for any app", "write 1M or more");
        } else if disk > memory {
            let problem = format!("it is larger than the memory that it is part of, which is {memory} bytes");
            table.report("disk", problem, "lower it, or raise memory");
        }
    }
    table.finish();
    limits
}
