//! Caddy, by a configuration in JSON, in HTTP/1.1 only.

use serde_json::{Value, json};

use super::{KEPT, Launch, Place, Setup};
use crate::failure::Failure;

pub(super) fn configure(setup: &Setup<'_>, place: &Place<'_>) -> Result<Launch, Failure> {
    let route = |host: &String| {
        json!({
            "match": [{ "host": [host] }],
            "handle": [
                { "handler": "headers", "response": { "set": { "X-Request-Id": ["{http.request.uuid}"] } } },
                {
                    "handler": "reverse_proxy",
                    "upstreams": [{ "dial": setup.app.to_string() }],
                    "headers": { "request": { "set": { "X-Request-Id": ["{http.request.uuid}"] } } },
                    "transport": {
                        "protocol": "http",
                        "compression": false,
                        "keep_alive": { "max_idle_conns_per_host": KEPT },
                    },
                },
            ],
            "terminal": true,
        })
    };
    let routes: Vec<Value> = setup.hosts.iter().map(route).collect();
    let text = json!({
        "admin": { "disabled": true },
        "storage": { "module": "file_system", "root": place.folder },
        "logging": { "logs": { "default": { "level": "ERROR" } } },
        "apps": { "http": { "servers": { "in": {
            "listen": [place.address.to_string()],
            "protocols": ["h1"],
            "automatic_https": { "disable": true },
            "routes": routes,
        } } } },
    });
    let file = place.folder.join("caddy.json");
    std::fs::write(&file, text.to_string())?;
    let mut launch = Launch::new(&["run", "--config", &file.display().to_string()]);
    launch.variables = vec![
        ("GOMAXPROCS", "1".to_owned()),
        ("HOME", place.folder.display().to_string()),
        ("XDG_CONFIG_HOME", place.folder.display().to_string()),
        ("XDG_DATA_HOME", place.folder.display().to_string()),
    ];
    Ok(launch)
}
