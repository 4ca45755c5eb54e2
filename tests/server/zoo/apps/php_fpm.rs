//! A board of notes with a session, by nginx and PHP-FPM under a supervisor.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "nginx and PHP-FPM under s6",
    image: "php-fpm",
    shape: "supervisor with FIFOs and loggers, three users, 12 processes, kept TCP connections to PHP-FPM, SQLite",
    template: TemplateText::Lines("warm_up = [\"/\"]\n"),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let first = visitor.page("/").await;
    assert!(first.contains("User: www-data. Pages of this session: 1."), "{first}");
    let posted = visitor.post_form("/", &format!("text={}", visitor.word)).await;
    assert_eq!(posted.status, 303, "{}", posted.text());
    // Requests at once, by several workers of PHP-FPM.
    let pages = (0..6).map(|_| visitor.page("/"));
    for page in futures_util::future::join_all(pages).await {
        assert!(page.contains(&format!("<li>{}</li>", visitor.word)), "{page}");
    }
    assert!(visitor.page("/").await.contains("Pages of this session: 9."));
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
