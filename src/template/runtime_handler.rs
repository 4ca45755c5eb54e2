//! The runtime handler of a template: what starts its containers in place of this server's own way.

use serde::Serialize;

/// Most bytes of a handler's name.
const MAX_NAME: usize = 64;

/// The short names of handlers, and what containerd calls them.
const SHORT_NAMES: [(&str, &str); 3] = [
    ("runc", "io.containerd.runc.v2"),
    ("runsc", "io.containerd.runsc.v1"),
    ("kata", "io.containerd.kata.v2"),
];

/// What the name of every handler begins with.
const PREFIX: &str = "io.containerd.";

/// A handler by its name in containerd, such as `io.containerd.runsc.v1` for gVisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeHandler(String);

impl RuntimeHandler {
    /// Parses a short name (`runc`, `runsc`, `kata`) or the whole name `io.containerd.NAME.VERSION`. Paths are refused:
    /// containerd would start any program that a path names.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((_, name)) = SHORT_NAMES.iter().find(|(short, _)| *short == text) {
            return Some(Self((*name).to_owned()));
        }
        let (name, version) = text.strip_prefix(PREFIX)?.split_once('.')?;
        let is_word = |word: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !word.is_empty() && !word.starts_with('-') && word.bytes().all(is_allowed)
        };
        (is_word(name) && is_word(version) && text.len() <= MAX_NAME).then(|| Self(text.to_owned()))
    }

    /// Returns the name in containerd.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the name of the program that containerd looks for in its search path.
    pub fn shim(&self) -> String {
        format!("containerd-shim-{}", self.0.trim_start_matches(PREFIX).replace('.', "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_a_short_name_or_a_whole_name_and_never_a_path() {
        let shim = |text: &str| RuntimeHandler::parse(text).map(|handler| handler.shim());
        assert_eq!(shim("runsc").as_deref(), Some("containerd-shim-runsc-v1"));
        assert_eq!(shim("runc").as_deref(), Some("containerd-shim-runc-v2"));
        assert_eq!(shim("io.containerd.kata-fc.v2").as_deref(), Some("containerd-shim-kata-fc-v2"));
        for wrong in [
            "",
            "crun",
            "/usr/bin/runsc",
            "io.containerd.",
            "io.containerd.runsc",
            "io.containerd.runsc.",
            "io.containerd..v1",
            "io.containerd.a/b.v1",
            "io.containerd.a.b.v1",
            "io.containerd.-a.v1",
            "io.containerd.A.v1",
            "../runsc",
            "run sc",
        ] {
            assert_eq!(RuntimeHandler::parse(wrong), None, "{wrong}");
        }
        assert_eq!(RuntimeHandler::parse(&format!("{PREFIX}{}.v1", "a".repeat(MAX_NAME))), None);
    }
}
