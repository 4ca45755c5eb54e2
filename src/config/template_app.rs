//! The part of a template that says what to run: a command on this host, or an image.

use std::path::{Path, PathBuf};

use super::template_file::FileContext;
use super::templates::{IMAGE_PORT, utf8};
use super::toml_table::TomlTable;
use crate::template::egress::{Destination, MOST_DESTINATIONS};
use crate::template::{App, Egress, Image, ResourceLimits, ShareMemory};

/// As the first word of a command on this host: this very program.
const OWN_PROGRAM: &str = "try-it-now";
/// In a command on this host or its environment: the folder that the file is in.
const FOLDER: &str = "{folder}";

const COMMAND_RULE: &str = "write a list of texts, the program first, such as [\"node\", \"server.js\"]";
const IMAGE_RULE: &str = "write the image to run, such as \"wordpress:6\" or \"oci:./app.tar\"";
/// Least bytes that a container may write.
const LEAST_DISK: u64 = 1 << 20;
/// Most processes that any host can number.
const MOST_PIDS: u64 = 4_194_304;

pub(super) fn app(section: &mut TomlTable<'_>, context: &FileContext<'_>) -> Option<App> {
    let folder = context.file.parent().unwrap_or(Path::new(""));
    let has_image = section.has("image");
    match context.containers {
        Some(true) if !has_image => {
            section.wrong("image", "it is missing", format!("{IMAGE_RULE}, or unset CONTAINER_MODE"));
        }
        Some(false) if has_image => {
            let right = "set CONTAINER_MODE=containerd, or write a command instead";
            section.wrong("image", "it needs containers", right);
        }
        _ => {}
    }
    // What is missing or too much has been told; the rest is read as what the template was meant to be.
    let contained = has_image || context.containers == Some(true);
    let image = section.text("image", IMAGE_RULE, Some).and_then(|text| {
        let told = |right| section.wrong("image", format!("{text:?} cannot be used"), right);
        Image::parse(text, folder).map_err(told).ok()
    });
    let filled = |text: &str| match contained {
        true => text.to_owned(),
        false => text.replace(FOLDER, &folder.to_string_lossy()),
    };
    let command = command(section, context, contained, filled);
    let mut env = section.pairs("env", |name, value| match name {
        "HOST" | "PORT" | "INSTANCE_ID" | "INSTANCE_URL" | "INSTANCE_HOST" => {
            Some("every instance is told its own")
        }
        _ if name.is_empty() || name.contains(['=', '\0']) => Some("it is no name of a variable"),
        _ if value.contains('\0') => Some("its value holds a NUL"),
        _ => None,
    });
    env.values_mut().for_each(|value| *value = filled(value));
    let files = section.text("files", "write the path of a folder, relative to this file", |text| {
        (!text.is_empty() && !text.contains('\0')).then(|| folder.join(text))
    });
    if contained && section.has("files") {
        section.wrong("files", "an image brings its own files", "put them into the image");
    }
    let port = section.number("port", 1, 65_535).map(|n| n as u16);
    if !contained && section.has("port") {
        section.wrong("port", "every instance is told its own, as PORT", "leave it out");
    }
    let limits = limits(section, contained);
    let egress = egress(section, contained);
    let share_memory = share_memory(section, contained);
    if utf8(folder).is_none() {
        section.wrong("", "the path of the file is no UTF-8 text", "move it");
        return None;
    }
    let port = if contained { port.unwrap_or(IMAGE_PORT) } else { 0 };
    Some(App { image, command: command?, port, env, files: files.map(tidy), limits, egress, share_memory })
}

