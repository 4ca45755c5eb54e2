//! An nginx in front of a server, with a folder and a loopback address of its own. It ends with the test.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use tokio::net::TcpStream;
use try_it_now::instance::ClaimToken;

use super::harness::eventually;
use super::skip::skip;

const PORT: u16 = 8080;

/// A running nginx.
pub struct Nginx {
    child: Child,
    folder: PathBuf,
    ip: Ipv4Addr,
}

impl Nginx {
    /// Starts an nginx that forwards all requests to a port of this host, with `directives` for each. Returns `None` and
    /// prints why if nginx is not installed.
    pub async fn start(upstream_port: u16, directives: &str) -> Option<Self> {
        let path = env::var("PATH").unwrap_or_default();
        let mut folders =
            path.split(':').chain(["/usr/sbin"]).map(|folder| PathBuf::from(folder).join("nginx"));
        let Some(program) = folders.find(|program| program.is_file()) else {
            skip("nginx is not installed");
            return None;
        };
        let [.., a, b, c] = ClaimToken::random().0.to_be_bytes();
        // All of 127.0.0.0/8 is loopback. Addresses of the lower half may be in use on this host.
        let ip = Ipv4Addr::new(127, a | 128, b, c);
        let folder = env::temp_dir().join(format!("try-it-now-nginx-{:032x}", ClaimToken::random().0));
        fs::create_dir_all(&folder).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {temporary}server {{\nlisten {ip}:{PORT};\nlocation / {{\nproxy_pass http://127.0.0.1:{upstream_port};\n\
             proxy_set_header Host $http_host;\n{directives}\n}}\n}}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let child = Command::new(program)
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { child, folder, ip };
        eventually("nginx listens", async || TcpStream::connect((ip, PORT)).await.ok()).await;
        Some(nginx)
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}:{PORT}", self.ip)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
