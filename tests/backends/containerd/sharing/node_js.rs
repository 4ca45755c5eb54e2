//! Copies of an app in node, whose collector of garbage moves objects about and gives memory up all the time.

use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, Image};

use super::memory;
use crate::containerd::{Place, REVISION, start, tell, within};
use crate::support::stack;

/// Mebibytes that it has in V8's heap.
const HEAP: u64 = 64;

/// Keeps a list that is far longer than all else, and does what each visitor's one line says.
const KEEPER: &str = r#"
const all = [];
const entry = (i) => ({ i, text: "entry " + i, twice: [2 * i] });
for (let i = 0; process.memoryUsage().heapUsed < 64 * 2 ** 20; i++) all.push(entry(i));
let wrong = [];
const isRight = (i) => all[i].i === i && all[i].text === "entry " + i && all[i].twice[0] === 2 * i;
const does = {
  set: (i, text) => { all[i].text = text; },
  get: (i) => all[i].text,
  right: () => all.length + " with " + all.filter((_, i) => !isRight(i)).length + " wrong",
  // Objects, texts and buffers come and go; what is new is empty, whatever was there before.
  churn: () => {
    for (let round = 0; round < 8; round++) {
      const some = Array.from({ length: 50000 }, (_, i) => entry(i));
      const buffers = Array.from({ length: 64 }, (_, i) => (i % 2 ? new Uint8Array(100000) : Buffer.alloc(200000)));
      if (buffers.some((buffer) => buffer.some((byte) => byte !== 0))) wrong.push("a buffer");
      buffers.forEach((buffer) => buffer.fill(255));
      if (some.some((it, i) => it.i !== i || it.text !== "entry " + i)) wrong.push("an object");
      some.length = 0;
      gc();
    }
    return wrong.join() || "fine";
  },
};
require("net").createServer((visitor) => {
  visitor.on("error", () => {});
  visitor.once("data", (line) => {
    const [what, ...words] = String(line).trim().split(" ");
    visitor.end(String(does[what]?.(...words) ?? "done"));
  });
}).listen(Number(process.env.PORT));
"#;

async fn counted(runtime: &dyn Runtime, keeper: Endpoint) -> String {
    tell(runtime, keeper, "right").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_an_app_in_node_share_its_heap_and_are_right_however_much_garbage_there_is() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let image = Some(Image::Tar(stack::image("node")));
    let command = ["/usr/bin/node", "--expose-gc", "-e", KEEPER];
    let app = App { image, port: 8080, ..crate::suites::runtime::app(&command) };
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(tell(&runtime, started.endpoint, "churn").await, "fine");
    let right = counted(&runtime, started.endpoint).await;
    assert!(right.ends_with(" with 0 wrong"), "{right}");
    let (before, _) = memory(id.as_str());
    assert!(before > HEAP << 20, "{before} bytes");
    within(runtime.bake(&id, REVISION, &app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    assert!(about.starts_with("copies share "), "{about}");

    let mut copies = Vec::new();
    for number in 0..3 {
        let (id, copy) = start(&runtime, &app).await;
        assert_eq!(copy.how, StartMethod::Restored);
        let (private, _) = memory(id.as_str());
        assert!(private < before / 4, "{private} bytes of its own, {before} of a started one");
        tell(&runtime, copy.endpoint, &format!("set 7 of-copy-{number}")).await;
        copies.push((id, copy.endpoint));
    }
    let changed = right.replace(" 0 wrong", " 1 wrong");
    for round in 0..3 {
        for (number, (_, copy)) in copies.iter().enumerate() {
            assert_eq!(tell(&runtime, *copy, "churn").await, "fine", "copy {number}, round {round}");
            assert_eq!(tell(&runtime, *copy, "get 7").await, format!("of-copy-{number}"));
            assert_eq!(counted(&runtime, *copy).await, changed, "copy {number}, round {round}");
        }
    }
    for (id, _) in copies {
        within(runtime.stop(&id)).await.unwrap();
    }
}
