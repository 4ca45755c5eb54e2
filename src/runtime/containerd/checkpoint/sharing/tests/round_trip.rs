//! Checkpoints that CRIU writes, of two images of the build.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use rustix::fs::{SeekFrom, seek};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::criu_image::CriuImage;
use super::super::image_dir::verify_round_trip;
use super::super::layout::{MEMORY_DIR, PAGE_SIZE};
use super::super::rewrite::{Evidence, RewriteDraft};
use super::super::zero_reliance::{AllocatorReport, ZeroReliance};
use super::fixture::{Folder, assert_rewritten_or_unchanged, damages};
use crate::instance::{Endpoint, InstanceId, NodeId, TemplateName};
use crate::runtime::containerd::checkpoint::manifest;
use crate::runtime::containerd::host::node_dir;
use crate::runtime::containerd::host::tmpfs::Tmpfs;
use crate::runtime::containerd::{ContainerdRuntime, ContainerdSettings};
use crate::runtime::{Runtime, StartRequest};
use crate::template::{App, ImageRef, ShareMemory};

/// Returns containerd's socket and the archive of an image; `None` if one of them does not exist.
fn stack(image: &str) -> Option<(PathBuf, PathBuf)> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let from_stack = || {
        let lines = fs::read_to_string(target.join("stack/env")).ok()?;
        lines.lines().find_map(|line| line.strip_prefix("CONTAINERD_ADDRESS=")).map(PathBuf::from)
    };
    let address = env::var_os("CONTAINERD_ADDRESS").map(PathBuf::from).or_else(from_stack);
    let image = target.join("images").join(image).with_extension("tar");
    let found = address.filter(|address| address.exists() && image.is_file()).map(|address| (address, image));
    if found.is_none() {
        assert!(env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"));
        println!("skipped: there is no containerd, or no image (run `make stack-up images`)");
    }
    found
}

/// Waits until the app has sent a whole page: an app with a connection that it has not accepted yet cannot be frozen.
async fn wait_for_page(runtime: &ContainerdRuntime, endpoint: Endpoint) {
    let page = async || {
        let mut stream = runtime.connect(endpoint).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page).await.map(|_| !page.is_empty())
    };
    let answered = async {
        while !page().await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap();
}

async fn every_image_of_a_bake_is_read_and_written_unchanged(name: &str, port: u16) {
    let Some((address, image)) = stack(name) else { return };
    let folder = env::temp_dir().join(format!("try-it-now-images-{}", NodeId::random()));
    let settings = ContainerdSettings::new(address, folder.clone(), NodeId::random());
    let runtime = ContainerdRuntime::open(settings.clone()).await.unwrap();
    let share_memory = ShareMemory::Off;
    let app = Arc::new(App { image: Some(ImageRef::Tar(image)), port, share_memory, ..App::default() });
    let id = InstanceId::random(&TemplateName::new(name).unwrap());
    let (url, host) = ("http://localhost/".to_owned(), "localhost".to_owned());
    let request = StartRequest::new(id, url, host, app.clone(), 1);
    let started = runtime.start(&request).await.unwrap();
    wait_for_page(&runtime, started.endpoint).await;
    runtime.bake(&request.id, 1, &app).await.unwrap();

    let checkpoints = node_dir::checkpoints_dir(&folder);
    let checkpoint = fs::read_dir(&checkpoints).unwrap().next().unwrap().unwrap().path();
    let images = manifest::images_dir(&checkpoint);
    let count = verify_round_trip(&images).unwrap();
    assert!(count > 10, "{count}");
    damage(&images);

    // As if V8 were in all processes.
    let allocators = AllocatorReport::from((1..100).map(|pid| (pid, ZeroReliance::Hint)));
    let evidence = Evidence { allocators, ..Evidence::default() };

    // On a file system that is too small nothing changes.
    let tiny = Tmpfs::create("try-it-now-tiny", 1 << 20, 64).unwrap();
    let draft = RewriteDraft::read(&images, false, &evidence).unwrap();
    let before = sizes(&images);
    assert_eq!(draft.write(&tiny.path()).unwrap_err().kind(), io::ErrorKind::StorageFull);
    draft.discard();
    assert_eq!(sizes(&images), before);
    drop(tiny);

    // Each page is in a file of memory or still in an image of pages.
    let draft = RewriteDraft::read(&images, false, &evidence).unwrap();
    let devices = folder.join("rewritten");
    fs::create_dir(&devices).unwrap();
    let before = nonzero_pages(&images, "pages-");
    draft.write(&devices).unwrap();
    draft.replace_images().unwrap();
    let after = nonzero_pages(&images, "pages-") + nonzero_pages(&devices.join(MEMORY_DIR), "");
    assert_eq!(before, after);
    assert!(nonzero_pages(&devices.join(MEMORY_DIR), "") > 0);

    fs::remove_dir_all(checkpoints).unwrap();
    drop(runtime);
    // A node whose checkpoints' files are missing removes their snapshots when it is opened.
    drop(ContainerdRuntime::open(settings).await.unwrap());
    fs::remove_dir_all(folder).unwrap();
}

/// Returns the size of each file in a folder.
fn sizes(folder: &Path) -> BTreeMap<OsString, u64> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect()
}

/// Checks that a damaged checkpoint is rewritten or stays unchanged.
fn damage(images: &Path) {
    let of_messages = ["mm-", "pagemap-", "files.img", "memfd.img", "mountpoints-"];
    let names = fs::read_dir(images).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (damaged, others): (Vec<_>, Vec<_>) =
        names.partition(|name| of_messages.iter().any(|prefix| name.starts_with(prefix)));
    for name in &damaged {
        let bytes = fs::read(images.join(name)).unwrap();
        for cut in 0..bytes.len() {
            if let Ok(less) = CriuImage::read(&bytes[..cut]) {
                assert!(less.write() == bytes[..cut], "{name} up to {cut}");
            }
        }
    }
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let changes = prop::collection::vec((any::<Index>(), damages()), 1..4);
    let outcome = TestRunner::new(config).run(&(changes, any::<bool>()), |(changes, with_shm)| {
        let folder = Folder::new();
        for name in &others {
            fs::hard_link(images.join(name), folder.path().join(name)).unwrap();
        }
        for name in &damaged {
            fs::copy(images.join(name), folder.path().join(name)).unwrap();
        }
        for (image, damage) in changes {
            let path = folder.path().join(&damaged[image.index(damaged.len())]);
            let mut bytes = fs::read(&path).unwrap();
            damage.apply(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
        assert_rewritten_or_unchanged(&folder, with_shm);
        Ok(())
    });
    outcome.unwrap();
}

/// Returns how many pages are not zero in the files of a folder whose names have a prefix.
fn nonzero_pages(folder: &Path, prefix: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with(prefix) {
            continue;
        }
        let (file, mut at) = (File::open(folder.join(&name)).unwrap(), 0);
        while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
            let hole = seek(&file, SeekFrom::Hole(data)).unwrap();
            let mut page = [0; PAGE_SIZE as usize];
            for offset in (data..hole).step_by(PAGE_SIZE as usize) {
                file.read_exact_at(&mut page, offset).unwrap();
                count += usize::from(page != [0; PAGE_SIZE as usize]);
            }
            at = hole;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_of_a_bake_of_the_sample_is_read_and_written_unchanged() {
    every_image_of_a_bake_is_read_and_written_unchanged("sample", 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_of_a_bake_of_php_is_read_and_written_unchanged() {
    every_image_of_a_bake_is_read_and_written_unchanged("php", 80).await;
}
