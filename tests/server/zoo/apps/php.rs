//! The shipped template of PHP: a note.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "PHP and SQLite",
    image: "php",
    shape: "one process",
    template: TemplateText::Shipped,
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("id=\"visits\">1<"));
    let posted = visitor.post_form("/", &format!("note={}", visitor.word)).await;
    assert_eq!(posted.status, 303, "{}", posted.text());
    assert!(visitor.page("/").await.contains("id=\"visits\">2<"));
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
