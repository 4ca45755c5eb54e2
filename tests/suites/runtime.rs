//! What every [`Runtime`] promises. An implementation is one `suite!` line and a function that makes it, with the
//! apps to try it with, or says that it cannot be tried here.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use try_it_now::instance::{Endpoint, InstanceId, TemplateName};
use try_it_now::runtime::{Runtime, RuntimeError, StartRequest};
use try_it_now::template::App;

/// Longest time that anything may take here; met only by a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime under test.
pub(crate) struct Subject {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) apps: Apps,
    /// What has to outlive it, such as a folder.
    pub(crate) _place: Box<dyn Any + Send>,
}

/// Apps of the same behaviour in the form that the runtime takes.
pub(crate) struct Apps {
    /// Listens, and says to each connection its `INSTANCE_ID`, `INSTANCE_URL`, `INSTANCE_HOST` and `EXTRA`, a line
    /// each.
    pub(crate) listening: App,
    /// Writes `hello` to its output and runs on.
    pub(crate) talking: App,
    /// Ends with status 3.
    pub(crate) ending: App,
    /// Names a program, `no-such-program`, that does not exist.
    pub(crate) missing: App,
}

/// One test a check.
macro_rules! runtime_suite {
    ($name:ident, $make:path: $($check:ident)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let Some(subject) = $make().await else { return };
                crate::suites::runtime::$check(&subject).await;
                subject.stop_all().await;
            })*
        }
    };
    ($name:ident, $make:path) => {
        runtime_suite!($name, $make:
            an_app_listens_at_its_address_and_knows_its_own
            an_id_that_runs_is_not_started_again
            a_stopped_instance_is_gone
            stopping_what_does_not_run_is_no_error
            two_stops_at_once_both_end_when_it_is_gone
            an_app_that_ends_is_reported_and_leaves_the_list
            a_stopped_instance_reports_no_exit
            a_second_listener_takes_over_from_the_first
            a_missing_program_is_an_error_that_names_it
            the_output_can_be_read_back
            a_stop_during_the_start_leaves_nothing
            a_start_that_nobody_waits_for_leaves_nothing
            fifty_starts_at_once_get_fifty_addresses
        );
    };
}

impl Subject {
    pub(crate) async fn stop_all(&self) {
        for id in self.runtime.list().await.unwrap() {
            self.runtime.stop(&id).await.unwrap();
        }
    }

    async fn start(&self, app: &App) -> (InstanceId, Endpoint) {
        let order = order(app);
        let started = within(self.runtime.start(&order)).await.unwrap();
        (order.id, started.endpoint)
    }
}

pub(crate) fn app(command: &[&str]) -> App {
    App { command: command.iter().map(|&word| word.to_owned()).collect(), ..App::default() }
}

