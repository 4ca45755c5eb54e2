//! `GET /`: the front page, with what can be tried and the instances that the visitor has.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::timeout;

use super::instance_cookie::{self, ClaimedInstance};
use crate::api::access::has_token;
use crate::api::pages::{self, RunningInstance, TemplateCard};
use crate::api::ready_counts::ReadyCounts;
use crate::api::{Api, ApiError, ApiRequest, Body, response};
use crate::instance::{Instance, InstanceId, State};

/// Longest wait for the first counts: as long as a query of the store may take.
const MAX_COUNTS_WAIT: Duration = Duration::from_secs(1);

/// Maximum number of a visitor's cookies for which the store is queried.
const MAX_COOKIES: usize = 8;

impl Api {
    pub(in crate::api) async fn front_page(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<Response<Body>, ApiError> {
        // Without the store the page still shows the templates.
        let counts = self.ready_counts().await;
        let (running, ended) = self.visitors_instances(&request).await;
        let templates = self.claims.templates();
        let cards: Vec<TemplateCard<'_>> = templates
            .iter()
            .map(|template| {
                let name = template.name.as_str();
                TemplateCard {
                    name,
                    title: &template.title,
                    description: &template.description,
                    ttl: template.ttl,
                    ready: counts.as_ref().map_or(0, |counts| counts.of_template(name)),
                    running: running.iter().find(|r| r.template == name),
                }
            })
            .collect();
        let mut response = response::html(StatusCode::OK, pages::front_page(&cards));
        for id in &ended {
            instance_cookie::clear(&mut response, id.template(), request.context.client.is_secure);
        }
        Ok(response)
    }

    /// Returns the numbers of ready instances as they were at most a second ago, or as they were known last while the
    /// store is away; `None` if they never were.
    async fn ready_counts(&self) -> Option<Arc<ReadyCounts>> {
        let mut counts = self.ready_ticker.watch();
        let first = timeout(MAX_COUNTS_WAIT, counts.wait_for(Option::is_some)).await;
        first.ok()?.ok()?.clone()
    }

    /// Returns the instances in the visitor's cookies that still run, and the ids of those that have ended or whose
    /// token is wrong.
    async fn visitors_instances(&self, request: &ApiRequest<'_>) -> (Vec<RunningInstance>, Vec<InstanceId>) {
        let (now, asker) = (self.clock.now(), self.asker(request));
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        let cookies = instance_cookie::read(&request.head.headers, request.context.client.is_secure);
        for ClaimedInstance { id, token } in cookies.take(MAX_COOKIES) {
            // If the store does not answer, the instance may still run, so its cookie stays.
            let Ok(found) = self.instances.get(&id, asker).await else { continue };
            let found = found.filter(|instance| has_token(instance, token));
            let credentials = found.as_ref().and_then(|instance| self.instances.credentials(instance));
            match found.as_ref().map(Instance::state) {
                Some(State::Assigned { lease, .. }) => running.push(RunningInstance {
                    template: id.template().to_owned(),
                    id: id.to_string(),
                    url: self.public_url.instance_url(&id),
                    remaining: lease.remaining(now),
                    credentials: credentials.map(|text| text.reveal().to_owned()),
                }),
                _ => ended.push(id),
            }
        }
        (running, ended)
    }
}
