//! Who reads the files of a node, which hold the memory of its apps.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::umask;

use super::super::{TestNode, bake, fs, start};
use crate::support::user_namespaces;

/// Calls `visit` for a path and all that is below it.
fn walk(path: &Path, visit: &mut impl FnMut(&Path, &Metadata)) {
    let Ok(about) = fs::symlink_metadata(path) else { return };
    visit(path, &about);
    if about.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), visit));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_user_of_the_host_reads_a_checkpoint_whatever_the_umask_of_the_server() {
    let Some(test_node) = TestNode::new() else { return };
    umask(Mode::empty());
    let root = &test_node.settings.node_dir;
    // As an older server left it.
    fs::create_dir_all(root).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = test_node.open().await;
    let app = bake(&runtime).await;
    for _ in 0..2 {
        start(&runtime, &app).await;
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(root), 0o700);
    assert_eq!(mode(&test_node.checkpoints()), 0o700);
    let mut files = 0;
    walk(&test_node.checkpoints(), &mut |path, about| {
        let mode = about.permissions().mode() & 0o777;
        let expected = match about.is_dir() {
            true => 0o700,
            // CRIU reads them inside the user namespace.
            false if user_namespaces::are_in_use() && path.parent().unwrap().ends_with("images") => 0o644,
            false => 0o600,
        };
        assert_eq!(mode, expected, "{}: {mode:o}", path.display());
        files += usize::from(about.is_file());
    });
    assert!(files > 10, "{files}");
    let mut memory = 0;
    // The shared memory is mounted where containerd sees it.
    let of_containerd = format!("/proc/{}/root{}", test_node.stack.daemon_pid(), root.display());
    walk(&Path::new(&of_containerd).join("memory"), &mut |path, about| {
        // The devices of a container's `/dev` are beside its memory.
        if path.components().any(|part| part.as_os_str() == ".mem") {
            // Users of an instance read what they map. They cannot list the names, which are random.
            let mode = about.permissions().mode() & 0o777;
            assert_eq!(mode, if about.is_dir() { 0o711 } else { 0o444 }, "{}: {mode:o}", path.display());
            memory += 1;
        }
    });
    assert!(memory > 1, "{memory}");
}
