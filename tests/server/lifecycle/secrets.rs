//! What an app of the process runtime, which has the user of the server, reads of the server.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use rustix::process::{geteuid, umask};
use tokio::process::Command;

use crate::support::harness::{Server, eventually};

/// A user who is not root: root reads everything.
const USER: u32 = 65_534;

const SECRET: &str = "correct-horse-battery-staple";

/// An app that looks at the server, its guardian's parent, and says what it could read.
const SPY: &str = r#"
server=$(sed 's/.*) //' /proc/$PPID/stat | cut -d' ' -f2)
{
    echo "server: $(tr '\0' ' ' </proc/$server/cmdline)"
    echo "own: $(tr '\0' ' ' </proc/$$/environ)"
    for process in $server $PPID; do
        echo "environment: $(tr '\0' ' ' </proc/$process/environ)"
    done
    (exec 3</proc/$server/mem) && echo "memory is open"
    ls /proc/$server/fd/ && echo "descriptors are listed"
    readlink /proc/$server/exe && echo "program is known"
    (exec 3<>/proc/$server/mem) && echo "memory is writable"
} >"$OUT.draft" 2>&1
mv "$OUT.draft" "$OUT"
exec sleep 600
"#;

#[tokio::test]
async fn an_app_with_the_user_of_the_server_reads_no_secret_of_the_server() {
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    let folder = std::env::temp_dir().join(format!("try-it-now-serve-{}", uuid::Uuid::now_v7()));
    fs::create_dir_all(&folder).unwrap();
    let (file, out, program) = (folder.join("templates.toml"), folder.join("seen"), folder.join("program"));
    let templates =
        format!("[templates.default]\ncommand = [\"sh\", \"-c\", '''{SPY}''']\nenv.OUT = {out:?}\n");
    fs::write(&file, templates).unwrap();
    // The folder of the build may be closed for other users.
    let built = env!("CARGO_BIN_EXE_try-it-now");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    if geteuid().is_root() {
        chown(&folder, Some(USER), Some(USER)).unwrap();
        command.uid(USER).gid(USER);
    }
    let variables = [("API_KEY", SECRET), ("POOL_TARGET_SIZE", "1")];
    let _server =
        Server::spawn(command, folder, &variables, &["serve", "--config", file.to_str().unwrap()]).await;
    let seen = eventually("the app has looked", async || fs::read_to_string(&out).ok()).await;
    assert!(seen.contains("program serve --config"), "it looks at the server: {seen}");
    assert!(seen.contains("TRY_IT_NOW_NODE=") && seen.contains("own: "), "it reads its own: {seen}");
    for secret in [SECRET, "memory is", "descriptors are", "program is known"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
}
