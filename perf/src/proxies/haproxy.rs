//! HAProxy.

use std::fmt::Write as _;

use super::{KEPT, Launch, Place, Setup};
use crate::failure::Failure;

pub(super) fn configure(setup: &Setup<'_>, place: &Place<'_>) -> Result<Launch, Failure> {
    let (app, address) = (setup.app, place.address);
    let map = place.folder.join("hosts.map");
    let (mut lines, mut backends) = (String::new(), String::new());
    for (number, host) in setup.hosts.iter().enumerate() {
        writeln!(lines, "{host} app{number}")?;
        writeln!(backends, "backend app{number}\n  server app {app} pool-max-conn {KEPT}")?;
    }
    std::fs::write(&map, lines)?;
    let (tls, scheme) = match setup.certificate {
        None => (String::new(), "http"),
        Some(certificate) => (format!(" ssl crt {} alpn h2", certificate.both_file().display()), "https"),
    };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 10s\n  timeout client 60s\n\
         \x20 timeout server 60s\n  option http-keep-alive\n  http-reuse always\nfrontend in\n  bind {address}{tls}\n\
         \x20 unique-id-format %[uuid]\n  unique-id-header X-Request-Id\n  option forwardfor\n\
         \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20 http-request set-header X-Forwarded-Proto {scheme}\n\
         \x20 http-response set-header X-Request-Id %[unique-id]\n\
         \x20 use_backend %[req.hdr(host),map_str({map})]\n{backends}",
        map = map.display(),
    );
    let file = place.folder.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    Ok(Launch::new(&["-db", "-f", &file.display().to_string()]))
}
