//! `GET /`: the front page.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header};

use super::page_actions::add_cookie;
use crate::api::pages;
use crate::api::pages::{Card, Running};
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::{Instance, InstanceId, State};

/// Most cookies that the page asks the store about.
const MOST_COOKIES: usize = 8;
/// The name of the cookie that holds a visitor's instance of a template, in front of the template's name.
const COOKIE: &str = "instance-";

impl Api {
    pub(crate) async fn front(&self, asked: ApiRequest<'_>) -> Result<Response<Body>, ApiError> {
        // Without the store the page still shows what there is to try.
        let stats = self.pool.stats().await.unwrap_or_default();
        let (running, ended) = self.running(&asked.parts.headers).await;
        let templates = self.pool.templates();
        let cards: Vec<Card<'_>> = templates
            .iter()
            .map(|template| {
                let name = template.name.as_str();
                Card {
                    name,
                    title: &template.title,
                    description: &template.description,
                    ttl: template.ttl,
                    ready: stats.iter().find(|s| s.template == name).map_or(0, |s| s.stats.ready),
                    running: running.iter().find(|r| r.template == name),
                }
            })
            .collect();
        let mut answer = response::html(StatusCode::OK, pages::front(&cards));
        for id in &ended {
            add_cookie(&mut answer, &clear_cookie(id.template()));
        }
        Ok(answer)
    }

    /// The instances in the visitor's cookies that still run, and those that do not.
    async fn running(&self, headers: &HeaderMap) -> (Vec<Running>, Vec<InstanceId>) {
        let now = self.pool.clock().now();
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for id in cookies(headers).take(MOST_COOKIES) {
            // Not known for now is not the same as gone.
            let Ok(found) = self.pool.get(&id).await else { continue };
            let credentials = found.as_ref().and_then(|instance| self.pool.credentials(instance));
            match found.as_ref().map(Instance::life) {
                Some(State::Assigned { lease, .. }) => running.push(Running {
                    template: id.template().to_owned(),
                    id: id.to_string(),
                    url: self.pool.address().instance_url(&id),
                    remaining: lease.remaining(now),
                    credentials: credentials.map(|text| text.reveal().to_owned()),
                }),
                _ => ended.push(id),
            }
        }
        (running, ended)
    }
}

/// The instance ids in our cookies.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = InstanceId> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| {
            let (template, id) = pair.trim().strip_prefix(COOKIE)?.split_once('=')?;
            InstanceId::parse(id).ok().filter(|id| id.template() == template)
        })
}

/// The cookie that lets the front page show an instance. It lasts for `longest`, the longest time that the lease can
/// be extended to: whether the instance still runs, the page asks the store.
pub(crate) fn set_cookie(id: &InstanceId, longest: Duration, secure: bool) -> String {
    let (seconds, secure) = (longest.as_secs(), if secure { "; Secure" } else { "" });
    format!("{COOKIE}{}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", id.template())
}

/// Takes that cookie away.
pub(crate) fn clear_cookie(template: &str) -> String {
    format!("{COOKIE}{template}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
}
