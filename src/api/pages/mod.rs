//! Everything that a person sees from us: the front page and the pages that say what went wrong. Pure: values in,
//! HTML out.
//!
//! The markup, styles and scripts lie beside the code in files of their own and are part of the binary. Every page
//! carries its style and script itself, under a policy that allows nothing else.

mod front;
/// Text made safe for pages.
pub mod html;
mod humanize;
mod instance_pages;
mod notice;
mod page;
#[cfg(test)]
mod tests;
mod visitor_pages;

pub use front::{Card, Running, front};
pub use instance_pages::{ended, misdirected, no_instance, unreachable};
pub use page::Page;
pub use visitor_pages::{busy, no_template, rate_limited, trouble};
