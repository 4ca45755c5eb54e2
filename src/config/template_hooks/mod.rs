//! The hooks of a template.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::file_context::{FileContext, request_path, utf8};
use super::toml_table::{TomlEntry, TomlTable};
use crate::template::database::DATABASE_PLACEHOLDERS;
use crate::template::hooks::{
    ExecHook, FileContent, FileHook, HookCalls, Hooks, HttpHook, INSTANCE_PLACEHOLDERS, TemplateText,
    is_placeholder,
};

const PATH_RULE: &str = "write an absolute path without `.` and `..`, such as \"/etc/app/url\"";
const FILE_RULE: &str =
    "write \"/path\" = \"text\", or \"/path\" = { text = \"...\", mode = \"0600\" }, or { file = \"...\" }";
const COPY_RULE: &str = "write the path of a file, relative to this one";
const RANDOM_RULE: &str = "write NAME = LENGTH, from 8 to 4096 characters";
const COMMAND_RULE: &str =
    "write a list of texts, the program first, such as [\"/app/own\", \"{INSTANCE_URL}\"]";

/// The fewest characters of a random text. A character has 5 random bits, so a shorter text could be guessed.
const MIN_RANDOM_LENGTH: u64 = 8;
/// The most characters of a random text.
const MAX_RANDOM_LENGTH: u64 = 4096;
/// Variables that the environment of a command already has.
const RESERVED_NAMES: [&str; 4] = ["HOME", "HOST", "PATH", "PORT"];
/// Folders with mounts of their own in a container, which hide files of its layer.
const COVERED_FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];
const DEFAULT_FILE_MODE: u32 = 0o644;
const DEFAULT_HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_EXEC_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The placeholders that a text of one template may have.
pub(super) struct Placeholders {
    /// The random texts, with their lengths.
    pub(super) random: BTreeMap<String, usize>,
    /// Whether each instance has a database.
    pub(super) has_database: bool,
}

impl Placeholders {
    fn names(&self) -> impl Iterator<Item = &str> {
        let of_database = DATABASE_PLACEHOLDERS.into_iter().filter(|_| self.has_database);
        INSTANCE_PLACEHOLDERS.into_iter().chain(of_database).chain(self.random.keys().map(String::as_str))
    }
}

/// Reads the hooks of a template of the file of `context`. `is_container` says whether its instances are containers, and `has_database` whether
/// each has a database.
pub(super) fn hooks(
    template: &mut TomlTable<'_>,
    context: &FileContext<'_>,
    is_container: bool,
    has_database: bool,
) -> Hooks {
    let Some(mut table) = template.table("hooks") else { return Hooks::default() };
    let random = random(&mut table, has_database);
    let placeholders = Placeholders { random, has_database };
    let folder = context.file.parent().unwrap_or(Path::new(""));
    let files = files(&mut table, folder, &placeholders);
    let calls = calls(&mut table, &placeholders, is_container);
    let mut bake = HookCalls::default();
    if let Some(mut table) = table.table("bake") {
        bake = self::calls(&mut table, &placeholders, is_container);
        table.finish();
    }
    if !is_container {
        for (key, remedy) in [("files", "write the folder `files` of the template"), ("bake", "leave it out")]
        {
            if table.has(key) {
                table.report(key, "only a container has such a hook", format!("{remedy}, or write an image"));
            }
        }
    }
    let credentials = template_text(&mut table, "credentials", &placeholders);
    table.finish();
    Hooks { random: placeholders.random, files, calls, bake, credentials }
}

/// Reads a text whose placeholders are all known.
fn template_text(
    table: &mut TomlTable<'_>,
    key: &'static str,
    placeholders: &Placeholders,
) -> Option<TemplateText> {
    let text = table.text(key, "write a text in quotes", Some)?;
    parse_text(text, placeholders).map_err(|(problem, remedy)| table.report(key, problem, remedy)).ok()
}

