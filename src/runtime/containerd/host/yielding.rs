//! Instances that yield: they get only the processor time that the other instances of the node leave.
//!
//! The kernel runs the processes of an idle group (`cpu.idle`, since Linux 5.15) when no other group beside it wants the
//! processor, and interrupts them as soon as one does. Elsewhere no instance yields.
//!
//! runc or the restorer makes the group, at a moment that the server does not know, and meanwhile the instance may have to
//! stop yielding. So a file in the instance's folder says that it yields. The end removes the file before it changes the
//! group, and after each change to idle the file is looked for again: whichever comes last, the instance does not yield.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// The file in the folder of an instance that yields.
const FILE: &str = "yields";
/// The kernel's switch in a group.
const SWITCH: &str = "cpu.idle";

/// The yielding of one instance.
#[derive(Debug)]
pub(crate) struct Yielding {
    /// The instance's folder.
    folder: PathBuf,
    /// The folder of its group with the controller `cpu`. It exists while the instance has processes.
    group: PathBuf,
    is_over: AtomicBool,
}

impl Yielding {
    /// Creates the yielding of an instance. It has no effect before [`Yielding::begin`], here or in another process.
    pub(crate) fn new(folder: PathBuf, group: PathBuf) -> Self {
        Self { folder, group, is_over: AtomicBool::new(false) }
    }

    /// Has the instance yield as soon as it has a group, unless that is over. Its folder exists; a second start of the
    /// instance makes it anew.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn begin(&self) -> io::Result<()> {
        if !self.is_over.load(Ordering::SeqCst) {
            File::create(self.file())?;
            if self.is_over.load(Ordering::SeqCst) {
                self.end();
            }
        }
        Ok(())
    }

    /// Makes the group idle, if the instance yields and has a group by now.
    pub(crate) fn apply(&self) {
        if self.file().exists() {
            self.switch("1");
            if !self.file().exists() {
                self.switch("0");
            }
        }
    }

    /// Ends the yielding.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if fs::remove_file(self.file()).is_ok() {
            self.switch("0");
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes to the switch of the group, if there is one: an instance works either way.
    fn switch(&self, value: &str) {
        if let Ok(mut switch) = File::options().write(true).open(self.group.join(SWITCH)) {
            let _ = switch.write_all(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::NodeId;

    /// A folder of an instance with a group in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("try-it-now-yielding-{}", NodeId::random()));
            fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        fn group(&self) -> PathBuf {
            self.0.join("group")
        }

        fn yielding(&self) -> Yielding {
            Yielding::new(self.0.clone(), self.group())
        }

        fn make_group(&self) {
            fs::create_dir(self.group()).unwrap();
            fs::write(self.group().join(SWITCH), "0").unwrap();
        }

        fn is_idle(&self) -> bool {
            fs::read_to_string(self.group().join(SWITCH)).unwrap() == "1"
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_instance_yields_from_when_its_group_is_made_until_it_need_not() {
        let folder = Folder::new();
        let yielding = folder.yielding();
        yielding.begin().unwrap();
        yielding.apply();
        folder.make_group();
        // In the restorer.
        folder.yielding().apply();
        assert!(folder.is_idle());
        yielding.end();
        assert!(!folder.is_idle());
        yielding.apply();
        assert!(!folder.is_idle());
        // A cold start after a failed restore.
        yielding.begin().unwrap();
        yielding.apply();
        assert!(!folder.is_idle());
    }

    #[test]
    fn an_instance_that_need_not_yield_before_it_has_a_group_never_does() {
        let folder = Folder::new();
        let yielding = folder.yielding();
        yielding.begin().unwrap();
        yielding.end();
        folder.make_group();
        folder.yielding().apply();
        assert!(!folder.is_idle());
    }

    #[test]
    fn a_kernel_without_idle_groups_is_no_error() {
        let folder = Folder::new();
        fs::create_dir(folder.group()).unwrap();
        let yielding = folder.yielding();
        yielding.begin().unwrap();
        yielding.apply();
        yielding.end();
        assert_eq!(fs::read_dir(folder.group()).unwrap().count(), 0);
    }
}