pub(crate) fn order(app: &App) -> StartRequest {
    let id = InstanceId::random(&TemplateName::new("sample").unwrap());
    let host = format!("{id}.localhost");
    let (url, app) = (format!("http://{host}:8080/"), Arc::new(app.clone()));
    StartRequest { url, host, id, app, revision: 1, files: Vec::new(), to_be_frozen: true }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Looks until there is something to see.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let look_on = async {
        loop {
            match look().await {
                Some(seen) => break seen,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(PATIENCE, look_on).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// What the listening app says.
async fn ask(on: &Subject, endpoint: Endpoint) -> Option<String> {
    let mut text = String::new();
    on.runtime.connect(endpoint).await.ok()?.read_to_string(&mut text).await.ok()?;
    Some(text)
}

pub(crate) async fn output(runtime: &dyn Runtime, id: &InstanceId) -> Option<String> {
    Some(String::from_utf8_lossy(&runtime.logs(id).await?).into_owned())
}

pub(crate) async fn an_app_listens_at_its_address_and_knows_its_own(on: &Subject) {
    let mut app = on.apps.listening.clone();
    app.env.insert("EXTRA".to_owned(), "a b=c".to_owned());
    let order = order(&app);
    let endpoint = within(on.runtime.start(&order)).await.unwrap().endpoint;
    let text = until("it answers", async || ask(on, endpoint).await).await;
    assert_eq!(text.lines().collect::<Vec<_>>(), [order.id.as_str(), &order.url, &order.host, "a b=c"]);
    assert_eq!(on.runtime.list().await.unwrap(), [order.id]);
}

pub(crate) async fn an_id_that_runs_is_not_started_again(on: &Subject) {
    let order = order(&on.apps.listening);
    let endpoint = within(on.runtime.start(&order)).await.unwrap().endpoint;
    assert!(matches!(within(on.runtime.start(&order)).await, Err(RuntimeError::Start(_))));
    until("it answers still", async || ask(on, endpoint).await).await;
}

pub(crate) async fn a_stopped_instance_is_gone(on: &Subject) {
    let (id, endpoint) = on.start(&on.apps.listening).await;
    until("it answers", async || ask(on, endpoint).await).await;
    within(on.runtime.stop(&id)).await.unwrap();
    assert!(on.runtime.connect(endpoint).await.is_err());
    assert!(on.runtime.list().await.unwrap().is_empty());
    assert_eq!(on.runtime.logs(&id).await, None);
}

pub(crate) async fn stopping_what_does_not_run_is_no_error(on: &Subject) {
    let (id, _) = on.start(&on.apps.talking).await;
    within(on.runtime.stop(&id)).await.unwrap();
    within(on.runtime.stop(&id)).await.unwrap();
    within(on.runtime.stop(&order(&on.apps.talking).id)).await.unwrap();
}

pub(crate) async fn two_stops_at_once_both_end_when_it_is_gone(on: &Subject) {
    let (id, _) = on.start(&on.apps.talking).await;
    let stop = || async {
        on.runtime.stop(&id).await.unwrap();
        assert!(on.runtime.list().await.unwrap().is_empty());
    };
    within(async { tokio::join!(stop(), stop()) }).await;
}

pub(crate) async fn an_app_that_ends_is_reported_and_leaves_the_list(on: &Subject) {
    let mut exits = on.runtime.exits();
    let (id, _) = on.start(&on.apps.ending).await;
    let exit = within(exits.recv()).await.unwrap();
    assert_eq!((exit.id, exit.how.as_str()), (id, "exit status 3"));
    until("it is off the list", async || on.runtime.list().await.unwrap().is_empty().then_some(())).await;
}

pub(crate) async fn a_stopped_instance_reports_no_exit(on: &Subject) {
    let mut exits = on.runtime.exits();
    let (stopped, _) = on.start(&on.apps.talking).await;
    within(on.runtime.stop(&stopped)).await.unwrap();
    // What comes first now is the end of another one.
    let (ended, _) = on.start(&on.apps.ending).await;
    assert_eq!(within(exits.recv()).await.unwrap().id, ended);
}

pub(crate) async fn a_second_listener_takes_over_from_the_first(on: &Subject) {
    let mut first = on.runtime.exits();
    let mut second = on.runtime.exits();
    let (id, _) = on.start(&on.apps.ending).await;
    assert_eq!(within(second.recv()).await.unwrap().id, id);
    assert_eq!(within(first.recv()).await, None);
}

pub(crate) async fn a_missing_program_is_an_error_that_names_it(on: &Subject) {
    let error = within(on.runtime.start(&order(&on.apps.missing))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    assert!(on.runtime.list().await.unwrap().is_empty());
}

pub(crate) async fn the_output_can_be_read_back(on: &Subject) {
    let (id, _) = on.start(&on.apps.talking).await;
    let read = async || output(&*on.runtime, &id).await.filter(|text| text == "hello\n");
    until("the output is there", read).await;
}

pub(crate) async fn a_stop_during_the_start_leaves_nothing(on: &Subject) {
    let order = order(&on.apps.talking);
    let start = on.runtime.start(&order);
    let stop = async {
        until("it is on the list", async || on.runtime.list().await.unwrap().pop()).await;
        on.runtime.stop(&order.id).await.unwrap();
        assert!(on.runtime.list().await.unwrap().is_empty());
    };
    // Either the start had been done, or it says that it was stopped.
    let (started, ()) = within(async { tokio::join!(start, stop) }).await;
    assert!(matches!(started, Ok(_) | Err(RuntimeError::Start(_))), "{started:?}");
    assert!(on.runtime.list().await.unwrap().is_empty());
}

pub(crate) async fn a_start_that_nobody_waits_for_leaves_nothing(on: &Subject) {
    let order = order(&on.apps.talking);
    let mut start = on.runtime.start(&order);
    let begun = async || on.runtime.list().await.unwrap().pop();
    tokio::select! {
        biased;
        _ = &mut start => {}
        _ = until("it is on the list", begun) => {}
    }
    drop(start);
    // It may have been done before it was dropped: then it is an instance like any other.
    let settled = async || {
        let speaks = output(&*on.runtime, &order.id).await.is_some_and(|text| !text.is_empty());
        (speaks || on.runtime.list().await.unwrap().is_empty()).then_some(())
    };
    until("it is gone or runs", settled).await;
}

pub(crate) async fn fifty_starts_at_once_get_fifty_addresses(on: &Subject) {
    let starts = (0..50).map(|_| async { on.start(&on.apps.talking).await.1 });
    let addresses: HashSet<_> = futures_util::future::join_all(starts).await.into_iter().collect();
    assert_eq!(addresses.len(), 50);
    assert_eq!(on.runtime.list().await.unwrap().len(), 50);
    let stops = on.runtime.list().await.unwrap();
    within(futures_util::future::join_all(stops.iter().map(|id| on.runtime.stop(id)))).await;
    assert!(on.runtime.list().await.unwrap().is_empty());
}
