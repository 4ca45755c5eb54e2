//! A guest book, and a clock that goes on.

use crate::support::harness::eventually;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Mono",
    image: "mono",
    shape: "C#, user `app`, compiled by the entrypoint, a pool of threads and a timer",
    template: TemplateText::Lines(
        "[templates.APP.ready]\nbody = \"Guests of your own\"\ntimeout = \"120s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let seconds = |page: &str| between(page, "id=\"seconds\">", "<").parse::<u32>().unwrap();
    let before = seconds(&visitor.page("/").await);
    let written = visitor.post_form("/", &format!("text={}", visitor.word)).await;
    assert_eq!(written.status, 303, "{}", written.text());
    let pages: Vec<_> = (0..8).map(|_| visitor.page("/")).collect();
    for page in futures_util::future::join_all(pages).await {
        assert!(page.contains(&format!("<li>{}</li>", visitor.word)), "{page}");
        assert_eq!(between(&page, "id=\"stored\">", "<"), "1");
    }
    eventually("the timer goes on", async || (seconds(&visitor.page("/").await) > before).then_some(()))
        .await;
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
