//! The conformance suite of the [`Runtime`] trait. A new runtime adds one `runtime_suite!` line in `tests/backends` and
//! a function that returns the runtime and the apps to test it with, or `None` if it cannot be tested here.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use try_it_now::instance::{Endpoint, InstanceId, TemplateName};
use try_it_now::runtime::{Runtime, RuntimeError, StartRequest};
use try_it_now::template::App;

/// The longest time that any step here may take. Only a failure takes that long.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// A runtime under test.
pub(crate) struct RuntimeUnderTest {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) apps: TestApps,
    /// What must live as long as the runtime, such as a folder.
    pub(crate) _keep_alive: Box<dyn Any + Send>,
}

/// Apps with the same behaviour in the form that the runtime takes.
pub(crate) struct TestApps {
    /// Listens, and sends its `INSTANCE_ID`, `INSTANCE_URL`, `INSTANCE_HOST` and `EXTRA`, a line each, to each
    /// connection.
    pub(crate) listening: App,
    /// Writes `hello` to its output and keeps running.
    pub(crate) talking: App,
    /// Exits with status 3.
    pub(crate) ending: App,
    /// Names a program that does not exist, `no-such-program`.
    pub(crate) missing: App,
}

/// Makes one test of each check, for one runtime.
macro_rules! runtime_suite {
    ($name:ident, $make:path: $($check:ident)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let Some(rt) = $make().await else { return };
                crate::suites::runtime::$check(&rt).await;
                rt.stop_all().await;
            })*
        }
    };
    ($name:ident, $make:path) => {
        runtime_suite!($name, $make:
            an_app_listens_at_its_endpoint_and_knows_its_own_address
            an_instance_that_runs_is_not_started_again
            a_stopped_instance_is_gone
            stopping_an_instance_that_does_not_run_is_no_error
            two_concurrent_stops_both_return_when_the_instance_is_gone
            an_app_that_ends_is_reported_and_leaves_the_list
            a_stopped_instance_reports_no_exit
            a_second_listener_takes_over_from_the_first
            a_missing_program_is_an_error_that_names_it
            the_output_can_be_read_back
            a_stop_during_the_start_leaves_nothing
            a_start_that_is_dropped_leaves_nothing
            fifty_concurrent_starts_get_fifty_addresses
        );
    };
}

impl RuntimeUnderTest {
    pub(crate) async fn stop_all(&self) {
        for id in self.runtime.list().await.unwrap() {
            self.runtime.stop(&id).await.unwrap();
        }
    }

    async fn start(&self, app: &App) -> (InstanceId, Endpoint) {
        let request = start_request(app);
        let started = with_timeout(self.runtime.start(&request)).await.unwrap();
        (request.id, started.endpoint)
    }
}

pub(crate) fn app(command: &[&str]) -> App {
    App { command: command.iter().map(|&word| word.to_owned()).collect(), ..App::default() }
}

pub(crate) fn start_request(app: &App) -> StartRequest {
    let id = InstanceId::random(&TemplateName::new("sample").unwrap());
    let host = format!("{id}.localhost");
    let (url, app) = (format!("http://{host}:8080/"), Arc::new(app.clone()));
    StartRequest { will_be_baked: true, ..StartRequest::new(id, url, host, app, 1) }
}

pub(crate) async fn with_timeout<F: Future>(future: F) -> F::Output {
    timeout(MAX_WAIT, future).await.expect("timed out")
}

/// Polls until there is a result. Panics after [`MAX_WAIT`].
pub(crate) async fn wait_until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            match poll().await {
                Some(seen) => break seen,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(MAX_WAIT, polling).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Returns what the listening app sends.
async fn read_from(rt: &RuntimeUnderTest, endpoint: Endpoint) -> Option<String> {
    let mut text = String::new();
    rt.runtime.connect(endpoint).await.ok()?.read_to_string(&mut text).await.ok()?;
    Some(text)
}

pub(crate) async fn output(runtime: &dyn Runtime, id: &InstanceId) -> Option<String> {
    Some(String::from_utf8_lossy(&runtime.logs(id).await?).into_owned())
}

pub(crate) async fn an_app_listens_at_its_endpoint_and_knows_its_own_address(rt: &RuntimeUnderTest) {
    let mut app = rt.apps.listening.clone();
    app.env.insert("EXTRA".to_owned(), "a b=c".to_owned());
    let request = start_request(&app);
    let endpoint = with_timeout(rt.runtime.start(&request)).await.unwrap().endpoint;
    let text = wait_until("it answers", async || read_from(rt, endpoint).await).await;
    assert_eq!(text.lines().collect::<Vec<_>>(), [request.id.as_str(), &request.url, &request.host, "a b=c"]);
    assert_eq!(rt.runtime.list().await.unwrap(), [request.id]);
}

pub(crate) async fn an_instance_that_runs_is_not_started_again(rt: &RuntimeUnderTest) {
    let request = start_request(&rt.apps.listening);
    let endpoint = with_timeout(rt.runtime.start(&request)).await.unwrap().endpoint;
    assert!(matches!(with_timeout(rt.runtime.start(&request)).await, Err(RuntimeError::Start(_))));
    wait_until("it answers still", async || read_from(rt, endpoint).await).await;
}

pub(crate) async fn a_stopped_instance_is_gone(rt: &RuntimeUnderTest) {
    let (id, endpoint) = rt.start(&rt.apps.listening).await;
    wait_until("it answers", async || read_from(rt, endpoint).await).await;
    with_timeout(rt.runtime.stop(&id)).await.unwrap();
    assert!(rt.runtime.connect(endpoint).await.is_err());
    assert!(rt.runtime.list().await.unwrap().is_empty());
    assert_eq!(rt.runtime.logs(&id).await, None);
}

pub(crate) async fn stopping_an_instance_that_does_not_run_is_no_error(rt: &RuntimeUnderTest) {
    let (id, _) = rt.start(&rt.apps.talking).await;
    with_timeout(rt.runtime.stop(&id)).await.unwrap();
    with_timeout(rt.runtime.stop(&id)).await.unwrap();
    with_timeout(rt.runtime.stop(&start_request(&rt.apps.talking).id)).await.unwrap();
}

pub(crate) async fn two_concurrent_stops_both_return_when_the_instance_is_gone(rt: &RuntimeUnderTest) {
    let (id, _) = rt.start(&rt.apps.talking).await;
    let stop = || async {
        rt.runtime.stop(&id).await.unwrap();
        assert!(rt.runtime.list().await.unwrap().is_empty());
    };
    with_timeout(async { tokio::join!(stop(), stop()) }).await;
}

pub(crate) async fn an_app_that_ends_is_reported_and_leaves_the_list(rt: &RuntimeUnderTest) {
    let mut exits = rt.runtime.exits();
    let (id, _) = rt.start(&rt.apps.ending).await;
    let exit = with_timeout(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.cause.as_str()), (id, "exit status 3"));
    wait_until("it is off the list", async || rt.runtime.list().await.unwrap().is_empty().then_some(()))
        .await;
}

