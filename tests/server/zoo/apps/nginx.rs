//! Pages, and uploads by WebDAV.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "nginx",
    image: "nginx-www-data",
    shape: "entrypoint with scripts, master of root, workers of `www-data`",
    template: TemplateText::Lines(""),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("nginx of www-data"));
    let path = format!("/uploads/{}.txt", visitor.word);
    let put = visitor.request("PUT", &path, &[], &visitor.word.repeat(1000)).await;
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(visitor.page(&path).await, visitor.word.repeat(1000));
    let part = visitor.request("GET", &path, &[("range", "bytes=0-2")], "").await;
    assert_eq!((part.status, part.text().as_str()), (206, "zoo"));
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/uploads/").await
}
