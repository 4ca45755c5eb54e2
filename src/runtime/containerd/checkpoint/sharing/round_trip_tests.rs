//! What CRIU really writes.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::allocator_scan::ZeroReliance;
use super::criu_image::Image;
use super::hostile_tests::{Folder, is_rewritten_or_stays, spoilt};
use super::rewrite::RewriteDraft;
use super::*;
use crate::instance::{Endpoint, InstanceId, NodeId, TemplateName};
use crate::runtime::containerd::{ContainerdRuntime, Settings};
use crate::runtime::{Runtime, StartRequest};
use crate::template::{App, Image as AppImage, ShareMemory};

/// containerd's socket, and the archive of an image. `None` where there is none.
fn stack(image: &str) -> Option<(PathBuf, PathBuf)> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let of_checkout = || {
        let lines = fs::read_to_string(target.join("stack/env")).ok()?;
        lines.lines().find_map(|line| line.strip_prefix("CONTAINERD_ADDRESS=")).map(PathBuf::from)
    };
    let address = env::var_os("CONTAINERD_ADDRESS").map(PathBuf::from).or_else(of_checkout);
    let image = target.join("images").join(image).with_extension("tar");
    let found = address.filter(|address| address.exists() && image.is_file()).map(|address| (address, image));
    if found.is_none() {
        assert!(env::var_os("TRY_IT_NOW_NO_SKIPS").is_none_or(|value| value != "1"));
        println!("skipped: there is no containerd, or no image (run `make stack-up images`)");
    }
    found
}

/// Waits for a page, to its end: what an app has not taken from its line yet cannot be frozen.
async fn answers(runtime: &ContainerdRuntime, endpoint: Endpoint) {
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

async fn every_image_of_a_bake_is_read_and_written_again(name: &str, port: u16) {
    let Some((address, image)) = stack(name) else { return };
    let folder = env::temp_dir().join(format!("try-it-now-images-{}", NodeId::random()));
    let settings = Settings::new(address, folder.clone(), NodeId::random());
    let runtime = ContainerdRuntime::open(settings.clone()).await.unwrap();
    let share_memory = ShareMemory::Off;
    let app = Arc::new(App { image: Some(AppImage::Tar(image)), port, share_memory, ..App::default() });
    let id = InstanceId::random(&TemplateName::new(name).unwrap());
    let (url, host) = ("http://localhost/".to_owned(), "localhost".to_owned());
    let order =
        StartRequest { url, host, id, app: app.clone(), revision: 1, files: Vec::new(), to_be_frozen: false };
    let started = runtime.start(&order).await.unwrap();
    answers(&runtime, started.endpoint).await;
    runtime.bake(&order.id, 1, &app).await.unwrap();

    let golden = fs::read_dir(folder.join("golden")).unwrap().next().unwrap().unwrap().path();
    let images = golden.join("images");
    let count = read_and_write_again(&images).unwrap();
    assert!(count > 10, "{count}");
    spoil(&images);

    // As if V8 were in all of them.
    let habits = AllocatorReport::from((1..100).map(|pid| (pid, ZeroReliance::Hints)));
    let evidence = Evidence { habits, ..Evidence::default() };

    // On a file system without room for it nothing changes.
    let tiny = Tmpfs::make("try-it-now-tiny", 1 << 20, 64).unwrap();
    let draft = RewriteDraft::read(&images, false, &evidence).unwrap();
    let before = sizes(&images);
    assert_eq!(draft.write(&tiny.path()).unwrap_err().kind(), io::ErrorKind::StorageFull);
    draft.discard();
    assert_eq!(sizes(&images), before);
    drop(tiny);

    // All bytes are somewhere: in a file of memory, or still among the pages.
    let draft = RewriteDraft::read(&images, false, &evidence).unwrap();
    let devices = folder.join("rewritten");
    fs::create_dir(&devices).unwrap();
    let before = content(&images, "pages-");
    draft.write(&devices).unwrap();
    draft.swap().unwrap();
    let after = content(&images, "pages-") + content(&devices.join(FOLDER), "");
    assert_eq!(before, after);
    assert!(content(&devices.join(FOLDER), "") > 0);

    fs::remove_dir_all(folder.join("golden")).unwrap();
    drop(runtime);
    // Without its checkpoints' files a node gives up their snapshots when it is opened.
    drop(ContainerdRuntime::open(settings).await.unwrap());
    fs::remove_dir_all(folder).unwrap();
}

/// Files by their names.
fn sizes(folder: &Path) -> std::collections::BTreeMap<std::ffi::OsString, u64> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect()
}

/// Whatever is done to what CRIU wrote, it is rewritten or stays as it was.
fn spoil(images: &Path) {
    let of_messages = ["mm-", "pagemap-", "files.img", "memfd.img", "mountpoints-"];
    let names = fs::read_dir(images).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (spoilt_ones, others): (Vec<_>, Vec<_>) =
        names.partition(|name| of_messages.iter().any(|begins| name.starts_with(begins)));
    for name in &spoilt_ones {
        let bytes = fs::read(images.join(name)).unwrap();
        for cut in 0..bytes.len() {
            if let Ok(less) = Image::read(&bytes[..cut]) {
                assert!(less.write() == bytes[..cut], "{name} up to {cut}");
            }
        }
    }
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let changes = prop::collection::vec((any::<Index>(), spoilt()), 1..4);
    let outcome = TestRunner::new(config).run(&(changes, any::<bool>()), |(changes, parts)| {
        let folder = Folder::new();
        for name in &others {
            fs::hard_link(images.join(name), folder.path().join(name)).unwrap();
        }
        for name in &spoilt_ones {
            fs::copy(images.join(name), folder.path().join(name)).unwrap();
        }
        for (image, change) in changes {
            let path = folder.path().join(&spoilt_ones[image.index(spoilt_ones.len())]);
            let mut bytes = fs::read(&path).unwrap();
            change.spoil(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
        is_rewritten_or_stays(&folder, parts);
        Ok(())
    });
    outcome.unwrap();
}

/// Pages that are not zero, in the files of a folder whose names begin so.
fn content(folder: &Path, begins: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with(begins) {
            continue;
        }
        let (file, mut at) = (File::open(folder.join(&name)).unwrap(), 0);
        while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
            let hole = seek(&file, SeekFrom::Hole(data)).unwrap();
            let mut page = [0; PAGE as usize];
            for offset in (data..hole).step_by(PAGE as usize) {
                file.read_exact_at(&mut page, offset).unwrap();
                count += usize::from(page != [0; PAGE as usize]);
            }
            at = hole;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_of_a_bake_of_the_sample_is_read_and_written_again() {
    every_image_of_a_bake_is_read_and_written_again("sample", 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_image_of_a_bake_of_php_is_read_and_written_again() {
    every_image_of_a_bake_is_read_and_written_again("php", 80).await;
}
