//! What the process runtime tells the app through its environment.

use std::path::PathBuf;

/// Where the app listens and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `HOST`: address or name to listen on.
    pub host: String,
    /// `PORT`: 0 lets the system choose.
    pub port: u16,
    /// `INSTANCE_ID`.
    pub id: String,
    /// `INSTANCE_URL`: the public address.
    pub url: String,
    /// `INSTANCE_HOST`: the public host name.
    pub instance_host: String,
    /// `INSTANCE_FILES`: a folder with the files `id`, `url` and `host`, which win over the three above. A copy of a
    /// process that runs has that one's environment, and files of its own.
    pub files: Option<PathBuf>,
    /// The guest book's file; `guestbook.json` in the working directory.
    pub data_file: PathBuf,
}

/// Everything wrong with the environment, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(Vec<String>);

impl Settings {
    /// Reads `HOST` (default 127.0.0.1), `PORT` (required), `INSTANCE_ID` and `INSTANCE_HOST` (default `local`) and
    /// `INSTANCE_URL` (default: where it listens).
    ///
    /// # Errors
    /// When `PORT` is missing or no port number, or a variable is not UTF-8; all of it at once.
    pub fn from_env() -> Result<Settings, SettingsError> {
        let mut odd = Vec::new();
        let read = Settings::from_variables(|name| {
            let value = std::env::var_os(name)?;
            value.into_string().map_err(|_| odd.push(format!("{name} is not valid UTF-8"))).ok()
        });
        if odd.is_empty() { read } else { Err(SettingsError(odd)) }
    }

    /// As [`Settings::from_env`], from any source of variables. An empty variable counts as unset.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_variables(
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

/// Who this instance is. Read anew for each visitor, because a copy becomes another between two of them.
impl Settings {
    /// Shown on the page.
    pub fn own_id(&self) -> String {
        self.own("id", &self.id)
    }

    /// Shown on the page.
    pub fn own_url(&self) -> String {
        self.own("url", &self.url)
    }

    /// The public host name.
    pub fn own_host(&self) -> String {
        self.own("host", &self.instance_host)
    }

    fn own(&self, name: &str, otherwise: &str) -> String {
        let file = self.files.as_ref().and_then(|folder| std::fs::read_to_string(folder.join(name)).ok());
        file.map_or_else(|| otherwise.to_owned(), |text| text.trim_end().to_owned())
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
    fn a_file_of_its_own_wins_over_the_environment() {
        let folder = std::env::temp_dir().join(format!("try-it-now-own-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = folder.display().to_string();
        let settings = read(&[("PORT", "1"), ("INSTANCE_ID", "golden"), ("INSTANCE_FILES", &files)]).unwrap();
        assert_eq!((settings.own_id(), settings.own_host()), ("golden".to_owned(), "local".to_owned()));
        std::fs::write(folder.join("id"), "copy\n").unwrap();
        assert_eq!((settings.own_id(), settings.own_host()), ("copy".to_owned(), "local".to_owned()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
