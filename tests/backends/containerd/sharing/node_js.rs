//! Instances of a Node.js app, whose garbage collector moves objects and discards memory all the time.

use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ImageRef};

use super::memory;
use crate::containerd::{REVISION, TestNode, send_command, start, with_timeout};
use crate::support::stack;

/// Mebibytes that the app has in V8's heap.
const HEAP: u64 = 64;

/// Keeps a list that is far larger than all else, and executes the one line that each visitor sends.
const LIST_APP: &str = r#"
const all = [];
const entry = (i) => ({ i, text: "entry " + i, twice: [2 * i] });
for (let i = 0; process.memoryUsage().heapUsed < 64 * 2 ** 20; i++) all.push(entry(i));
let wrong = [];
const isRight = (i) => all[i].i === i && all[i].text === "entry " + i && all[i].twice[0] === 2 * i;
const does = {
  set: (i, text) => { all[i].text = text; },
  get: (i) => all[i].text,
  right: () => all.length + " with " + all.filter((_, i) => !isRight(i)).length + " wrong",
  // Creates and drops objects, texts and buffers. New buffers are zero, whatever was there before.
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

async fn check_list(runtime: &dyn Runtime, app_endpoint: Endpoint) -> String {
    send_command(runtime, app_endpoint, "right").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_node_js_app_share_its_heap_and_stay_correct_through_garbage_collections() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let image = Some(ImageRef::Tar(stack::image_archive("node")));
    let command = ["/usr/bin/node", "--expose-gc", "-e", LIST_APP];
    let app = App { image, port: 8080, ..crate::suites::runtime::app(&command) };
    let (id, started) = start(&runtime, &app).await;
    assert_eq!(send_command(&runtime, started.endpoint, "churn").await, "fine");
    let correct = check_list(&runtime, started.endpoint).await;
    assert!(correct.ends_with(" with 0 wrong"), "{correct}");
    let (before, _) = memory(id.as_str());
    assert!(before > HEAP << 20, "{before} bytes");
    with_timeout(runtime.bake(&id, REVISION, &app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &app).await.unwrap();
    assert!(about.starts_with("instances share "), "{about}");

    let mut instances = Vec::new();
    for number in 0..3 {
        let (id, instance) = start(&runtime, &app).await;
        assert_eq!(instance.method, StartMethod::Restored);
        let (private, _) = memory(id.as_str());
        assert!(private < before / 4, "{private} bytes of its own, {before} of a started one");
        send_command(&runtime, instance.endpoint, &format!("set 7 of-instance-{number}")).await;
        instances.push((id, instance.endpoint));
    }
    let changed = correct.replace(" 0 wrong", " 1 wrong");
    for round in 0..3 {
        for (number, (_, instance)) in instances.iter().enumerate() {
            assert_eq!(
                send_command(&runtime, *instance, "churn").await,
                "fine",
                "instance {number}, round {round}"
            );
            assert_eq!(send_command(&runtime, *instance, "get 7").await, format!("of-instance-{number}"));
            assert_eq!(check_list(&runtime, *instance).await, changed, "instance {number}, round {round}");
        }
    }
    for (id, _) in instances {
        with_timeout(runtime.stop(&id)).await.unwrap();
    }
}
