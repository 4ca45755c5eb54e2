//! The shape of every page that says what went wrong: a heading in plain words, a sentence, and a way on.

use super::html::Html;
use super::page::{Allow, Content, Page, page};

const NOTICE: &str = include_str!("notice.html");
const STYLE: &str = include_str!("notice.css");

/// The picture above the heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is about time.
    Clock,
    /// It is about something that is not there.
    Lost,
    /// It is about something that broke.
    Broken,
}

impl Sign {
    fn path(self) -> Html {
        Html::markup(match self {
            Sign::Clock => "M24 9a15 15 0 1 0 0 30 15 15 0 0 0 0-30zM24 15v9l6 4",
            Sign::Lost => "M21 9a12 12 0 1 0 0 24 12 12 0 0 0 0-24zM30 30l9 9M16 21h10",
            Sign::Broken => "M24 8 7 38h34zM24 19v8M24 32v.5",
        })
    }
}

/// What a page says.
pub(super) struct Notice {
    pub(super) sign: Sign,
    /// The heading, and the tab's title.
    pub(super) heading: &'static str,
    /// What it means and what to do.
    pub(super) sentence: Html,
    /// The buttons and links under it.
    pub(super) actions: Html,
    /// What the header's name leads to.
    pub(super) home: Html,
    /// The id of the request, for a report.
    pub(super) request_id: Html,
    /// Empty for none.
    pub(super) script: &'static str,
    /// Whether `actions` has a form.
    pub(super) forms: bool,
    /// Whether it shows on an instance's host.
    pub(super) framed: bool,
}

impl Notice {
    pub(super) fn page(self) -> Page {
        page(Content {
            title: Some(self.heading),
            home: self.home,
            style: STYLE,
            script: self.script,
            body: Html::fill(
                NOTICE,
                &[
                    ("sign", self.sign.path()),
                    ("heading", Html::text(self.heading)),
                    ("sentence", self.sentence),
                    ("actions", self.actions),
                    ("request_id", self.request_id),
                ],
            ),
            allow: Allow { connect: false, forms: self.forms, framed: self.framed },
        })
    }
}
