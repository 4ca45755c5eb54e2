//! A servlet with sessions, and a store in files.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Tomcat",
    image: "tomcat",
    shape: "a Java virtual machine of `tomcat`, with JSP and sessions",
    template: TemplateText::Lines(
        "warm_up = [\"/basket\"]\n\
         [templates.APP.ready]\npath = \"/up.jsp\"\nbody = \"up\"\ntimeout = \"180s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let first = visitor.request("GET", "/", &[], "").await;
    assert_eq!(first.status, 302, "{}", first.text());
    assert_eq!(basket(visitor).await, "");
    for thing in ["Tea", &visitor.word] {
        let added = visitor.post_form("/basket", &format!("thing={thing}")).await;
        assert_eq!(added.status, 302, "{}", added.text());
    }
    assert_eq!(basket(visitor).await, format!("<li>Tea</li><li>{}</li>", visitor.word));
    assert!(visitor.cookies().contains("JSESSIONID="), "{}", visitor.cookies());
    // Another browser in the same instance has a session of its own.
    let other = visitor.without_cookies();
    assert_eq!(basket(&other).await, "");
    assert_ne!(other.cookies(), visitor.cookies());
    let ordered = visitor.post_form("/basket", "order=1").await;
    assert_eq!(ordered.status, 302, "{}", ordered.text());
    assert_eq!(basket(visitor).await, "");
}

/// Returns the items in the session's basket, without white space between them.
async fn basket(visitor: &Visitor) -> String {
    let page = visitor.page("/basket").await;
    between(&page, "<ul id=\"basket\">", "</ul>").split_whitespace().collect()
}

async fn shown(visitor: &Visitor) -> String {
    let page = visitor.page("/basket").await;
    between(&page, "<ol id=\"orders\">", "</ol>").to_owned()
}
