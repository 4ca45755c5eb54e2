//! The settings of the sample app, from the environment that the runtime sets.

use std::path::PathBuf;

/// Where the app listens, and which instance it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `HOST`: the address or name to listen on.
    pub(crate) host: String,
    /// `PORT`: the port to listen on; with 0 the system chooses one.
    pub(crate) port: u16,
    /// `INSTANCE_ID`: the instance's id.
    pub(crate) id: String,
    /// `INSTANCE_URL`: the instance's URL.
    pub(crate) url: String,
    /// `INSTANCE_HOST`: the instance's host name.
    pub(crate) instance_host: String,
    /// `INSTANCE_FILES`: a folder with the files `id`, `url` and `host`, which win over the three variables. A restored
    /// instance has the environment of the process that was baked, but its own files.
    pub(crate) files: Option<PathBuf>,
    /// The guest book's file: `guestbook.json` in the working directory.
    pub(crate) data_file: PathBuf,
}

/// All errors in the environment, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct SettingsError(Vec<String>);

impl Settings {
    /// Reads `HOST` (default 127.0.0.1), `PORT` (required), `INSTANCE_ID` and `INSTANCE_HOST` (default `local`) and
    /// `INSTANCE_URL` (default: where it listens).
    ///
    /// # Errors
    /// `PORT` is missing or no port number, or a variable is not UTF-8. All errors at once.
    pub(crate) fn from_env() -> Result<Settings, SettingsError> {
        let mut invalid = Vec::new();
        let read = Settings::from_variables(|name| {
            let value = std::env::var_os(name)?;
            value.into_string().map_err(|_| invalid.push(format!("{name} is not valid UTF-8"))).ok()
        });
        if invalid.is_empty() { read } else { Err(SettingsError(invalid)) }
    }

    /// Reads the settings as [`Settings::from_env`] does, from any source of variables. An empty variable counts as not
    /// set.
    ///
    /// # Errors
    /// `PORT` is missing or no port number.
    pub(crate) fn from_variables(
        mut variable: impl FnMut(&'static str) -> Option<String>,
    ) -> Result<Settings, SettingsError> {
        let mut given = |name| variable(name).filter(|value| !value.is_empty());
        let host = given("HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = match given("PORT") {
            None => Err("PORT is not set: give the port to listen on, as in PORT=32000".to_owned()),
            Some(text) => {
                text.parse::<u16>().map_err(|_| format!("PORT={text} is not a port number (0 to 65535)"))
            }
        };
        let port = port.map_err(|problem| SettingsError(vec![problem]))?;
        Ok(Settings {
            id: given("INSTANCE_ID").unwrap_or_else(|| "local".to_owned()),
            url: given("INSTANCE_URL").unwrap_or_else(|| format!("http://{host}:{port}/")),
            instance_host: given("INSTANCE_HOST").unwrap_or_else(|| "local".to_owned()),
            files: given("INSTANCE_FILES").map(PathBuf::from),
            data_file: PathBuf::from("guestbook.json"),
            host,
            port,
        })
    }
}

// The identity of the instance. Its files are read for each request, because a restore turns this process into another
// instance.
impl Settings {
    /// Returns the instance's id, which the page shows.
    pub(crate) fn current_id(&self) -> String {
        self.file_or("id", &self.id)
    }

    /// Returns the instance's URL, which the page shows.
    pub(crate) fn current_url(&self) -> String {
        self.file_or("url", &self.url)
    }

    /// Returns the instance's host name.
    pub(crate) fn current_host(&self) -> String {
        self.file_or("host", &self.instance_host)
    }

    fn file_or(&self, name: &str, default: &str) -> String {
        let file = self.files.as_ref().and_then(|folder| std::fs::read_to_string(folder.join(name)).ok());
        file.map_or_else(|| default.to_owned(), |text| text.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_the_port_is_required() {
        let settings = read(&[("PORT", "32000"), ("HOST", "")]).unwrap();
        assert_eq!((settings.host.as_str(), settings.port), ("127.0.0.1", 32000));
        assert_eq!((settings.id.as_str(), settings.instance_host.as_str()), ("local", "local"));
        assert_eq!(settings.url, "http://127.0.0.1:32000/");
        assert_eq!(settings.data_file, PathBuf::from("guestbook.json"));
    }

    #[test]
    fn a_missing_or_impossible_port_is_named_in_the_error() {
        assert!(read(&[]).unwrap_err().to_string().starts_with("PORT is not set"));
        for bad in ["65536", "-1", "http", "80 "] {
            let error = read(&[("PORT", bad)]).unwrap_err().to_string();
            assert!(error.contains(&format!("PORT={bad}")), "{error}");
        }
    }

    #[test]
    fn the_instances_own_file_wins_over_the_environment() {
        let folder = std::env::temp_dir().join(format!("try-it-now-sample-app-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = folder.display().to_string();
        let settings = read(&[("PORT", "1"), ("INSTANCE_ID", "baked"), ("INSTANCE_FILES", &files)]).unwrap();
        assert_eq!(
            (settings.current_id(), settings.current_host()),
            ("baked".to_owned(), "local".to_owned())
        );
        std::fs::write(folder.join("id"), "restored\n").unwrap();
        assert_eq!(
            (settings.current_id(), settings.current_host()),
            ("restored".to_owned(), "local".to_owned())
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
