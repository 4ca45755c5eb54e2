//! What a hostile program in a container may ask of the kernel, after a cold start and after a restore: system calls,
//! sockets, namespaces, files of `/proc`.

use super::{
    App, REVISION, Runtime, StartMethod, Started, TestNode, bake, compiled_program, send_command, start,
    with_timeout,
};

mod calls;
mod checkpoint_files;
mod procfs;
mod shared_resources;

/// Returns an app that is only the hostile program.
fn hostile_app(test_node: &TestNode) -> App {
    let image = compiled_program::image(test_node, "walls/walls.c", &[], "walls");
    App { image: Some(image), port: 8080, ..crate::suites::runtime::app(&["/walls"]) }
}

/// Sends the questions to a hostile instance after a cold start, and to one that runc and one that this program
/// restored, beside a good instance that has to go on. `judge` gets how the instance
/// was started, and the answers.
async fn ask(questions: &[&str], judge: impl Fn(&str, &[String])) {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let good = bake(&runtime).await;
    let (_, good) = start(&runtime, &good).await;
    let app = hostile_app(&test_node);
    let (cold, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Cold);
    judge("cold", &answers(&runtime, &started, questions).await);
    with_timeout(runtime.bake(&cold, REVISION, &app)).await.unwrap();
    for name in ["restored by runc", "restored by this program"] {
        let (_, started) = start(&runtime, &app).await;
        assert_eq!(started.method, StartMethod::Restored);
        judge(name, &answers(&runtime, &started, questions).await);
    }
    assert_eq!(send_command(&runtime, good.endpoint, "add").await, "2 old");
}

async fn answers(runtime: &dyn Runtime, started: &Started, questions: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    for question in questions {
        answers.push(send_command(runtime, started.endpoint, question).await);
    }
    answers
}
