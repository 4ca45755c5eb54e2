//! The result of a trial, as text and as JSON. Pure.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::explore::Found;
use crate::runtime::ImageFacts;

/// Whether an image works as a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its instances are restored.
    Restores,
    /// Its instances are started cold, because they cannot be restored.
    ColdOnly,
    /// No instance of it becomes ready.
    DoesNotWork,
}

impl Verdict {
    /// Returns the exit status of the command.
    pub(super) fn exit_status(self) -> u8 {
        match self {
            Self::Restores => 0,
            Self::DoesNotWork => 1,
            Self::ColdOnly => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Restores => "restores",
            Self::ColdOnly => "cold only",
            Self::DoesNotWork => "does not work",
        }
    }
}

/// The result of a trial, as far as it came.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) image: String,
    pub(super) verdict: Verdict,
    /// The user by its name in the image, and its numbers.
    user: Option<(String, Option<(u32, u32)>)>,
    /// The port that serves pages, and how it was found.
    port: Option<(u16, &'static str)>,
    ready: Option<String>,
    /// Time of a cold start until ready.
    pub(super) cold: Option<Duration>,
    /// Time of the bake; `None` if there is no checkpoint.
    pub(super) bake: Option<Duration>,
    /// What the checkpoint shares, and which random numbers its instances draw.
    pub(super) checkpoint: Vec<String>,
    /// Values that two restored instances both drew, though they should be random.
    pub(super) repeated: Vec<String>,
    /// Times of restores until ready.
    pub(super) restores: Vec<Duration>,
    /// Bytes of private memory of one instance.
    pub(super) memory: Option<u64>,
    /// Why the verdict is not better.
    pub(super) problem: Option<String>,
    /// Warnings and errors that a server would log.
    pub(super) log: Vec<String>,
    /// The suggested template.
    pub(super) template: Option<String>,
    /// The port that the operator named.
    port_option: Option<u16>,
}

impl Report {
    pub(super) fn new(image: String) -> Self {
        Self {
            image,
            verdict: Verdict::DoesNotWork,
            user: None,
            port: None,
            ready: None,
            cold: None,
            bake: None,
            checkpoint: Vec::new(),
            repeated: Vec::new(),
            restores: Vec::new(),
            memory: None,
            problem: None,
            log: Vec::new(),
            template: None,
            port_option: None,
        }
    }

    /// Notes what the image declares, and the port that the operator named.
    pub(super) fn set_facts(&mut self, facts: &ImageFacts, port: Option<u16>) {
        let name = if facts.user.is_empty() { "root" } else { &facts.user };
        self.user = Some((name.to_owned(), facts.ids));
        self.port_option = port;
    }

    /// Notes where the app answers.
    pub(super) fn set_found(&mut self, found: &Found, facts: &ImageFacts) {
        let source = match found.port {
            port if self.port_option == Some(port) => "as given by --port",
            port if facts.ports.contains(&port) => "exposed by the image",
            _ => "seen to listen",
        };
        self.port = Some((found.port, source));
        self.ready = Some(match (&found.page, &facts.health_check) {
            (Some(page), _) => format!("GET {} answers {}", page.path, page.status),
            (None, Some(check)) => format!("the health check of the image: {}", check.command.join(" ")),
            (None, None) => "GET / answers 200".to_owned(),
        });
    }

