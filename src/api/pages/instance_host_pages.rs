//! The error pages on an instance's host, and on a host that belongs to nothing: shown when no app responds. `home` is
//! the absolute URL of the front page.

use super::Page;
use super::html::Html;
use super::notice::{Icon, Notice};
use crate::instance::EndReason;

const HOME_BUTTON: &str = r#"<a class="button" href="{{home}}" target="_top">See what you can try</a>"#;
const HOME_LINK: &str = r#"<a class="quiet" href="{{home}}" target="_top">See all apps</a>"#;
const RELOAD_BUTTON: &str = r#"<a class="button" href="">Reload</a>"#;
/// A link, not a form: a page on an instance's host is another site to the API, and may not act for the visitor.
const START_ANOTHER: &str =
    r#"<a class="button" href="{{home}}#template-{{template}}" target="_top">{{label}}</a>"#;

/// Returns the page for a host that no instance has: 404.
pub(crate) fn instance_not_found(home: &str, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "It may have ended a while ago, or the address has a typing mistake in it.",
        ),
        ..instance_host_notice(Icon::Magnifier, "There is no copy at this address", home, request_id)
    }
    .page()
}

/// Returns the page of an instance that has ended: 410. `template` is the name of its template, empty if unknown.
pub(crate) fn instance_ended(reason: EndReason, template: &str, home: &str, request_id: &str) -> Page {
    let (icon, heading, explanation, label) = match reason {
        EndReason::Expired => (
            Icon::Clock,
            "Your time with this copy is over",
            "Thank you for trying it! What you did in it is gone with it; a fresh one starts from the beginning.",
            "Start a fresh one",
        ),
        EndReason::Failed => (
            Icon::Warning,
            "This copy stopped working",
            "That was nothing you did: the app ended before its time. A fresh one starts from the beginning.",
            "Start again",
        ),
        EndReason::NodeLost => (
            Icon::Warning,
            "This copy is no longer available",
            "That was nothing you did: the server that it ran on is gone. A fresh one starts from the beginning.",
            "Start again",
        ),
        EndReason::Unconfirmed => (
            Icon::Warning,
            "This copy is no longer available",
            "It was not used in the minute after it was assigned, so it ended. A fresh one starts from the beginning.",
            "Start again",
        ),
    };
    let notice = Notice {
        explanation: Html::markup(explanation),
        ..instance_host_notice(icon, heading, home, request_id)
    };
    if template.is_empty() {
        return notice.page();
    }
    let actions = Html::concat([
        Html::fill(
            START_ANOTHER,
            &[
                ("home", with_final_slash(home)),
                ("template", Html::escape(template)),
                ("label", Html::markup(label)),
            ],
        ),
        Html::fill(HOME_LINK, &[("home", with_final_slash(home))]),
    ]);
    Notice { actions, ..notice }.page()
}

/// Returns the page of an instance whose app does not respond (502), or not in time (504).
pub(crate) fn app_unreachable(home: &str, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "It may be busy with something. Please wait a few seconds and reload the page.",
        ),
        actions: Html::concat([
            Html::markup(RELOAD_BUTTON),
            Html::fill(HOME_LINK, &[("home", with_final_slash(home))]),
        ]),
        ..instance_host_notice(Icon::Warning, "The app does not answer right now", home, request_id)
    }
    .page()
}

/// Returns the page for a request beyond a limit of requests at a time.
pub(crate) fn too_busy(home: &str, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "Too many requests are in progress at a time. Please close pages that still load, and reload this one.",
        ),
        actions: Html::concat([
            Html::markup(RELOAD_BUTTON),
            Html::fill(HOME_LINK, &[("home", with_final_slash(home))]),
        ]),
        ..instance_host_notice(Icon::Warning, "That was too much at once", home, request_id)
    }
    .page()
}

/// Returns the page for a host that is neither an instance's nor the API's: 421.
pub(crate) fn misdirected(home: &str, request_id: &str) -> Page {
    Notice {
        explanation: Html::markup(
            "The server that you reached does not answer for this host name. Please check the address.",
        ),
        ..instance_host_notice(Icon::Magnifier, "This address does not belong here", home, request_id)
    }
    .page()
}

/// Returns a notice on another host than the API's, with a link to the front page. Its links leave a frame, since the
/// front page must not be framed.
fn instance_host_notice(icon: Icon, heading: &'static str, home: &str, request_id: &str) -> Notice {
    Notice {
        icon,
        heading,
        explanation: Html::default(),
        actions: Html::fill(HOME_BUTTON, &[("home", with_final_slash(home))]),
        home: with_final_slash(home),
        request_id: Html::escape(request_id),
        script: "",
        has_forms: false,
        may_be_framed: true,
    }
}

/// Returns the URL with exactly one slash at its end.
fn with_final_slash(home: &str) -> Html {
    Html::concat([Html::escape(home.trim_end_matches('/')), Html::markup("/")])
}
