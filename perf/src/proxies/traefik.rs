//! Traefik, by files in JSON, which it reads as YAML, in HTTP/1.1 only. It has no request ids.

use serde_json::{Map, Value, json};

use super::{KEPT, Launch, Place, Setup};
use crate::failure::Failure;

pub(super) fn configure(setup: &Setup<'_>, place: &Place<'_>) -> Result<Launch, Failure> {
    let (mut routers, mut services) = (Map::<String, Value>::new(), Map::<String, Value>::new());
    for (number, host) in setup.hosts.iter().enumerate() {
        let app = format!("app{number}");
        routers.insert(app.clone(), json!({ "rule": format!("Host(`{host}`)"), "service": app }));
        let url = format!("http://{}", setup.app);
        services.insert(app, json!({ "loadBalancer": { "servers": [{ "url": url }] } }));
    }
    let dynamic = place.folder.join("dynamic.yaml");
    std::fs::write(&dynamic, json!({ "http": { "routers": routers, "services": services } }).to_string())?;
    let fixed = json!({
        "entryPoints": { "in": { "address": place.address.to_string() } },
        "serversTransport": { "maxIdleConnsPerHost": KEPT },
        "providers": { "file": { "filename": dynamic, "watch": false } },
        "global": { "checkNewVersion": false, "sendAnonymousUsage": false },
        "log": { "level": "ERROR" },
    });
    let file = place.folder.join("traefik.yaml");
    std::fs::write(&file, fixed.to_string())?;
    let mut launch = Launch::new(&[&format!("--configFile={}", file.display())]);
    launch.variables = vec![("GOMAXPROCS", "1".to_owned())];
    Ok(launch)
}
