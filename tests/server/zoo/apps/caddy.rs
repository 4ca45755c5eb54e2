//! Pages, the administration interface, and the server's own log.

use crate::support::harness::eventually;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "Caddy",
    image: "caddy",
    shape: "a static program of Go alone in its image, user 65532, volumes, an interface on 127.0.0.1",
    template: TemplateText::Lines(""),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("A web server of your own"));
    // By a pool of connections to 127.0.0.1.
    let configuration = visitor.request("GET", "/api/config/apps/http/servers/", &[], "").await;
    assert_eq!(configuration.json()["srv0"]["listen"][0], ":8080", "{}", configuration.text());
    // Caddy writes each request to a file, which it serves.
    visitor.page(&format!("/?{}", visitor.word)).await;
    eventually("the request is in the file", async || {
        shown(visitor).await.contains(&visitor.word).then_some(())
    })
    .await;
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/log/access.log").await
}
