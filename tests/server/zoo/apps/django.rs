//! Signing in to the administration site, and a note that is written there.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Django",
    image: "django",
    shape: "entrypoint that makes tables and the administrator, user `app`, Gunicorn with three workers of two threads, SQLite",
    template: TemplateText::Lines(
        "warm_up = [\"/\", \"/admin/login/\"]\n[templates.APP.ready]\npath = \"/\"\nbody = \"Notes of your own\"\ntimeout = \"120s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/static/admin/css/base.css").await.contains("--primary"));
    // The form has a token.
    let refused = visitor.post_form("/admin/login/", "username=admin&password=a+visitor+signs+in").await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let login = "username=admin&password=a+visitor+signs+in&next=/admin/";
    submit(visitor, "/admin/login/", login).await;
    assert!(visitor.page("/admin/").await.contains("Site administration"));
    submit(visitor, "/admin/notes/note/add/", &format!("title={}&text=&_save=Save", visitor.word)).await;
    assert!(visitor.page("/admin/notes/note/").await.contains(&visitor.word));
}

/// Sends the form of a page with its token.
async fn submit(visitor: &Visitor, path: &str, form: &str) {
    let page = visitor.page(path).await;
    let token = between(&page, "name=\"csrfmiddlewaretoken\" value=\"", "\"");
    let answer = visitor.post_form(path, &format!("{form}&csrfmiddlewaretoken={token}")).await;
    assert_eq!(answer.status, 302, "{path}: {}", answer.text());
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
