//! The strict check of one raw HTTP/1.x request head. Pure: bytes in, verdict out.
//!
//! Both engines are lenient, each in its own way, where leniency lets two parties disagree about where a message ends
//! or which host it is for. A head that passes this check can be read in one way only.

mod authority;
mod characters;
mod check;
mod checked_head;
mod fields;
mod origin_form;
mod request_line;
#[cfg(test)]
mod tests;

pub(super) use characters::{is_control, is_tchar};
pub(in crate::server) use check::next_line;
pub use check::{check, find_end};
pub use checked_head::{Framing, Head, Http1Version};
pub(in crate::server) use fields::{Field, FramingFields, parse_length};
pub use origin_form::to_origin_form;
