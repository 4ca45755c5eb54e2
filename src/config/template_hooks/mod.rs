//! The part of a template that makes each of its instances one of its own.

#[cfg(test)]
mod tests;
use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::templates::request_path;
use super::toml_table::{Entry, TomlTable};
use crate::template::hooks::{Calls, ExecHook, FileHook, Hooks, HttpHook, OWN, TemplateText, is_placeholder};

const PATH_RULE: &str = "write an absolute path without `.` and `..`, such as \"/etc/app/url\"";
const FILE_RULE: &str = "write \"/path\" = \"text\", or \"/path\" = { text = \"...\", mode = \"0600\" }";
const RANDOM_RULE: &str = "write NAME = LENGTH, from 8 to 4096 characters";
const COMMAND_RULE: &str =
    "write a list of texts, the program first, such as [\"/app/own\", \"{INSTANCE_URL}\"]";

/// Fewer characters, of 5 random bits each, could be guessed.
const LEAST_RANDOM: u64 = 8;
const MOST_RANDOM: u64 = 4096;
/// What a command's environment has in it already.
const TAKEN: [&str; 4] = ["HOME", "HOST", "PATH", "PORT"];
/// What a container has mounts at, so that a file in its layer would not be seen.
const COVERED: [&str; 3] = ["/dev", "/proc", "/sys"];
const FILE_MODE: u32 = 0o644;
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

/// Reads the hooks. `contained`: the instances are containers.
pub(super) fn hooks(template: &mut TomlTable<'_>, contained: bool) -> Hooks {
    let Some(mut section) = template.section("hooks") else { return Hooks::default() };
    let random = random(&mut section);
    let files = files(&mut section, &random);
    let calls = calls(&mut section, &random, contained);
    let mut bake = Calls::default();
    if let Some(mut section) = section.section("bake") {
        bake = self::calls(&mut section, &random, contained);
        section.finish();
    }
    if !contained {
        for (key, right) in [("files", "write the folder `files` of the template"), ("bake", "leave it out")]
        {
            if section.has(key) {
                section.wrong(key, "only a container has it", format!("{right}, or write an image"));
            }
        }
    }
    let credentials = words(&mut section, "credentials", &random);
    section.finish();
    Hooks { random, files, calls, bake, credentials }
}

/// A text whose placeholders are known.
fn words(
    section: &mut TomlTable<'_>,
    key: &'static str,
    random: &BTreeMap<String, usize>,
) -> Option<TemplateText> {
    let text = section.text(key, "write a text in quotes", Some)?;
    known(text, random).map_err(|(wrong, right)| section.wrong(key, wrong, right)).ok()
}

/// As its error: what is wrong, and what would be right.
fn known(text: &str, random: &BTreeMap<String, usize>) -> Result<TemplateText, (String, String)> {
    let is_known = |name: &str| OWN.contains(&name) || random.contains_key(name);
    TemplateText::parse(text, is_known).map_err(|unknown| {
        let names = OWN.into_iter().chain(random.keys().map(String::as_str));
        let names: Vec<String> = names.map(|name| format!("{{{name}}}")).collect();
        (format!("{{{unknown}}} stands for nothing"), format!("the names here are {}", names.join(", ")))
    })
}

/// The text with every placeholder replaced by something that no value is harder to use than.
fn sample(words: &TemplateText) -> String {
    words.fill(|_| Some("x"))
}

fn random(section: &mut TomlTable<'_>) -> BTreeMap<String, usize> {
    let mut random = BTreeMap::new();
    let Some(section) = section.section("random") else { return random };
    for (name, entry) in section.entries() {
        if !is_placeholder(name) || name.starts_with("INSTANCE_") || TAKEN.contains(&name) {
            let right = format!(
                "write a name in capital letters, not INSTANCE_ something nor one of {}",
                TAKEN.join(", ")
            );
            section.wrong(name, "the name cannot be used", right);
            continue;
        }
        match entry {
            Entry::Number(length) if (LEAST_RANDOM..=MOST_RANDOM).contains(&length) => {
                random.insert(name.to_owned(), length as usize);
            }
            _ => section.wrong(name, "it is no such length", RANDOM_RULE),
        }
    }
    random
}