    /// Returns the median of the restores.
    fn restore_median(&self) -> Option<Duration> {
        let mut times = self.restores.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    fn user_text(&self) -> Option<String> {
        let (name, ids) = self.user.as_ref()?;
        Some(ids.map_or_else(|| name.clone(), |(uid, gid)| format!("{name} ({uid}:{gid})")))
    }

    /// Returns the result for people, with the suggested template at its end.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing into a `String` cannot fail.
            let _ = writeln!(text, "{name:12} {}", value.trim_end().replace('\n', "\n             "));
        };
        line("image", self.image.clone());
        self.user_text().into_iter().for_each(|user| line("user", user));
        self.port.into_iter().for_each(|(port, source)| line("port", format!("{port}, {source}")));
        self.ready.iter().for_each(|ready| line("ready check", ready.clone()));
        self.cold.into_iter().for_each(|time| line("cold start", millis(time)));
        self.bake.into_iter().for_each(|time| line("bake", format!("works, {}", millis(time))));
        self.checkpoint.iter().for_each(|fact| line("checkpoint", fact.clone()));
        if !self.repeated.is_empty() {
            let warning = "two restored instances drew the same values; visitors can predict those of others \
                           (see docs/random-numbers.md)";
            line("WARNING", format!("{warning}: {}", self.repeated.join(", ")));
        }
        self.restore_median().into_iter().for_each(|time| {
            line("restore", format!("{} (median of {})", millis(time), self.restores.len()));
        });
        self.memory.into_iter().for_each(|bytes| {
            line("memory", format!("{:.1} MiB private to each instance", bytes as f64 / f64::from(1 << 20)));
        });
        self.log.iter().for_each(|logged| line("log", logged.clone()));
        line(
            "verdict",
            match &self.problem {
                Some(problem) => format!("{}: {problem}", self.verdict.word()),
                None => self.verdict.word().to_owned(),
            },
        );
        if let Some(template) = &self.template {
            let _ = write!(text, "\n{template}");
        }
        text
    }

    /// Returns the result as a JSON object. Times are milliseconds; what is not known is null.
    pub(super) fn json(&self) -> String {
        let exact = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let user = self.user.as_ref().map(|(name, ids)| {
            json!({ "name": name, "uid": ids.map(|(uid, _)| uid), "gid": ids.map(|(_, gid)| gid) })
        });
        let value = json!({
            "image": self.image,
            "verdict": self.verdict.word(),
            "problem": self.problem,
            "user": user,
            "port": self.port.map(|(port, _)| port),
            "ready": self.ready,
            "cold_ms": self.cold.map(exact),
            "bake_ms": self.bake.map(exact),
            "restore_ms": self.restore_median().map(exact),
            "restores_ms": self.restores.iter().copied().map(exact).collect::<Value>(),
            "private_memory_bytes": self.memory,
            "checkpoint": self.checkpoint,
            "repeated_values": self.repeated,
            "log": self.log,
            "template": self.template,
        });
        format!("{value:#}\n")
    }
}

fn millis(time: Duration) -> String {
    match time.as_millis() {
        ..10_000 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_names_what_is_known_and_ends_with_the_template() {
        let mut report = Report::new("oci:/a.tar".to_owned());
        let facts = ImageFacts {
            user: "node".to_owned(),
            ids: Some((1000, 1000)),
            ports: vec![80],
            health_check: None,
        };
        report.set_facts(&facts, None);
        report.set_found(&Found { port: 80, page: None }, &facts);
        report.restores = [30, 10, 20].map(Duration::from_millis).to_vec();
        (report.verdict, report.memory) = (Verdict::Restores, Some(3 << 20));
        report.template = Some("[templates.a]\n".to_owned());
        let text = report.text();
        for part in [
            "user         node (1000:1000)\n",
            "port         80, exposed by the image\n",
            "restore      20.0 ms (median of 3)\n",
            "memory       3.0 MiB private to each instance\n",
            "verdict      restores\n\n[templates.a]\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("cold start"), "{text}");
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["restore_ms"], &json["cold_ms"]), (&json!(20.0), &Value::Null));
        assert_eq!(json["user"], json!({ "name": "node", "uid": 1000, "gid": 1000 }));
    }

    #[test]
    fn a_problem_of_several_lines_is_indented() {
        let mut report = Report::new("a".to_owned());
        report.problem = Some("it ended\nlast line\n".to_owned());
        assert!(
            report.text().ends_with("does not work: it ended\n             last line\n"),
            "{}",
            report.text()
        );
        let statuses = [Verdict::Restores, Verdict::ColdOnly, Verdict::DoesNotWork].map(Verdict::exit_status);
        assert_eq!(statuses, [0, 3, 1]);
    }
}
