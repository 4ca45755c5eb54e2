//! A source file that the visitor changes, and the update of the page by a WebSocket.

use crate::support::harness::websocket::receive;
use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "Vite",
    image: "vite",
    shape: "Node with threads of Rust, user `node`, watches of source files, WebSocket",
    template: TemplateText::Lines(
        "warm_up = [\"/\", \"/@vite/client\", \"/src/main.ts\", \"/src/greeting.ts\"]\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    assert!(visitor.page("/").await.contains("/@vite/client"));
    let client = visitor.page("/@vite/client").await;
    assert!(visitor.page("/src/main.ts").await.contains("greeting"));
    // The types are gone.
    let greeting = visitor.page("/src/greeting.ts").await;
    assert!(greeting.contains("Hello from a source file") && !greeting.contains(": string"), "{greeting}");

    let token = between(&client, "const wsToken = \"", "\"");
    let mut socket =
        visitor.socket(&format!("/?token={token}"), "Sec-WebSocket-Protocol: vite-hmr\r\n").await;
    receive(&mut socket, "connected").await;
    let source = format!("export const greeting: string = '{}';\n", visitor.word);
    let saved = visitor.request("PUT", "/editor/greeting.ts", &[], &source).await;
    assert_eq!(saved.status, 204, "{}", saved.text());
    // The server learns of it by its watch of the folder alone.
    let update = receive(&mut socket, "update").await;
    assert_eq!(update["updates"][0]["acceptedPath"], "/src/greeting.ts", "{update}");
    assert!(visitor.page("/src/greeting.ts").await.contains(&visitor.word));
}

async fn shown(visitor: &Visitor) -> String {
    visitor.page("/src/greeting.ts").await
}
