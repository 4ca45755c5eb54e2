//! A web app with a pool of connections to a database, all of which are restored.

use serde_json::Value;

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

/// The most connections of a worker.
const MAX_CONNECTIONS: u64 = 4;

pub(in crate::zoo) const APP: App = App {
    name: "PostgreSQL and gunicorn",
    image: "postgresql",
    shape: "entrypoint of root, database of `postgres`, workers of `www-data` with pools over TCP",
    template: TemplateText::Lines(
        "warm_up = [\"/\", \"/pool\", \"/\", \"/pool\"]\n\
         [templates.APP.ready]\npath = \"/up\"\nbody = \"up\"\ntimeout = \"180s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("<li>The first note</li>"));
    // Several requests, so that both workers are asked.
    for number in 0..10 {
        let pool: Value = serde_json::from_str(&visitor.page("/pool").await).unwrap();
        assert_eq!((&pool["lost"], &pool["failed"]), (&0.into(), &0.into()), "{pool}");
        let opened = pool["opened"].as_u64().unwrap();
        assert!((2..=MAX_CONNECTIONS).contains(&opened), "{pool}");
        let added = visitor.post_form("/notes", &format!("text={}+{number}", visitor.word)).await;
        assert_eq!(added.status, 303, "{}", added.text());
        assert!(visitor.page("/").await.contains(&format!("<li>{} {number}</li>", visitor.word)));
    }
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