/// Checks the placeholders of a text. The error is the problem and the remedy.
pub(super) fn parse_text(text: &str, placeholders: &Placeholders) -> Result<TemplateText, (String, String)> {
    TemplateText::parse(text, |name| placeholders.names().any(|known| known == name)).map_err(|unknown| {
        let names: Vec<String> = placeholders.names().map(|name| format!("{{{name}}}")).collect();
        (format!("{{{unknown}}} is no known placeholder"), format!("the names here are {}", names.join(", ")))
    })
}

/// Returns the text with a letter in place of each placeholder. It is valid wherever a text with real values is valid.
fn sample(text: &TemplateText) -> String {
    text.fill(|_| Some("x"))
}

fn random(table: &mut TomlTable<'_>, has_database: bool) -> BTreeMap<String, usize> {
    let mut random = BTreeMap::new();
    let Some(table) = table.table("random") else { return random };
    for (name, entry) in table.entries() {
        let is_of_database = has_database && name.starts_with("DATABASE_");
        let is_reserved = name.starts_with("INSTANCE_") || is_of_database || RESERVED_NAMES.contains(&name);
        if !is_placeholder(name) || is_reserved {
            let remedy = format!(
                "write a name in capital letters that does not begin with INSTANCE_ or DATABASE_ and is none of {}",
                RESERVED_NAMES.join(", ")
            );
            table.report(name, "the name cannot be used", remedy);
            continue;
        }
        match entry {
            TomlEntry::Number(length) if (MIN_RANDOM_LENGTH..=MAX_RANDOM_LENGTH).contains(&length) => {
                random.insert(name.to_owned(), length as usize);
            }
            _ => table.report(name, "it is no such length", RANDOM_RULE),
        }
    }
    random
}

fn files(table: &mut TomlTable<'_>, folder: &Path, placeholders: &Placeholders) -> Vec<FileHook> {
    let mut files: Vec<FileHook> = Vec::new();
    let Some(table) = table.table("files") else { return files };
    for (path, entry) in table.entries() {
        if !is_file_path(path) {
            table.report(path, "the path cannot be used", PATH_RULE);
            continue;
        }
        if COVERED_FOLDERS.iter().any(|covered| lies_below(path, covered)) {
            table.report(path, "a mount of the container hides files there", "write another path");
            continue;
        }
        if let Some(other) =
            files.iter().find(|file| lies_below(path, &file.path) || lies_below(&file.path, path))
        {
            table.report(path, format!("{} cannot be both a file and a folder", other.path), "rename one");
            continue;
        }
        let mut file = FileHook {
            path: path.to_owned(),
            content: FileContent::Text(TemplateText::default()),
            mode: DEFAULT_FILE_MODE,
            owner: (0, 0),
        };
        match entry {
            TomlEntry::Text(text) => match parse_text(text, placeholders) {
                Ok(text) => file.content = FileContent::Text(text),
                Err((problem, remedy)) => table.report(path, problem, remedy),
            },
            TomlEntry::Table(mut table) => {
                file.content = content(&mut table, folder, placeholders).unwrap_or(file.content);
                file.mode =
                    table.text("mode", "write an octal number such as \"0640\"", mode).unwrap_or(file.mode);
                let rule = "write numbers: \"33\", or \"33:33\" with a group";
                file.owner = table.text("owner", rule, owner).unwrap_or(file.owner);
                table.finish();
            }
            _ => table.report(path, "it is no text", FILE_RULE),
        }
        files.push(file);
    }
    files
}

/// Reads the content of a file: a text, or a copy of a file whose path is relative to `folder`.
fn content(table: &mut TomlTable<'_>, folder: &Path, placeholders: &Placeholders) -> Option<FileContent> {
    let text = template_text(table, "text", placeholders);
    let file = table.text("file", COPY_RULE, |text| {
        let path = folder.join(text);
        (!text.is_empty() && utf8(&path).is_some()).then_some(path)
    });
    match (table.has("text"), table.has("file")) {
        (true, true) => table.report("file", "the file has a text already", "leave out one of them"),
        (false, false) => table.report("text", "it is missing", FILE_RULE),
        _ => return text.map(FileContent::Text).or(file.map(|file| FileContent::CopyOf { file })),
    }
    None
}

