//! The configuration of this process: its environment, the file of templates, and the files that settings name.

use std::io;
use std::path::{Path, PathBuf, absolute};

use super::effective::{EffectiveValue, effective};
use super::env::Environment;
use super::errors::{ConfigError, ConfigErrors};
use super::host::HostSettings;
use super::load::Config;
use super::runtime::{RuntimeMode, RuntimeSettings};
use super::server::ServerSettings;
use crate::template::ImageRef;
use crate::template::hooks::FileContent;

/// The name of a file of templates that is only a text.
const UNNAMED_FILE: &str = "templates";

/// Reads the configuration of this process, and the file of templates if one is named. A later call reads the file
/// again. `own_program` is the path of this program, which the caller determines once: after an upgrade of the
/// program's file the system no longer knows it.
///
/// # Errors
/// All errors at once, among them files and folders that do not exist.
pub fn read(file: Option<&Path>, own_program: &Path) -> Result<Config, ConfigErrors> {
    Texts::of_process(file).load(own_program)
}

/// What the configuration of this process is read from.
struct Texts {
    environment: Environment,
    /// The absolute path of the file of templates, and its text.
    file: Option<(PathBuf, String)>,
    /// The error of a file that cannot be read.
    errors: ConfigErrors,
}

impl Texts {
    fn of_process(file: Option<&Path>) -> Self {
        let mut errors = ConfigErrors::default();
        let file = file.and_then(|path| match read_file(path) {
            Ok(file) => Some(file),
            Err(error) => {
                let remedy = "name a file of templates in TOML";
                errors.push(ConfigError::in_file(path, None, "", error.to_string(), remedy));
                None
            }
        });
        Self { environment: environment(), file, errors }
    }

    fn load(&mut self, own_program: &Path) -> Result<Config, ConfigErrors> {
        let file = self.file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
        load(&self.environment, file, own_program, std::mem::take(&mut self.errors))
    }
}

/// Reads the configuration of this process as [`read`] does, and returns each value with where it comes from, and the
/// warnings.
///
/// # Errors
/// All errors at once, as for [`read`].
pub fn read_effective(
    file: Option<&Path>,
    own_program: &Path,
) -> Result<(Vec<EffectiveValue>, Vec<String>), ConfigErrors> {
    let mut texts = Texts::of_process(file);
    let config = texts.load(own_program)?;
    let text = texts.file.as_ref().map(|(_, text)| text.as_str());
    Ok((effective(&texts.environment, text, &config), config.warnings))
}

/// Reads the configuration of this process as if it served containers of the templates in `text`, which may be in no
/// file.
///
/// # Errors
/// All errors at once, as for [`read`].
pub fn read_for_containers(text: &str, own_program: &Path) -> Result<Config, ConfigErrors> {
    let mut environment = environment();
    environment.insert("CONTAINER_MODE".to_owned(), "containerd".to_owned());
    environment.remove("CONTAINER_IMAGE");
    let file = (Path::new(UNNAMED_FILE), text);
    load(&environment, Some(file), own_program, ConfigErrors::default())
}

