//! Why a checkpoint's image files stay as they are, and its memory is not shared.

use std::io;

use super::proto_message::Malformed;

/// Why memory in a checkpoint's image files cannot be shared. The files are unchanged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refused {
    /// An image file is not in the format that CRIU writes.
    #[error("malformed image file {file}: {why}")]
    Malformed {
        /// The name of the image file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Pages are stored in a parent checkpoint or are loaded later.
    #[error("not all memory is stored in the checkpoint")]
    Elsewhere,
    /// Image files contradict each other or themselves.
    #[error("inconsistent memory map in checkpoint")]
    Inconsistent,
    /// There is no mapping that can be shared.
    #[error("no memory can be shared")]
    Nothing,
    /// The process was started after the allocators of the others were examined.
    #[error("the allocators of process {0} were not examined")]
    NotExamined(u32),
    /// An image file lacks something that is needed.
    #[error("the checkpoint has no {0}")]
    Lacks(&'static str),
    /// An image file cannot be read.
    #[error("cannot read {file}: {why}")]
    Unreadable {
        /// The name of the image file.
        file: String,
        /// What the system said.
        why: String,
    },
}

impl Refused {
    /// Returns the error for an image file that is malformed.
    pub(super) fn malformed(file: &str, why: Malformed) -> Self {
        Self::Malformed { file: file.to_owned(), why: why.to_string() }
    }

    /// Returns the error for an image file that cannot be read.
    pub(super) fn unreadable(file: &str, why: &io::Error) -> Self {
        Self::Unreadable { file: file.to_owned(), why: why.to_string() }
    }
}