fn is_file_path(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("")
        && !path.contains('\0')
        && parts.all(|part| !matches!(part, "" | "." | "..") && part.len() < 256)
        && path.len() < 4096
}

/// Returns whether a path is a folder or lies below it.
fn lies_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
}

fn owner(text: &str) -> Option<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    // The largest number means "no user" to the kernel.
    let number = |text: &str| text.parse().ok().filter(|n| *n != u32::MAX);
    Some((number(user)?, number(group)?))
}

fn calls(table: &mut TomlTable<'_>, placeholders: &Placeholders, is_container: bool) -> HookCalls {
    let http = table.table_list("http").into_iter().filter_map(|table| http(table, placeholders)).collect();
    if table.has("exec") && !is_container {
        table.report("exec", "only a container can run commands", "write an http hook, or an image");
    }
    let exec = table.table_list("exec").into_iter().filter_map(|table| exec(table, placeholders)).collect();
    HookCalls { http, exec }
}

fn http(mut table: TomlTable<'_>, placeholders: &Placeholders) -> Option<HttpHook> {
    let method_rule = "write a method in capital letters, such as \"POST\"";
    let method = table.text("method", method_rule, |text| {
        let is_valid = text.bytes().all(|b| b.is_ascii_uppercase()) && text != "CONNECT";
        (is_valid && Method::from_bytes(text.as_bytes()).is_ok()).then(|| text.to_owned())
    });
    let path_rule = "write a path that begins with a slash, such as \"/api/setup\"";
    if !table.has("path") {
        table.report("path", "it is missing", path_rule);
    }
    let path = template_text(&mut table, "path", placeholders).filter(|path| {
        let is_valid = request_path(&sample(path)).is_some();
        if !is_valid {
            table.report("path", "it cannot be used", path_rule);
        }
        is_valid
    });
    let pairs = table.pairs("headers", |name, value| {
        match HeaderName::from_bytes(name.as_bytes()).as_ref().map(HeaderName::as_str) {
            Err(_) => return Some("it is no name of a header"),
            Ok("host" | "connection" | "content-length" | "transfer-encoding") => {
                return Some("it is set by the server");
            }
            Ok(_) => {}
        }
        match parse_text(value, placeholders) {
            Err(_) => Some("it has an unknown placeholder"),
            Ok(text) if HeaderValue::from_str(&sample(&text)).is_err() => {
                Some("its value is no value of a header")
            }
            Ok(_) => None,
        }
    });
    let headers =
        pairs.into_iter().filter_map(|(name, text)| Some((name, parse_text(&text, placeholders).ok()?)));
    let headers = headers.collect();
    let body = template_text(&mut table, "body", placeholders).unwrap_or_default();
    let status = table.number("status", 200, 599).map(|n| n as u16);
    let timeout = table.duration("timeout", MIN_TIMEOUT).unwrap_or(DEFAULT_HTTP_TIMEOUT);
    table.finish();
    let method = method.unwrap_or_else(|| "GET".to_owned());
    Some(HttpHook { method, path: path?, headers, body, status, timeout })
}

fn exec(mut table: TomlTable<'_>, placeholders: &Placeholders) -> Option<ExecHook> {
    let list = table.texts("command", COMMAND_RULE, |text| (!text.contains('\0')).then_some(text));
    let known = |text: &&str| {
        parse_text(text, placeholders)
            .map_err(|(problem, remedy)| table.report("command", problem, remedy))
            .ok()
    };
    let command: Vec<TemplateText> = list.iter().flatten().map_while(known).collect();
    if !table.has("command") {
        table.report("command", "it is missing", COMMAND_RULE);
    } else if list.is_some_and(|list| list.first().is_none_or(|program| program.is_empty())) {
        table.report("command", "it names no program", COMMAND_RULE);
    }
    let timeout = table.duration("timeout", MIN_TIMEOUT).unwrap_or(DEFAULT_EXEC_TIMEOUT);
    table.finish();
    (!command.is_empty()).then_some(ExecHook { command, timeout })
}
