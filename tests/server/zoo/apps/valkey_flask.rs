//! A list in a cache, and words that one request adds and another waits for.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Flask with Valkey",
    image: "valkey-flask",
    shape: "`USER app`, entrypoint that starts a cache, health check of the image, gunicorn with threads, TCP connections to Valkey",
    template: TemplateText::Lines("warm_up = [\"/\"]\n"),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    // The ready check and the warm-up have read pages before.
    let pages = async || {
        let page = visitor.page("/").await;
        assert!(page.contains("<p>5000 products in the cache, "), "{page}");
        between(&page, "in the cache, ", " pages").parse::<u32>().unwrap()
    };
    let before = pages().await;
    assert_eq!(pages().await, before + 1);
    // One request waits in the cache for what another one adds.
    let form = format!("word={}", visitor.word);
    let (next, added) = tokio::join!(visitor.page("/next"), visitor.post_form("/words", &form));
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(next, visitor.word);
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/words").await
}