pub(crate) async fn a_stopped_instance_reports_no_exit(rt: &RuntimeUnderTest) {
    let mut exits = rt.runtime.exits();
    let (stopped, _) = rt.start(&rt.apps.talking).await;
    with_timeout(rt.runtime.stop(&stopped)).await.unwrap();
    // The first exit that is reported now is that of the second instance.
    let (ended, _) = rt.start(&rt.apps.ending).await;
    assert_eq!(with_timeout(exits.recv()).await.unwrap().id, ended);
}

pub(crate) async fn a_second_listener_takes_over_from_the_first(rt: &RuntimeUnderTest) {
    let mut first = rt.runtime.exits();
    let mut second = rt.runtime.exits();
    let (id, _) = rt.start(&rt.apps.ending).await;
    assert_eq!(with_timeout(second.recv()).await.unwrap().id, id);
    assert_eq!(with_timeout(first.recv()).await, None);
}

pub(crate) async fn a_missing_program_is_an_error_that_names_it(rt: &RuntimeUnderTest) {
    let error = with_timeout(rt.runtime.start(&start_request(&rt.apps.missing))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    assert!(rt.runtime.list().await.unwrap().is_empty());
}

pub(crate) async fn the_output_can_be_read_back(rt: &RuntimeUnderTest) {
    let (id, _) = rt.start(&rt.apps.talking).await;
    let read = async || output(&*rt.runtime, &id).await.filter(|text| text == "hello\n");
    wait_until("the output is there", read).await;
}

pub(crate) async fn a_stop_during_the_start_leaves_nothing(rt: &RuntimeUnderTest) {
    let request = start_request(&rt.apps.talking);
    let start = rt.runtime.start(&request);
    let stop = async {
        wait_until("it is on the list", async || rt.runtime.list().await.unwrap().pop()).await;
        rt.runtime.stop(&request.id).await.unwrap();
        assert!(rt.runtime.list().await.unwrap().is_empty());
    };
    // Either the start had succeeded, or it reports that it was stopped.
    let (started, ()) = with_timeout(async { tokio::join!(start, stop) }).await;
    assert!(matches!(started, Ok(_) | Err(RuntimeError::Start(_))), "{started:?}");
    assert!(rt.runtime.list().await.unwrap().is_empty());
}

pub(crate) async fn a_start_that_is_dropped_leaves_nothing(rt: &RuntimeUnderTest) {
    let request = start_request(&rt.apps.talking);
    let mut start = rt.runtime.start(&request);
    let begun = async || rt.runtime.list().await.unwrap().pop();
    tokio::select! {
        biased;
        _ = &mut start => {}
        _ = wait_until("it is on the list", begun) => {}
    }
    drop(start);
    // It may have succeeded before it was dropped. Then it is an instance like any other.
    let settled = async || {
        let speaks = output(&*rt.runtime, &request.id).await.is_some_and(|text| !text.is_empty());
        (speaks || rt.runtime.list().await.unwrap().is_empty()).then_some(())
    };
    wait_until("it is gone or runs", settled).await;
}

pub(crate) async fn fifty_concurrent_starts_get_fifty_addresses(rt: &RuntimeUnderTest) {
    let starts = (0..50).map(|_| async { rt.start(&rt.apps.talking).await.1 });
    let addresses: HashSet<_> = futures_util::future::join_all(starts).await.into_iter().collect();
    assert_eq!(addresses.len(), 50);
    assert_eq!(rt.runtime.list().await.unwrap().len(), 50);
    let stops = rt.runtime.list().await.unwrap();
    with_timeout(futures_util::future::join_all(stops.iter().map(|id| rt.runtime.stop(id)))).await;
    assert!(rt.runtime.list().await.unwrap().is_empty());
}
