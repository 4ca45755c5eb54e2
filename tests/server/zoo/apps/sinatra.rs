//! A guest book with sessions, whose requests go to two workers.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Sinatra",
    image: "sinatra",
    shape: "Ruby, user `app`, Puma with a master and two workers of four threads, SQLite",
    template: TemplateText::Lines(
        "warm_up = [\"/\"]\n[templates.APP.ready]\npath = \"/up\"\nbody = \"up\"\ntimeout = \"120s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let written = visitor.post_form("/", &format!("text={}", visitor.word)).await;
    assert_eq!(written.status, 303, "{}", written.text());
    // Several at once, so that each worker has some: both read the one file, and know the visitor's session.
    let pages: Vec<_> = (0..8).map(|_| visitor.page("/")).collect();
    for page in futures_util::future::join_all(pages).await {
        assert_eq!(between(&page, "id=\"last\">", "<"), visitor.word);
        assert!(page.contains(&format!("<li>{}</li>", visitor.word)), "{page}");
    }
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
