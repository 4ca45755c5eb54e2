//! A login, a new page, and the search index.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "DokuWiki on Apache",
    image: "dokuwiki",
    shape: "PHP in Apache's workers: parent of root, workers of `www-data`, volume, files as database",
    template: TemplateText::Lines("warm_up = [\"/doku.php\", \"/doku.php?id=start&do=login\"]\n"),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let start = visitor.page("/doku.php?id=start").await;
    assert!(start.contains("The first page of this wiki."), "{start}");
    let login = visitor.page("/doku.php?id=start&do=login").await;
    let token = between(&login, "name=\"sectok\" value=\"", "\"");
    let form = format!("sectok={token}&id=start&do=login&u=visitor&p=visitor");
    let answer = visitor.post_form("/doku.php?id=start&do=login", &form).await;
    assert!([200, 302].contains(&answer.status), "{}", answer.text());
    let edit = visitor.page("/doku.php?id=notes&do=edit").await;
    assert!(edit.contains("Visitor"), "logged in: {edit}");
    let hidden = |name: &str| between(&edit, &format!("name=\"{name}\" value=\""), "\"").to_owned();
    let (token, date, change) = (hidden("sectok"), hidden("date"), hidden("changecheck"));
    let form = format!(
        "sectok={token}&id=notes&rev=0&date={date}&prefix=.&suffix=&changecheck={change}&target=section\
         &wikitext=Words+of+{}&summary=new&do%5Bsave%5D=Save",
        visitor.word
    );
    let saved = visitor.post_form("/doku.php?id=notes", &form).await;
    assert_eq!(saved.status, 302, "{}", saved.text());
    assert!(visitor.page("/doku.php?id=notes").await.contains(&visitor.word));
    assert!(visitor.page("/doku.php?id=notes&do=revisions").await.contains("new"));
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/doku.php?id=notes").await
}
