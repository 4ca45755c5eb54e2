//! What a hostile program in a container may ask of the kernel, after a cold start and after a restore: system calls,
//! sockets, namespaces, files of `/proc`.

use std::path::Path;
use std::process::Command;

use super::{
    App, ImageRef, REVISION, Runtime, StartMethod, Started, TestNode, bake, fs, oci_archive, send_command,
    start, with_timeout,
};

mod calls;
mod checkpoint_files;
mod procfs;
mod shared_resources;

/// Compiles the hostile program and returns an app that is only this program.
fn hostile_app(test_node: &TestNode) -> App {
    let folder = test_node.settings.node_dir.join("hostile");
    fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends/containerd/walls/walls.c");
    let program = folder.join("walls");
    let compiled = Command::new("cc").args(["-static", "-O1", "-o"]).args([&program, &source]).output();
    let compiled = compiled.expect("a machine that links Rust has a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["dev", "proc", "etc", "tmp", "sys"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    oci_archive::append(&mut layer, "walls", 0o755, &fs::read(&program).unwrap());
    let path = folder.join("walls.tar");
    let manifest = oci_archive::write(&path, &layer.into_inner().unwrap(), test_node.settings.node.as_str());
    test_node.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    App { image: Some(ImageRef::Tar(path)), port: 8080, ..crate::suites::runtime::app(&["/walls"]) }
}

/// Sends the questions to a hostile instance after a cold start, and to one that runc and one that this program
/// restored, beside a good instance that has to go on. `judge` gets how the instance
/// was started, and the answers.
async fn ask(questions: &[&str], judge: impl Fn(&str, &[String])) {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let good = bake(&runtime).await;
    let (_, good) = start(&runtime, &good).await;
    let app = hostile_app(&test_node);
    let (cold, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Cold);
    judge("cold", &answers(&runtime, &started, questions).await);
    with_timeout(runtime.bake(&cold, REVISION, &app)).await.unwrap();
    for name in ["restored by runc", "restored by this program"] {
        let (_, started) = start(&runtime, &app).await;
        assert_eq!(started.method, StartMethod::Restored);
        judge(name, &answers(&runtime, &started, questions).await);
    }
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "2 old");
}

async fn answers(runtime: &dyn Runtime, started: &Started, questions: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    for question in questions {
        answers.push(send_command(runtime, started.endpoint, question).await);
    }
    answers
}