/// The command; empty when an image is to run its own.
fn command(
    section: &mut TomlTable<'_>,
    context: &FileContext<'_>,
    contained: bool,
    filled: impl Fn(&str) -> String,
) -> Option<Vec<String>> {
    if !section.has("command") {
        if !contained {
            section.wrong("command", "it is missing", COMMAND_RULE);
        }
        return contained.then(Vec::new);
    }
    let word = |text: &str| (!text.contains('\0')).then(|| filled(text));
    let mut command: Vec<String> = section.texts("command", COMMAND_RULE, word)?;
    match command.first_mut() {
        Some(program) if program == OWN_PROGRAM && !contained => *program = context.own_program.to_owned(),
        Some(program) if !program.is_empty() => {}
        _ => {
            section.wrong("command", "it names no program", COMMAND_RULE);
            return None;
        }
    }
    Some(command)
}

/// Without `.` parts, so that two ways to write a folder are one.
fn tidy(path: PathBuf) -> PathBuf {
    path.components().collect()
}

fn egress(section: &mut TomlTable<'_>, contained: bool) -> Egress {
    const RULE: &str = "write \"internet\", or a list such as [\"api.example.com:443\"]";
    let Some(wanted) = section.word_or_texts("egress", RULE) else { return Egress::Sealed };
    if !contained {
        let right = "leave it out, or write an image";
        section.wrong("egress", "a command on this host reaches what this host does", right);
        return Egress::Sealed;
    }
    let places = match wanted {
        Ok("internet") => return Egress::Internet,
        Ok(word) => {
            section.wrong("egress", format!("{word:?} cannot be used"), RULE);
            return Egress::Sealed;
        }
        Err(places) => places,
    };
    if places.is_empty() || places.len() > MOST_DESTINATIONS {
        let right = format!("name 1 to {MOST_DESTINATIONS}, or leave it out for none");
        section.wrong("egress", format!("it names {} places", places.len()), right);
    }
    let mut read = Vec::new();
    for place in places {
        match place.parse::<Destination>() {
            Ok(destination) => read.push(destination),
            Err(right) => section.wrong("egress", format!("{place:?} cannot be used"), right),
        }
    }
    // In one order and once each, so that another way to write the same list is no other template.
    read.sort_unstable();
    read.dedup();
    Egress::Only(read)
}

fn share_memory(section: &mut TomlTable<'_>, contained: bool) -> ShareMemory {
    if section.has("share_memory") && !contained {
        section.wrong("share_memory", "only containers are copied", "leave it out, or write an image");
    }
    let rule = "write \"auto\", \"off\" or \"with-shm\"";
    let read = section.text("share_memory", rule, |word| match word {
        "auto" => Some(ShareMemory::Auto),
        "off" => Some(ShareMemory::Off),
        "with-shm" => Some(ShareMemory::WithShm),
        _ => None,
    });
    read.unwrap_or_default()
}

fn limits(section: &mut TomlTable<'_>, contained: bool) -> ResourceLimits {
    let Some(mut section) = section.section("limits") else { return ResourceLimits::default() };
    let limits = ResourceLimits {
        cpu_seconds: section.number("cpu_seconds", 1, u64::from(u32::MAX)),
        memory: section.size("memory"),
        open_files: section.number("open_files", 8, 1 << 20),
        file_size: section.size("file_size"),
        pids: section.number("pids", 1, MOST_PIDS).map(|n| n as u32),
        disk: section.size("disk"),
        millicpus: section.decimal("cpus", 0.01, 1024.0).map(|cpus| (cpus * 1000.0).round() as u32),
    };
    if contained && section.has("cpu_seconds") {
        section.wrong("cpu_seconds", "it ends a process, not a container", "write cpus = 0.5, say, instead");
    }
    for key in ["pids", "disk", "cpus"] {
        if !contained && section.has(key) {
            section.wrong(key, "only a container can be held to it", "leave it out, or write an image");
        }
    }
    if let (true, Some(disk)) = (contained, limits.disk) {
        let memory = limits.container_memory();
        if disk < LEAST_DISK {
            section.wrong("disk", "no app can do with so little", "write 1M or more");
        } else if disk > memory {
            let wrong = format!("it is part of the memory, which is {memory} bytes, and more than that");
            section.wrong("disk", wrong, "lower it, or raise memory");
        }
    }
    section.finish();
    limits
}
