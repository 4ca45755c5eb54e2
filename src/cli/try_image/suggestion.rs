//! The template that is suggested for an image, as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::config::format_duration;
use crate::instance::TemplateName;
use crate::template::{ImageRef, ReadyCheck};

/// The name of a template whose image has a name without letters and digits.
const DEFAULT_NAME: &str = "app";
/// Most characters of a name that is made from that of an image.
const MAX_NAME_CHARS: usize = 32;

/// A page that shows whether an instance is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyPage {
    /// The path.
    pub(crate) path: String,
    /// The status of its answer.
    pub(crate) status: u16,
}

/// A template for an image, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suggestion {
    pub(crate) image: ImageRef,
    pub(crate) port: Option<u16>,
    /// The ready check; `None` leaves the health check of the image, or the default.
    pub(crate) page: Option<ReadyPage>,
    pub(crate) timeout: Duration,
    pub(crate) env: BTreeMap<String, String>,
    /// Empty for the image's own.
    pub(crate) command: Vec<String>,
    /// How long an instance lives; `None` for the default.
    pub(crate) ttl: Option<Duration>,
    /// Whether instances may connect to the internet.
    pub(crate) has_egress: bool,
}

impl Suggestion {
    /// Returns the name of the template: that of the image, as far as its characters are allowed.
    pub(crate) fn name(&self) -> TemplateName {
        let name = self.image.short_name().to_ascii_lowercase();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
        let joined: String = parts.join("-").chars().take(MAX_NAME_CHARS).collect();
        TemplateName::new(joined.trim_end_matches('-'))
            .unwrap_or_else(|_| TemplateName::new(DEFAULT_NAME).expect("it is a DNS label"))
    }

    /// Returns the template as a table of a file of templates.
    pub(crate) fn toml(&self) -> String {
        let name = self.name();
        let mut text = format!("[templates.{name}]\nimage = {}\n", quoted(&self.image.to_string()));
        // Writing into a `String` cannot fail.
        if let Some(port) = self.port {
            let _ = writeln!(text, "port = {port}");
        }
        if !self.command.is_empty() {
            let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
            let _ = writeln!(text, "command = [{}]", words.join(", "));
        }
        if !self.env.is_empty() {
            let pairs = self.env.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
            let _ = writeln!(text, "env = {{ {} }}", pairs.collect::<Vec<_>>().join(", "));
        }
        if let Some(ttl) = self.ttl.map(format_duration) {
            let _ = writeln!(text, "ttl = {0}\nmax_ttl = {0}", quoted(&ttl));
        }
        if self.has_egress {
            text.push_str("egress = \"internet\"\n");
        }
        let default = ReadyCheck::default();
        // A path turns the health check of the image off.
        let page = self.page.as_ref();
        let has_timeout = self.timeout != default.timeout;
        if page.is_some() || has_timeout {
            let _ = writeln!(text, "\n[templates.{name}.ready]");
        }
        if let Some(ReadyPage { path, status }) = page {
            let _ = writeln!(text, "path = {}", quoted(path));
            if *status != default.status {
                let _ = writeln!(text, "status = {status}");
            }
        }
        if has_timeout {
            let _ = writeln!(text, "timeout = {}", quoted(&format_duration(self.timeout)));
        }
        text
    }
}

/// Returns a text as TOML writes it. The escapes of JSON are those of TOML, which needs one more.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\x7f', "\\u007f")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::template::Egress;

    fn of(image: &str) -> Suggestion {
        Suggestion {
            image: ImageRef::parse(image, Path::new("/images")).unwrap(),
            port: None,
            page: None,
            timeout: ReadyCheck::default().timeout,
            env: BTreeMap::new(),
            command: Vec::new(),
            ttl: None,
            has_egress: false,
        }
    }

    #[test]
    fn the_name_is_that_of_the_image_as_far_as_it_is_allowed() {
        for (image, name) in [
            ("wordpress:6", "wordpress"),
            ("ghcr.io/you/my_app.web:1", "my-app-web"),
            ("oci:My App (2).tar", "my-app-2"),
            ("oci:---.tar", "app"),
            (&format!("oci:{}-b.tar", "a".repeat(31)), &"a".repeat(31)),
        ] {
            assert_eq!(of(image).name().as_str(), name);
        }
    }

    #[test]
    fn the_template_is_read_back_as_it_was_meant() {
        let page = Some(ReadyPage { path: "/a?b=c".to_owned(), status: 401 });
        let full = Suggestion {
            port: Some(3000),
            page,
            timeout: Duration::from_secs(90),
            env: [("A B".to_owned(), "tab\t\x7f \\ \"é\"".to_owned())].into(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "echo 'a'\nexec b".to_owned()],
            ttl: Some(Duration::from_secs(5400)),
            has_egress: true,
            ..of("wordpress:6")
        };
        let config = crate::config::Config::load(
            &[("CONTAINER_MODE", "containerd"), ("HOME", "/home/a")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            Some((Path::new("templates"), &full.toml())),
            Path::new("p"),
        );
        let config = config.unwrap();
        let template = config.templates.iter().next().unwrap();
        assert_eq!(
            (template.app.port, &template.app.command, &template.app.env),
            (3000, &full.command, &full.env)
        );
        assert_eq!((template.ready.path.as_str(), template.ready.status), ("/a?b=c", 401));
        assert_eq!(template.ready.timeout, full.timeout);
        assert!(!template.ready.yields_to_image);
        assert_eq!((Some(template.ttl), &template.app.egress), (full.ttl, &Egress::Internet));
        assert_eq!(of("a").toml(), "[templates.a]\nimage = \"docker.io/library/a:latest\"\n");
    }
}
