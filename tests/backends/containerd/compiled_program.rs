//! Programs in C that tests compile, and images that contain only such a program.

use std::fs;
use std::path::Path;
use std::process::Command;

use try_it_now::template::ImageRef;

use super::{TestNode, oci_archive};

/// Compiles a program without libraries that it would have to find. `source` is its path below this folder.
pub(super) fn compile(source: &str, options: &[&str], program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backends/containerd").join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O1"]).args(options).arg("-o").args([program, &source]);
    let compiled = compiler.output().expect("a machine that links Rust has a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

/// Compiles a program and returns an image with nothing but the program, at `/NAME`, and the folders of a container.
pub(super) fn image(test_node: &TestNode, source: &str, options: &[&str], name: &str) -> ImageRef {
    let folder = test_node.settings.node_dir.join("program");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(name);
    compile(source, options, &program);
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["dev", "proc", "etc", "tmp", "sys"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    oci_archive::append(&mut layer, name, 0o755, &fs::read(&program).unwrap());
    let path = folder.join(name).with_extension("tar");
    let manifest = oci_archive::write(&path, &layer.into_inner().unwrap(), test_node.settings.node.as_str());
    test_node.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    ImageRef::Tar(path)
}
