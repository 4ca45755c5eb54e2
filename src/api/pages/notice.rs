//! What all error pages have in common: an icon, a heading, an explanation, and what the visitor can do next.

use super::html::Html;
use super::page::{Content, Page, Permissions, page};

const MARKUP: &str = include_str!("notice.html");
const STYLE: &str = include_str!("notice.css");

/// The icon above the heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icon {
    /// The visitor has to wait, or the time is over.
    Clock,
    /// Something was not found.
    Magnifier,
    /// Something failed.
    Warning,
}

impl Icon {
    /// Returns the data of its SVG path.
    fn path(self) -> Html {
        Html::markup(match self {
            Icon::Clock => "M24 9a15 15 0 1 0 0 30 15 15 0 0 0 0-30zM24 15v9l6 4",
            Icon::Magnifier => "M21 9a12 12 0 1 0 0 24 12 12 0 0 0 0-24zM30 30l9 9M16 21h10",
            Icon::Warning => "M24 8 7 38h34zM24 19v8M24 32v.5",
        })
    }
}

/// The content of an error page.
pub(super) struct Notice {
    pub(super) icon: Icon,
    /// The heading, which is the title of the tab too.
    pub(super) heading: &'static str,
    /// What the heading means, and what the visitor can do.
    pub(super) explanation: Html,
    /// The buttons and links below the explanation.
    pub(super) actions: Html,
    /// The URL of the front page, for the link in the header.
    pub(super) home: Html,
    /// The id of the request, for a report.
    pub(super) request_id: Html,
    /// Empty for none.
    pub(super) script: &'static str,
    /// Whether `actions` contains a form.
    pub(super) has_forms: bool,
    /// Whether other sites may frame the page: those on an instance's host may be framed.
    pub(super) may_be_framed: bool,
}

impl Notice {
    pub(super) fn page(self) -> Page {
        page(Content {
            title: Some(self.heading),
            home: self.home,
            style: STYLE,
            script: self.script,
            body: Html::fill(
                MARKUP,
                &[
                    ("icon", self.icon.path()),
                    ("heading", Html::escape(self.heading)),
                    ("explanation", self.explanation),
                    ("actions", self.actions),
                    ("request_id", self.request_id),
                ],
            ),
            permissions: Permissions {
                may_connect: false,
                has_forms: self.has_forms,
                may_be_framed: self.may_be_framed,
            },
        })
    }
}
