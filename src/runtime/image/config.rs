//! The configuration of an image: how it says it is run. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::health::StoredHealthCheck;
use super::users::UserFiles;
use crate::runtime::{ImageFacts, RuntimeError};
use crate::template::{App, HealthCheck};

/// The port of an app whose template and image name none.
const DEFAULT_PORT: u16 = 80;

/// The part of an image's configuration that this runtime uses, with the names of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub(crate) user: String,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: String,
    pub(crate) exposed_ports: Option<BTreeMap<String, Value>>,
    pub(crate) volumes: Option<BTreeMap<String, Value>>,
    pub(crate) healthcheck: Option<StoredHealthCheck>,
    pub(crate) shell: Option<Vec<String>>,
    /// The image's users and groups, from its layers.
    #[serde(skip)]
    pub(crate) users: UserFiles,
}

impl ImageConfig {
    /// Returns the port that an app of this image listens on: that of the template, else the only one that the image
    /// exposes, else 80.
    ///
    /// # Errors
    /// The template names none, and the image exposes several.
    pub(crate) fn port(&self, app: &App) -> Result<u16, RuntimeError> {
        if app.port != 0 {
            return Ok(app.port);
        }
        let ports = self.exposed_tcp();
        match ports.as_slice() {
            [] => Ok(DEFAULT_PORT),
            [only] if only.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(only.parse().unwrap_or(DEFAULT_PORT))
            }
            several => Err(RuntimeError::Start(format!(
                "the image exposes {}: set port in the template to the one that serves its pages",
                several.join(", ")
            ))),
        }
    }

    /// Returns the TCP ports that the image exposes, as it writes them, in ascending order.
    fn exposed_tcp(&self) -> Vec<&str> {
        let exposed = self.exposed_ports.iter().flat_map(BTreeMap::keys);
        let tcp = exposed.filter_map(|port| match port.split_once('/') {
            Some((port, protocol)) => protocol.eq_ignore_ascii_case("tcp").then_some(port),
            None => Some(port.as_str()),
        });
        let mut ports: Vec<&str> = tcp.collect();
        ports.sort_unstable_by_key(|port| (port.len(), *port));
        ports
    }

    /// Returns what the image declares about its app.
    pub(crate) fn facts(&self) -> ImageFacts {
        let ports = self.exposed_tcp().into_iter().filter_map(|port| port.parse().ok());
        ImageFacts {
            user: self.user.clone(),
            ids: self.users.find(&self.user).ok().map(|user| (user.uid, user.gid)),
            ports: ports.filter(|port| *port != 0).collect(),
            health_check: self.health_check(),
        }
    }

    /// Returns the health check that the image declares.
    pub(crate) fn health_check(&self) -> Option<HealthCheck> {
        self.healthcheck.as_ref()?.read(self.shell.as_deref())
    }
}
