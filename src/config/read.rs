//! The configuration of this process: its environment, and files that have to be there.

use std::io;
use std::path::{Path, PathBuf, absolute};

use super::env::Environment;
use super::errors::{ConfigError, ConfigErrors};
use super::{Config, Host, Runtime, RuntimeMode, Server};
use crate::template::Image;

/// Reads the configuration of this process, with a file of templates when one is named. `own_program` is the path
/// of this program, found once: after an upgrade the system no longer knows it. Call again to read the file anew.
///
/// # Errors
/// All mistakes at once, files and folders that are not there among them.
pub fn read(file: Option<&Path>, own_program: &Path) -> Result<Config, ConfigErrors> {
    let environment = environment();
    let mut mistakes = ConfigErrors::default();
    let file = file.and_then(|path| match text_of(path) {
        Ok(file) => Some(file),
        Err(e) => {
            mistakes.push(ConfigError::in_file(
                path,
                None,
                "",
                e.to_string(),
                "name a file of templates in TOML",
            ));
            None
        }
    });
    let borrowed = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    match Config::load(&environment, borrowed, own_program) {
        Ok(mut config) => {
            settle(&mut config.state_dir);
            mistakes.extend(missing(&config, borrowed.map(|(path, _)| path)));
            mistakes.or(config)
        }
        Err(more) => {
            mistakes.extend(more);
            Err(mistakes)
        }
    }
}

/// Reads from the environment of this process where things of ours are, whatever is to be served.
///
/// # Errors
/// All mistakes at once.
pub fn read_host() -> Result<Host, ConfigErrors> {
    let mut host = Host::load(&environment())?;
    settle(&mut host.state_dir);
    Ok(host)
}

/// Makes a folder mean the same wherever this process goes.
fn settle(folder: &mut PathBuf) {
    if let Ok(whole) = absolute(&folder) {
        *folder = whole;
    }
}

fn environment() -> Environment {
    std::env::vars_os()
        // What is no UTF-8 gets a character that no reader takes where it matters.
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

/// The text of a file and its absolute path, since its templates are told folders that must hold wherever they run.
fn text_of(path: &Path) -> io::Result<(PathBuf, String)> {
    Ok((absolute(path)?, std::fs::read_to_string(path)?))
}

fn missing(config: &Config, file: Option<&Path>) -> Vec<ConfigError> {
    let mut missing = tls_files(&config.server);
    missing.extend(logins(&config.runtime));
    for template in config.templates.iter() {
        if let Some(folder) = &template.app.files
            && let Err(wrong) = std::fs::read_dir(folder)
        {
            let key = format!("templates.{}.files", template.name);
            let wrong = format!("{}: {wrong}", folder.display());
            let right = "name a folder, relative to the file";
            missing.extend(file.map(|file| ConfigError::in_file(file, None, key, wrong, right)));
        }
        if let Some(Image::Tar(archive)) = &template.app.image
            && let Err(wrong) = open_file(archive)
        {
            let wrong = format!("{}: {wrong}", archive.display());
            let right = "name an OCI archive that this user may read";
            missing.push(match file {
                Some(file) => {
                    let key = format!("templates.{}.image", template.name);
                    ConfigError::in_file(file, None, key, wrong, right)
                }
                None => ConfigError::in_variable("CONTAINER_IMAGE", wrong, right),
            });
        }
    }
    missing
}

/// Whether it is a file that can be read.
fn open_file(path: &Path) -> io::Result<()> {
    match std::fs::File::open(path)?.metadata()?.is_file() {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// What is wrong with the logins that were named.
fn logins(runtime: &Runtime) -> Option<ConfigError> {
    let file =
        runtime.logins.as_ref().filter(|file| file.named && runtime.mode == RuntimeMode::Containerd)?;
    let right = "name a file such as `docker login` writes, that this user may read";
    file.read().err().map(|wrong| ConfigError::in_variable("REGISTRY_AUTH_FILE", wrong, right))
}

fn tls_files(server: &Server) -> Vec<ConfigError> {
    let Some(tls) = &server.tls else { return Vec::new() };
    let unreadable = |(name, path): (&str, &Path)| {
        let wrong = format!("{}: {}", path.display(), open_file(path).err()?);
        Some(ConfigError::in_variable(name, wrong, "name a PEM file that this user may read"))
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
    fn files_and_folders_that_are_not_there_are_told_at_once() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let config = load(
            &[("TLS_CERT", &manifest), ("TLS_KEY", Path::new("/nowhere/k.pem"))],
            "[templates.a]\ncommand = ['x']\nfiles = 'gone'\n[templates.b]\ncommand = ['x']\n",
        );
        let told: Vec<_> = missing(&config, Some(Path::new("t.toml"))).into_iter().map(|m| m.at).collect();
        assert_eq!(told, ["TLS_KEY", "templates.a.files"]);
    }

    #[test]
    fn an_archive_that_is_not_there_is_told() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = format!(
            "[templates.a]\nimage = 'oci:{0}/Cargo.toml'\n[templates.b]\nimage = 'oci:{0}'\n\
             [templates.c]\nimage = 'oci:gone.tar'\n",
            manifest.display()
        );
        let config = load(&[("CONTAINER_MODE", Path::new("containerd"))], &text);
        let told: Vec<_> = missing(&config, Some(Path::new("t.toml"))).into_iter().map(|m| m.at).collect();
        assert_eq!(told, ["templates.b.image", "templates.c.image"]);
    }

    #[test]
    fn logins_that_were_named_and_cannot_be_read_are_told_where_images_are_pulled() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = "[templates.a]\nimage = 'a'\n";
        let containers = ("CONTAINER_MODE", Path::new("containerd"));
        let config = load(&[containers, ("REGISTRY_AUTH_FILE", &manifest)], text);
        let told: Vec<_> = missing(&config, None).iter().map(ConfigError::to_string).collect();
        assert_eq!(told.len(), 1);
        let expected = format!("REGISTRY_AUTH_FILE: {}:1: it is not as `docker login`", manifest.display());
        assert!(told[0].starts_with(&expected), "{told:?}");
        let text = "[templates.a]\ncommand = ['a']\n";
        assert!(missing(&load(&[("REGISTRY_AUTH_FILE", &manifest)], text), None).is_empty());
    }

    #[test]
    fn a_file_of_templates_that_is_not_there_is_told() {
        let told = read(Some(Path::new("/nowhere/t.toml")), Path::new("p")).unwrap_err().to_string();
        assert!(told.starts_with("/nowhere/t.toml: "), "{told}");
    }
}
