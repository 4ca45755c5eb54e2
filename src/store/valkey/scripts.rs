//! The scripts: each transition is one call of one of them, so all of it happens or none.

use redis::Script;

/// All of them, each made once: a script is known to Valkey by the hash of its text.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) insert: Script,
    pub(super) offer: Script,
    pub(super) claim: Script,
    pub(super) confirm: Script,
    pub(super) take_back: Script,
    pub(super) read: Script,
    pub(super) extend: Script,
    pub(super) release: Script,
    pub(super) retire: Script,
    pub(super) fail: Script,
    pub(super) sweep: Script,
    pub(super) node: Script,
    pub(super) routes: Script,
    pub(super) events: Script,
    pub(super) beat: Script,
    pub(super) roster: Script,
    pub(super) drain: Script,
    pub(super) bury: Script,
}

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(
            include_str!("scripts/prelude.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        ))
    };
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            insert: script!("insert"),
            offer: script!("offer"),
            claim: script!("claim"),
            confirm: script!("confirm"),
            take_back: script!("take_back"),
            read: script!("read"),
            extend: script!("extend"),
            release: script!("release"),
            retire: script!("retire"),
            fail: script!("fail"),
            sweep: script!("sweep"),
            node: script!("node"),
            routes: script!("routes"),
            events: script!("events"),
            beat: script!("beat"),
            roster: script!("roster"),
            drain: script!("drain"),
            bury: script!("bury"),
        }
    }
}
