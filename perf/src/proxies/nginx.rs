//! nginx.

use std::fmt::Write as _;

use super::{KEPT, Launch, Place, Setup};
use crate::failure::Failure;

pub(super) fn configure(setup: &Setup<'_>, place: &Place<'_>) -> Result<Launch, Failure> {
    let (app, address) = (setup.app, place.address);
    let folder = place.folder.display();
    let mut map = String::new();
    let mut upstreams = String::new();
    for (number, host) in setup.hosts.iter().enumerate() {
        writeln!(map, "    {host} app{number};")?;
        writeln!(
            upstreams,
            "  upstream app{number} {{ server {app}; keepalive {KEPT}; keepalive_requests 1000000000; }}"
        )?;
    }
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let (http2, tls) = match setup.certificate {
        None => ("", String::new()),
        Some(certificate) => {
            let (chain, key) = (certificate.chain_file(), certificate.key_file());
            let (chain, key) = (chain.display(), key.display());
            let text = format!(
                "    ssl_certificate {chain};\n    ssl_certificate_key {key};\n    ssl_protocols TLSv1.2 TLSv1.3;\n"
            );
            (" ssl http2", text)
        }
    };
    // A body passes as it comes: without a limit, and without files on the disk.
    let text = format!(
        "daemon off;\nmaster_process off;\nerror_log stderr crit;\npid {folder}/pid;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{temporary}\
         \x20 keepalive_requests 1000000000;\n  tcp_nodelay on;\n\
         \x20 client_max_body_size 0;\n  proxy_request_buffering off;\n  proxy_max_temp_file_size 0;\n\
         \x20 map_hash_max_size 65536;\n  map_hash_bucket_size 128;\n\
         \x20 map $host $known {{\n    default \"\";\n{map}  }}\n\
         {upstreams}\
         \x20 server {{\n    listen {address}{http2};\n{tls}\
         \x20   location / {{\n      if ($known = \"\") {{ return 404; }}\n\
         \x20     proxy_pass http://$known;\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n\
         \x20     proxy_set_header X-Forwarded-For $remote_addr;\n\
         \x20     proxy_set_header X-Forwarded-Host $host;\n\
         \x20     proxy_set_header X-Forwarded-Proto $scheme;\n\
         \x20     proxy_set_header X-Request-Id $request_id;\n\
         \x20     add_header X-Request-Id $request_id;\n    }}\n  }}\n}}\n"
    );
    let file = place.folder.join("nginx.conf");
    std::fs::write(&file, text)?;
    Ok(Launch::new(&["-p", &folder.to_string(), "-c", &file.display().to_string()]))
}
