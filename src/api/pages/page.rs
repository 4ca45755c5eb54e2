//! What all pages have in common: the frame around them, and the policy that a browser holds them to.

use bytes::Bytes;
use http::HeaderValue;

use super::html::Html;

const FRAME: &str = include_str!("frame.html");
const FRAME_STYLE: &str = include_str!("frame.css");

/// A whole page.
#[derive(Debug, Clone)]
pub struct Page {
    /// The document, UTF-8.
    pub html: Bytes,
    /// Its `Content-Security-Policy`: only what the page itself brings, by a nonce that no other page has.
    pub policy: HeaderValue,
}

/// What goes into the frame.
pub(super) struct Content {
    /// The tab's title, without our name.
    pub(super) title: Option<&'static str>,
    /// Where the name in the header leads: the front page.
    pub(super) home: Html,
    /// Styles besides the frame's.
    pub(super) style: &'static str,
    /// Empty for none.
    pub(super) script: &'static str,
    /// Everything between header and footer.
    pub(super) body: Html,
    /// What the policy must allow.
    pub(super) allow: Allow,
}

/// What differs between the policies of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allow {
    /// The page listens to our own server.
    pub(super) connect: bool,
    /// The page has forms. Their answers redirect to an instance, on another host, and browsers hold redirects to
    /// `form-action` too; since those hosts cannot be listed, the directive is left out. Nothing from outside
    /// gets into a page as markup, so every form in it is ours.
    pub(super) forms: bool,
    /// Other sites may frame the page. Whoever embeds an instance must see the page that tells of its end.
    pub(super) framed: bool,
}

impl Allow {
    fn policy(self, nonce: &str, script: bool) -> HeaderValue {
        let mut policy =
            format!("default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'");
        if script {
            policy.push_str(&format!("; script-src 'nonce-{nonce}'"));
        }
        for (needed, directive) in [
            (self.connect, "; connect-src 'self'"),
            (!self.forms, "; form-action 'none'"),
            (!self.framed, "; frame-ancestors 'none'"),
        ] {
            if needed {
                policy.push_str(directive);
            }
        }
        HeaderValue::from_str(&policy).expect("the nonce is hexadecimal, the rest a constant")
    }
}

/// Puts the frame around a page's content.
pub(super) fn page(content: Content) -> Page {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).expect("Linux always has its random source");
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    let script = if content.script.is_empty() {
        Html::default()
    } else {
        Html::fill(
            "<script nonce=\"{{nonce}}\">{{script}}</script>\n",
            &[("nonce", Html::text(&nonce)), ("script", Html::markup(content.script))],
        )
    };
    let title =
        content.title.map_or_else(|| "Try It Now".to_owned(), |title| format!("{title} · Try It Now"));
    let html = Html::fill(
        FRAME,
        &[
            ("title", Html::text(&title)),
            ("home", content.home),
            ("nonce", Html::text(&nonce)),
            ("style", Html::concat([Html::markup(FRAME_STYLE), Html::markup(content.style)])),
            ("body", content.body),
            ("script", script),
        ],
    );
    Page {
        html: Bytes::from(html.into_string()),
        policy: content.allow.policy(&nonce, !content.script.is_empty()),
    }
}
