//! What all pages have in common: the frame around them, and their `Content-Security-Policy`.

use bytes::Bytes;
use http::HeaderValue;

use super::html::Html;

const FRAME: &str = include_str!("frame.html");
const FRAME_STYLE: &str = include_str!("frame.css");

/// A whole page.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// The document, UTF-8.
    pub(crate) html: Bytes,
    /// Its `Content-Security-Policy`: it allows only the style and the script that the page contains, by a nonce that
    /// no other page has.
    pub(crate) policy: HeaderValue,
}

/// What goes into the frame.
pub(super) struct Content {
    /// The title of the tab, without the name of the program; `None` for that name alone.
    pub(super) title: Option<&'static str>,
    /// The URL of the front page, for the link in the header.
    pub(super) home: Html,
    /// The style in addition to the frame's.
    pub(super) style: &'static str,
    /// Empty for none.
    pub(super) script: &'static str,
    /// Everything between header and footer.
    pub(super) body: Html,
    /// What the policy must allow.
    pub(super) permissions: Permissions,
}

/// What differs between the policies of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permissions {
    /// Whether the script connects to the page's own server.
    pub(super) may_connect: bool,
    /// Whether the page has forms. Their responses redirect to an instance, which is on another host, and browsers
    /// apply `form-action` to redirects too. Those hosts cannot be listed, so the directive is left out. No text from
    /// outside becomes markup in a page, so every form in it is part of the program.
    pub(super) has_forms: bool,
    /// Whether other sites may frame the page. A site that embeds an instance must be able to show the page that
    /// replaces it after its end.
    pub(super) may_be_framed: bool,
}

impl Permissions {
    fn policy(self, nonce: &str, has_script: bool) -> HeaderValue {
        let mut policy =
            format!("default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'");
        if has_script {
            policy.push_str(&format!("; script-src 'nonce-{nonce}'"));
        }
        for (is_needed, directive) in [
            (self.may_connect, "; connect-src 'self'"),
            (!self.has_forms, "; form-action 'none'"),
            (!self.may_be_framed, "; frame-ancestors 'none'"),
        ] {
            if is_needed {
                policy.push_str(directive);
            }
        }
        HeaderValue::from_str(&policy).expect("the nonce is hexadecimal, the rest a constant")
    }
}

/// Creates a page from its content.
pub(super) fn page(content: Content) -> Page {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).expect("Linux always has its random source");
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    let script = if content.script.is_empty() {
        Html::default()
    } else {
        Html::fill(
            "<script nonce=\"{{nonce}}\">{{script}}</script>\n",
            &[("nonce", Html::escape(&nonce)), ("script", Html::markup(content.script))],
        )
    };
    let title =
        content.title.map_or_else(|| "Try It Now".to_owned(), |title| format!("{title} · Try It Now"));
    let html = Html::fill(
        FRAME,
        &[
            ("title", Html::escape(&title)),
            ("home", content.home),
            ("nonce", Html::escape(&nonce)),
            ("style", Html::concat([Html::markup(FRAME_STYLE), Html::markup(content.style)])),
            ("body", content.body),
            ("script", script),
        ],
    );
    Page {
        html: Bytes::from(html.into_string()),
        policy: content.permissions.policy(&nonce, !content.script.is_empty()),
    }
}
