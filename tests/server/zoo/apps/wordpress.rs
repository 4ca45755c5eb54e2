//! The shipped template of WordPress: a login with the password of the instance, and a post.

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::Visitor;

pub(in crate::zoo) const APP: App = App {
    name: "WordPress and MariaDB",
    image: "wordpress",
    shape: "database beside PHP, UNIX socket, installed at the first start, a password for each instance",
    template: TemplateText::Shipped,
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let front = visitor.page("/").await;
    assert!(front.contains(&format!("http://{}/", visitor.instance.host)), "its links have its own host");
    let password = visitor.credentials.rsplit(' ').next().unwrap();
    visitor.page("/wp-login.php").await;
    let login = visitor.post_form("/wp-login.php", &format!("log=admin&pwd={password}&testcookie=1")).await;
    assert_eq!(login.status, 302, "{}", login.text());
    let admin = visitor.page("/wp-admin/").await;
    assert!(admin.contains("Dashboard"), "{admin}");

    let texts =
        ["1", "admin", password].map(|text| format!("<param><value><string>{text}</string></value></param>"));
    let post = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>metaWeblog.newPost</methodName><params>{}<param><value><struct>\
         <member><name>title</name><value><string>{}</string></value></member></struct></value></param><param><value>\
         <boolean>1</boolean></value></param></params></methodCall>",
        texts.concat(),
        visitor.word
    );
    let written = visitor.request("POST", "/xmlrpc.php", &[("content-type", "text/xml")], &post).await;
    assert!(written.status == 200 && !written.text().contains("fault"), "{}", written.text());
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}
