//! The configuration of this process: its environment, the file of templates, and the files that settings name.

use std::io;
use std::path::{Path, PathBuf, absolute};

use super::env::Environment;
use super::errors::{ConfigError, ConfigErrors};
use super::host::HostSettings;
use super::load::Config;
use super::runtime::{RuntimeMode, RuntimeSettings};
use super::server::ServerSettings;
use crate::template::ImageRef;

/// Reads the configuration of this process, and the file of templates if one is named. A later call reads the file
/// again. `own_program` is the path of this program, which the caller determines once: after an upgrade of the
/// program's file the system no longer knows it.
///
/// # Errors
/// All errors at once, among them files and folders that do not exist.
pub fn read(file: Option<&Path>, own_program: &Path) -> Result<Config, ConfigErrors> {
    let environment = environment();
    let mut errors = ConfigErrors::default();
    let file = file.and_then(|path| match read_file(path) {
        Ok(file) => Some(file),
        Err(error) => {
            let remedy = "name a file of templates in TOML";
            errors.push(ConfigError::in_file(path, None, "", error.to_string(), remedy));
            None
        }
    });
    let borrowed = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    match Config::load(&environment, borrowed, own_program) {
        Ok(mut config) => {
            make_absolute(&mut config.state_dir);
            errors.extend(missing_files(&config, borrowed.map(|(path, _)| path)));
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
    let is_needed = runtime.mode == RuntimeMode::Containerd;
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
    fn an_archive_that_does_not_exist_is_reported() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = format!(
            "[templates.a]\nimage = 'oci:{0}/Cargo.toml'\n[templates.b]\nimage = 'oci:{0}'\n\
             [templates.c]\nimage = 'oci:gone.tar'\n",
            manifest.display()
        );
        let config = load(&[("CONTAINER_MODE", Path::new("containerd"))], &text);
        let errors: Vec<_> =
            missing_files(&config, Some(Path::new("t.toml"))).into_iter().map(|m| m.key).collect();
        assert_eq!(errors, ["templates.b.image", "templates.c.image"]);
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