/// The variables that the configuration of a demo is read from: where things are, and the port of the demo. Those of a
/// server on this host, such as its store, its key and its URL, are not for a demo.
const DEMO_VARIABLES: [&str; 14] = [
    "CONTAINERD_ADDRESS",
    "CONTAINER_HOST",
    "CRIU_ENABLED",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "FAST_CGROUP_CHANGES",
    "HOME",
    "INSTANCES_MEMORY",
    "REGISTRY_AUTH_FILE",
    "SERVER_PORT",
    "STATE_DIR",
    "USER_NAMESPACES",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// What a demo sets: one user, who is on this host.
const DEMO_SETTINGS: [(&str, &str); 9] = [
    ("SERVER_HOST", "127.0.0.1"),
    ("TRUSTED_PROXIES", ""),
    ("SHUTDOWN_GRACE", "1s"),
    ("POOL_TARGET_SIZE", "1"),
    ("POOL_MIN_SIZE", "1"),
    ("POOL_MAX_SIZE", "10"),
    ("POOL_REPLENISH_THRESHOLD", "1"),
    ("RATE_LIMIT_HOURLY", "0"),
    ("RATE_LIMIT_DAILY", "0"),
];

/// Reads the configuration of a server on this host's loopback that serves containers of the templates in `text` to one
/// user. Its port is a free one unless `SERVER_PORT` is set.
///
/// # Errors
/// All errors at once, as for [`read`].
pub fn read_for_demo(text: &str, mode: RuntimeMode, own_program: &Path) -> Result<Config, ConfigErrors> {
    let mut demo = environment();
    demo.retain(|name, _| DEMO_VARIABLES.contains(&name.as_str()));
    demo.entry("SERVER_PORT".to_owned()).or_insert_with(|| "0".to_owned());
    let settings = DEMO_SETTINGS.into_iter().chain([("CONTAINER_MODE", mode.name())]);
    demo.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    load(&demo, Some((Path::new(UNNAMED_FILE), text)), own_program, ConfigErrors::default())
}

/// Reads the configuration, and adds `errors` to those in it.
fn load(
    environment: &Environment,
    file: Option<(&Path, &str)>,
    own_program: &Path,
    mut errors: ConfigErrors,
) -> Result<Config, ConfigErrors> {
    match Config::load(environment, file, own_program) {
        Ok(mut config) => {
            make_absolute(&mut config.state_dir);
            errors.extend(missing_files(&config, file.map(|(path, _)| path)));
            errors.into_result(config)
        }
        Err(more) => {
            errors.extend(more);
            Err(errors)
        }
    }
}

/// Reads from the environment of this process the settings that do not depend on what the server serves.
///
/// # Errors
/// All errors at once.
pub fn read_host() -> Result<HostSettings, ConfigErrors> {
    let mut host = HostSettings::load(&environment())?;
    make_absolute(&mut host.state_dir);
    Ok(host)
}

/// Makes a path independent of the working directory.
fn make_absolute(path: &mut PathBuf) {
    if let Ok(full) = absolute(&path) {
        *path = full;
    }
}

fn environment() -> Environment {
    std::env::vars_os()
        // A value that is not UTF-8 gets a replacement character, which no setting accepts where it matters.
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

/// Returns the absolute path of a file and its text. The path is absolute because templates name folders relative to
/// it, which must not depend on the working directory.
fn read_file(path: &Path) -> io::Result<(PathBuf, String)> {
    Ok((absolute(path)?, std::fs::read_to_string(path)?))
}

/// Returns an error for each file and folder that the configuration names and that cannot be read. `file` is the file
/// of templates.
fn missing_files(config: &Config, file: Option<&Path>) -> Vec<ConfigError> {
    let mut missing = tls_files(&config.server);
    missing.extend(registry_logins(&config.runtime));
    for template in config.templates.iter() {
        if let Some(folder) = &template.app.files
            && let Err(error) = std::fs::read_dir(folder)
        {
            let key = format!("templates.{}.files", template.name);
            let problem = format!("{}: {error}", folder.display());
            let remedy = "name a folder, relative to the file";
            missing.extend(file.map(|file| ConfigError::in_file(file, None, key, problem, remedy)));
        }
        for hook in &template.hooks.files {
            if let FileContent::CopyOf { file: copied } = &hook.content
                && let Err(error) = open_file(copied)
            {
                let key = format!("templates.{}.hooks.files.{}", template.name, hook.path);
                let problem = format!("{}: {error}", copied.display());
                let remedy = "name a file that this user may read, relative to the file of templates";
                missing.extend(file.map(|file| ConfigError::in_file(file, None, key, problem, remedy)));
            }
        }
        if let Some(ImageRef::Tar(archive)) = &template.app.image
            && let Err(error) = open_file(archive)
        {
            let problem = format!("{}: {error}", archive.display());
            let remedy = "name an OCI archive that this user may read";
            missing.push(match file {
                Some(file) => {
                    let key = format!("templates.{}.image", template.name);
                    ConfigError::in_file(file, None, key, problem, remedy)
                }
                None => ConfigError::in_variable("CONTAINER_IMAGE", problem, remedy),
            });
        }
    }
    missing
}

/// Checks whether a path is a file that can be read.
fn open_file(path: &Path) -> io::Result<()> {
    match std::fs::File::open(path)?.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// Returns the error in the file of logins that the operator named, if images are pulled at all.
fn registry_logins(runtime: &RuntimeSettings) -> Option<ConfigError> {
    let is_needed = runtime.mode.has_containers();
    let file = runtime.registry_logins.as_ref().filter(|file| file.is_explicit && is_needed)?;
    let remedy = "name a file that `docker login` writes, and that this user may read";
    file.read().err().map(|problem| ConfigError::in_variable("REGISTRY_AUTH_FILE", problem, remedy))
}

fn tls_files(server: &ServerSettings) -> Vec<ConfigError> {
    let Some(tls) = &server.tls else { return Vec::new() };
    let unreadable = |(name, path): (&str, &Path)| {
        let problem = format!("{}: {}", path.display(), open_file(path).err()?);
        Some(ConfigError::in_variable(name, problem, "name a PEM file that this user may read"))
    };
    [("TLS_CERT", tls.cert.as_path()), ("TLS_KEY", tls.key.as_path())]
        .into_iter()
        .filter_map(unreadable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &Path)], text: &str) -> Config {
        let home = [("HOME", Path::new("/home/a"))];
        let pairs = env.iter().chain(&home).map(|(k, v)| ((*k).to_owned(), v.display().to_string()));
        Config::load(&pairs.collect(), Some((Path::new("/nowhere/t.toml"), text)), Path::new("p")).unwrap()
    }

    #[test]
    fn files_and_folders_that_do_not_exist_are_reported_at_once() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let config = load(
            &[("TLS_CERT", &manifest), ("TLS_KEY", Path::new("/nowhere/k.pem"))],
            "[templates.a]\ncommand = ['x']\nfiles = 'gone'\n[templates.b]\ncommand = ['x']\n",
        );
        let errors: Vec<_> =
            missing_files(&config, Some(Path::new("t.toml"))).into_iter().map(|m| m.key).collect();
        assert_eq!(errors, ["TLS_KEY", "templates.a.files"]);
    }

    #[test]
    fn an_archive_or_a_file_to_copy_that_does_not_exist_is_reported() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = format!(
            "[templates.a]\nimage = 'oci:{0}/Cargo.toml'\n[templates.b]\nimage = 'oci:{0}'\n\
             [templates.c]\nimage = 'oci:gone.tar'\n[templates.c.hooks.files]\n\
             '/a' = {{ file = '{0}/Cargo.toml' }}\n'/b' = {{ file = 'gone.zip' }}\n'/c' = {{ file = '{0}' }}\n",
            manifest.display()
        );
        let config = load(&[("CONTAINER_MODE", Path::new("containerd"))], &text);
        let errors: Vec<_> =
            missing_files(&config, Some(Path::new("t.toml"))).into_iter().map(|m| m.key).collect();
        let files = ["templates.c.hooks.files./b", "templates.c.hooks.files./c"];
        assert_eq!(errors, [["templates.b.image"].as_slice(), &files, &["templates.c.image"]].concat());
    }

    #[test]
    fn a_named_file_of_logins_that_cannot_be_read_is_reported_where_images_are_pulled() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = "[templates.a]\nimage = 'a'\n";
        let containers = ("CONTAINER_MODE", Path::new("containerd"));
        let config = load(&[containers, ("REGISTRY_AUTH_FILE", &manifest)], text);
        let errors: Vec<_> = missing_files(&config, None).iter().map(ConfigError::to_string).collect();
        assert_eq!(errors.len(), 1);
        let expected =
            format!("REGISTRY_AUTH_FILE: {}:1: not in the format that `docker login`", manifest.display());
        assert!(errors[0].starts_with(&expected), "{errors:?}");
        let text = "[templates.a]\ncommand = ['a']\n";
        assert!(missing_files(&load(&[("REGISTRY_AUTH_FILE", &manifest)], text), None).is_empty());
    }

    #[test]
    fn a_file_of_templates_that_does_not_exist_is_reported() {
        let errors = read(Some(Path::new("/nowhere/t.toml")), Path::new("p")).unwrap_err().to_string();
        assert!(errors.starts_with("/nowhere/t.toml: "), "{errors}");
    }
}
