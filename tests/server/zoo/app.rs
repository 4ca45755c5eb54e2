//! What the zoo knows of an app.

use futures_util::future::LocalBoxFuture;

use super::visitor::Visitor;

/// An app of the zoo.
pub(super) struct App {
    /// Its name in the table of `docs/images.md`.
    pub(super) name: &'static str,
    /// Its image in `deployments/images/`.
    pub(super) image: &'static str,
    /// What its image has that others have not, for the table: users, processes, connections.
    pub(super) shape: &'static str,
    pub(super) template: TemplateText,
    pub(super) verdict: Verdict,
    /// Does what a visitor does, and checks what the app answers. One of the things it does is to store
    /// [`Visitor::word`].
    pub(super) visit: for<'a> fn(&'a Visitor) -> LocalBoxFuture<'a, ()>,
    /// Returns what the app shows to the visitor who was there before: the word of this visitor, and that of another
    /// one if it had it.
    pub(super) shown: for<'a> fn(&'a Visitor) -> LocalBoxFuture<'a, String>,
}

/// The template of an app.
pub(super) enum TemplateText {
    /// TOML without the name and the image. A table below it is written as `[templates.APP.ready]`.
    Lines(&'static str),
    /// The template of `deployments/templates/` that has the name of the image.
    Shipped,
}

/// Whether an app's instances are restored.
pub(super) enum Verdict {
    Restores,
    /// Its instances are started cold, because of this: one sentence, and a part of the error that the server logs.
    #[allow(dead_code, reason = "used while there is such an app")]
    Cold {
        sentence: &'static str,
        error: &'static str,
    },
}

impl Verdict {
    /// Returns the verdict as the table shows it.
    pub(super) fn text(&self) -> &'static str {
        match self {
            Self::Restores => "restores",
            Self::Cold { sentence, .. } => sentence,
        }
    }
}