fn files(section: &mut TomlTable<'_>, random: &BTreeMap<String, usize>) -> Vec<FileHook> {
    let mut files: Vec<FileHook> = Vec::new();
    let Some(section) = section.section("files") else { return files };
    for (path, entry) in section.entries() {
        if !is_file_path(path) {
            section.wrong(path, "the path cannot be used", PATH_RULE);
            continue;
        }
        if COVERED.iter().any(|covered| lies_below(path, covered)) {
            section.wrong(path, "no file of the instance is seen there", "write another path");
            continue;
        }
        if let Some(other) =
            files.iter().find(|file| lies_below(path, &file.path) || lies_below(&file.path, path))
        {
            section.wrong(path, format!("{} cannot be both a file and a folder", other.path), "rename one");
            continue;
        }
        let mut file =
            FileHook { path: path.to_owned(), text: TemplateText::default(), mode: FILE_MODE, owner: (0, 0) };
        match entry {
            Entry::Text(text) => match known(text, random) {
                Ok(text) => file.text = text,
                Err((wrong, right)) => section.wrong(path, wrong, right),
            },
            Entry::Table(mut own) => {
                match own.has("text") {
                    true => file.text = words(&mut own, "text", random).unwrap_or_default(),
                    false => own.wrong("text", "it is missing", FILE_RULE),
                }
                file.mode =
                    own.text("mode", "write an octal number such as \"0640\"", mode).unwrap_or(file.mode);
                let rule = "write numbers: \"33\", or \"33:33\" with a group";
                file.owner = own.text("owner", rule, owner).unwrap_or(file.owner);
                own.finish();
            }
            _ => section.wrong(path, "it is no text", FILE_RULE),
        }
        files.push(file);
    }
    files
}

fn is_file_path(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("")
        && !path.contains('\0')
        && parts.all(|part| !matches!(part, "" | "." | "..") && part.len() < 256)
        && path.len() < 4096
}

fn lies_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
}

fn owner(text: &str) -> Option<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    // The largest number means nobody in particular.
    let number = |text: &str| text.parse().ok().filter(|n| *n != u32::MAX);
    Some((number(user)?, number(group)?))
}

fn calls(section: &mut TomlTable<'_>, random: &BTreeMap<String, usize>, contained: bool) -> Calls {
    let http = section.list("http").into_iter().filter_map(|own| http(own, random)).collect();
    if section.has("exec") && !contained {
        section.wrong("exec", "a command runs in a container", "write an http hook, or an image");
    }
    let exec = section.list("exec").into_iter().filter_map(|own| exec(own, random)).collect();
    Calls { http, exec }
}

fn http(mut section: TomlTable<'_>, random: &BTreeMap<String, usize>) -> Option<HttpHook> {
    let rule = "write a method in capital letters, such as \"POST\"";
    let method = section.text("method", rule, |text| {
        let fine = text.bytes().all(|b| b.is_ascii_uppercase()) && text != "CONNECT";
        (fine && Method::from_bytes(text.as_bytes()).is_ok()).then(|| text.to_owned())
    });
    let path_rule = "write a path that begins with a slash, such as \"/api/setup\"";
    if !section.has("path") {
        section.wrong("path", "it is missing", path_rule);
    }
    let path = words(&mut section, "path", random).filter(|path| {
        let fine = request_path(&sample(path)).is_some();
        if !fine {
            section.wrong("path", "it cannot be used", path_rule);
        }
        fine
    });
    let pairs = section.pairs("headers", |name, value| {
        match HeaderName::from_bytes(name.as_bytes()).as_ref().map(HeaderName::as_str) {
            Err(_) => return Some("it is no name of a header"),
            Ok("host" | "connection" | "content-length" | "transfer-encoding") => {
                return Some("it is set by the server");
            }
            Ok(_) => {}
        }
        match known(value, random) {
            Err(_) => Some("it has a placeholder that stands for nothing"),
            Ok(words) if HeaderValue::from_str(&sample(&words)).is_err() => Some("its value is no header's"),
            Ok(_) => None,
        }
    });
    let headers = pairs.into_iter().filter_map(|(name, text)| Some((name, known(&text, random).ok()?)));
    let headers = headers.collect();
    let body = words(&mut section, "body", random).unwrap_or_default();
    let status = section.number("status", 200, 599).map(|n| n as u16);
    let timeout = section.duration("timeout", LEAST_TIMEOUT).unwrap_or(HTTP_TIMEOUT);
    section.finish();
    let method = method.unwrap_or_else(|| "GET".to_owned());
    Some(HttpHook { method, path: path?, headers, body, status, timeout })
}

fn exec(mut section: TomlTable<'_>, random: &BTreeMap<String, usize>) -> Option<ExecHook> {
    let list = section.texts("command", COMMAND_RULE, |text| (!text.contains('\0')).then_some(text));
    let known = |text: &&str| {
        known(text, random).map_err(|(wrong, right)| section.wrong("command", wrong, right)).ok()
    };
    let command: Vec<TemplateText> = list.iter().flatten().map_while(known).collect();
    if !section.has("command") {
        section.wrong("command", "it is missing", COMMAND_RULE);
    } else if list.is_some_and(|list| list.first().is_none_or(|program| program.is_empty())) {
        section.wrong("command", "it names no program", COMMAND_RULE);
    }
    let timeout = section.duration("timeout", LEAST_TIMEOUT).unwrap_or(EXEC_TIMEOUT);
    section.finish();
    (!command.is_empty()).then_some(ExecHook { command, timeout })
}
