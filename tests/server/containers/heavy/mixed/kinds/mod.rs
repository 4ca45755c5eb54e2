//! All kinds of traffic: what is sent, and what the answer must be.

mod chunked;
mod half_closed;
mod http10;
mod http2;
mod keep_alive;
mod long_polls;
mod pages;
mod ranges;
mod redirects;
mod streams;
mod uploads;
mod websockets;

use std::time::Duration;

use super::load::Kind;

/// One kind: name, weight, requests, milliseconds that the app takes on purpose, function.
macro_rules! kinds {
    ($($name:literal $weight:literal x $requests:literal + $takes:literal ms: $run:path;)*) => {
        &[$(Kind {
            name: $name,
            weight: $weight,
            requests: $requests,
            takes: Duration::from_millis($takes),
            run: |apps, number| Box::pin(async move { $run(&apps, number).await }),
        }),*]
    };
}

/// The mix. A cycle has about 280 requests, of which Node-RED, the slowest for its work, gets a fifth.
pub(super) const KINDS: &[Kind] = kinds! {
    "half-closed GET" 6 x 1 + 0 ms: half_closed::get;
    "half-closed POST" 2 x 1 + 0 ms: half_closed::post;
    "half-closed API" 1 x 1 + 0 ms: half_closed::api;
    "HTTP/1.0 GET" 6 x 1 + 0 ms: http10::get;
    "HTTP/1.0 POST" 2 x 1 + 0 ms: http10::post;
    "HTTP/1.0 keep-alive" 2 x 2 + 0 ms: http10::keep_alive;
    "HTTP/1.0 health check" 1 x 1 + 0 ms: http10::health_check;
    "HTTP/2 cookies" 14 x 1 + 0 ms: http2::cookies;
    "HTTP/2 fields" 2 x 1 + 0 ms: http2::fields;
    "HTTP/2 POST" 2 x 1 + 0 ms: http2::post;
    "HTTP/2 eight streams" 3 x 8 + 0 ms: http2::eight_streams;
    "HTTP/2 long poll" 1 x 1 + 700 ms: http2::long_poll;
    "events" 2 x 1 + 700 ms: streams::events;
    "events after a silence" 1 x 1 + 12_000 ms: streams::events_after_a_silence;
    "slow file" 1 x 1 + 1400 ms: streams::slow_file;
    "long poll" 2 x 1 + 1500 ms: long_polls::poll;
    "long poll of HTTP/1.0" 1 x 1 + 800 ms: long_polls::poll_by_http10;
    "upload" 3 x 1 + 0 ms: uploads::with_length;
    "upload in chunks" 3 x 1 + 0 ms: uploads::in_chunks;
    "upload after 100" 2 x 1 + 0 ms: uploads::after_continue;
    "upload, download, delete" 5 x 4 + 0 ms: uploads::there_and_back;
    "chunks both ways" 3 x 1 + 0 ms: chunked::both_ways;
    "WebSocket" 2 x 1 + 0 ms: websockets::echo;
    "range" 18 x 1 + 0 ms: ranges::one;
    "last bytes" 4 x 1 + 0 ms: ranges::last_bytes;
    "two ranges" 4 x 1 + 0 ms: ranges::two;
    "range beyond the end" 2 x 1 + 0 ms: ranges::beyond_the_end;
    "unchanged file" 4 x 2 + 0 ms: ranges::unchanged;
    "compressed file" 3 x 1 + 0 ms: ranges::compressed;
    "HEAD" 3 x 4 + 0 ms: keep_alive::head;
    "keep-alive" 6 x 4 + 0 ms: keep_alive::in_turn;
    "pipelining" 5 x 6 + 0 ms: keep_alive::pipelined;
    "redirect of nginx" 4 x 1 + 0 ms: redirects::nginx;
    "redirect of Node-RED" 2 x 1 + 0 ms: redirects::node_red;
    "redirect of WordPress" 1 x 1 + 0 ms: redirects::wordpress;
    "note of PHP" 6 x 1 + 0 ms: pages::note;
    "page of PHP" 10 x 1 + 0 ms: pages::php;
    "style of PHP" 8 x 1 + 0 ms: pages::style;
    "order of node" 14 x 1 + 0 ms: pages::order;
    "page of node" 14 x 1 + 0 ms: pages::shop;
    "own cookie of Node-RED" 4 x 1 + 0 ms: pages::own_cookie;
    "page of WordPress" 1 x 1 + 0 ms: pages::wordpress;
    "session of WordPress" 1 x 1 + 0 ms: pages::session;
    "script of WordPress" 3 x 1 + 0 ms: pages::script;
};

pub(super) use pages::publish;
