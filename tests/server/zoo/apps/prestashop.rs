//! A shop that sends its visitors to the domain in its database, which a hook sets in each instance.

use crate::support::zip::zip;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "PrestaShop's shape",
    image: "prestashop",
    shape: "nginx and PHP-FPM of `www-data`, MariaDB of `mysql` over TCP, health check, a domain in the database",
    template: TemplateText::Lines(
        "env = { INSTALL_MODULES_DIR = \"/modules-to-install\" }\nshare_memory = \"with-shm\"\nadmin_path = \"/admin-dev/\"\nwarm_up = [\"/\", \"/admin-dev/\", \"/\", \"/\"]\n\
         # A shop that was started cold begins with its own address; a restored one gets it from the hook.\n\
         command = [\"bash\", \"-c\", \"url=${INSTANCE_URL%/}; PS_DOMAIN=${url#*://} exec /run.sh\"]\n\
         # The image's own health check decides: before the hook, a restored shop sends visitors to another address.\n\
         [templates.APP.ready]\ntimeout = \"200s\"\n\
         [[templates.APP.hooks.exec]]\ncommand = [\"/run-scripts/set-domain\", \"{INSTANCE_URL}\"]\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let home = visitor.page("/").await;
    let own = format!("href=\"http://{}/\"", visitor.instance.host);
    assert!(home.contains(&own) && home.contains("Hummingbird mug"), "{home}");
    // The module that was there before the first start.
    assert!(home.contains("<li>Free delivery</li>"), "{home}");

    let refused = visitor.post_form("/admin-dev/", "email=admin@prestashop.com&passwd=wrong").await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    let login = visitor.post_form("/admin-dev/", "email=admin@prestashop.com&passwd=prestashop").await;
    assert_eq!(login.status, 303, "{}", login.text());
    let page = visitor.page("/admin-dev/").await;
    let token = between(&page, "name=\"token\" value=\"", "\"");
    let product = format!("token={token}&name=Cup+{}&price=7.5", visitor.word);
    let added = visitor.post_form("/admin-dev/", &product).await;
    assert_eq!(added.status, 303, "{}", added.text());

    let module = module_archive(&visitor.word);
    let boundary = "of-the-form";
    let body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n{token}\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"module\"; filename=\"module.zip\"\r\n\
         Content-Type: application/zip\r\n\r\n{module}\r\n--{boundary}--\r\n"
    );
    let kind = format!("multipart/form-data; boundary={boundary}");
    let installed = visitor.request("POST", "/admin-dev/", &[("content-type", &kind)], &body).await;
    assert_eq!(installed.status, 303, "{}", installed.text());
    let home = visitor.page("/").await;
    assert!(home.contains(&format!("<li>Cup {}: 7.50</li>", visitor.word)), "{home}");
    assert!(home.contains(&format!("<li>{}</li>", visitor.word)), "{home}");
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/").await
}

/// Returns a ZIP file with a module that shows this banner. Its version is one with which all bytes are ASCII, because
/// the body of a request is a text here.
fn module_archive(banner: &str) -> String {
    let archives = (10_000..100_000).map(|version| {
        zip("cups/config.json", &format!("{{\"version\":\"{version}\",\"banner\":\"{banner}\"}}"))
    });
    archives.filter_map(|archive| String::from_utf8(archive).ok()).next().expect("one of them is a text")
}
