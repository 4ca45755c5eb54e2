//! The HTML that visitors see: the front page and the error pages. Pure: values in, HTML out.
//!
//! Markup, styles and scripts are files of their own beside the code, and part of the binary. Each page contains its
//! style and its script, under a `Content-Security-Policy` that allows nothing else.
//!
//! | file | content |
//! |---|---|
//! | `front_page.rs`, `.html`, `.css`, `.js` | the front page |
//! | `template_card.html`, `running_instance.html`, `no_templates.html` | parts of the front page |
//! | `api_host_pages.rs` | errors after a button of the front page: rate limit, pool exhausted, no such template |
//! | `instance_host_pages.rs` | errors on an instance's host: expired, failed or unknown instance, no response |
//! | `try_again.html`, `proof_of_work.html` | the forms of error pages |
//! | `notice.rs`, `.html`, `.css` | what all error pages have in common |
//! | `page.rs`, `frame.html`, `frame.css` | what all pages have in common: the frame around them, and their policy |
//! | `html.rs` | text that is escaped, or part of the program |
//! | `humanize.rs` | durations and numbers in words |
//! | `submit_once.js`, `try_again.js`, `rate_limited.js`, `proof_of_work.js` | the scripts of error pages |

mod api_host_pages;
mod front_page;
pub(crate) mod html;
mod humanize;
mod instance_host_pages;
mod notice;
mod page;
#[cfg(test)]
mod tests;

pub(crate) use api_host_pages::{
    cross_site, internal_error, invalid_proof, pool_exhausted, proof_required, rate_limited,
    template_not_found,
};
pub(crate) use front_page::{RunningInstance, TemplateCard, front_page};
pub(crate) use instance_host_pages::{
    app_unreachable, instance_ended, instance_not_found, misdirected, too_busy,
};
pub(crate) use page::Page;
