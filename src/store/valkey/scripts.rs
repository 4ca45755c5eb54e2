//! The scripts: each transition is one call of one of them, so all of it happens or none.
//!
//! A *step* reads or changes instances. Its text begins with the tenure of the store, and it is known to Valkey by the hash
//! of its text: so only a process that was told it under that tenure does it. See [`super::recovery`].

use redis::{RedisResult, Script, cmd};

use super::connection::Transport;

/// A script that reads or changes instances.
#[derive(Debug)]
pub(super) struct GatedScript {
    /// Its place among all steps.
    index: usize,
    text: &'static str,
}

/// All steps, each with its hash, in the words of one tenure.
#[derive(Debug)]
pub(super) struct LoadedScripts(Vec<(String, String)>);

impl LoadedScripts {
    pub(super) fn hash(&self, step: &GatedScript) -> &str {
        &self.0[step.index].1
    }

    /// Tells them to the server at the other end.
    pub(super) async fn load(&self, wire: &mut Transport) -> RedisResult<()> {
        let mut all = redis::pipe();
        for (text, _) in &self.0 {
            all.add_command(cmd("SCRIPT").arg("LOAD").arg(text).clone()).ignore();
        }
        all.query_async(wire).await
    }
}

macro_rules! text {
    (once $name:expr) => {
        concat!(
            include_str!("scripts/prelude.lua"),
            include_str!("scripts/once.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        )
    };
    ($name:expr) => {
        concat!(include_str!("scripts/prelude.lua"), include_str!(concat!("scripts/", $name, ".lua")))
    };
}

macro_rules! scripts {
    (
        steps done once: $($change:ident)*; steps: $($step:ident)*;
        others done once: $($named:ident)*; others: $($other:ident)*;
    ) => {
        /// All of them, each made once. What is done once has a name for each call, see `once.lua`.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $change: GatedScript,)*
            $(pub(super) $step: GatedScript,)*
            $(pub(super) $named: Script,)*
            $(pub(super) $other: Script,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                let mut indices = 0..;
                let mut step = |text| GatedScript { index: indices.next().expect("there is no end of them"), text };
                Self {
                    $($change: step(text!(once stringify!($change))),)*
                    $($step: step(text!(stringify!($step))),)*
                    $($named: Script::new(text!(once stringify!($named))),)*
                    $($other: Script::new(text!(stringify!($other))),)*
                }
            }

            fn steps(&self) -> Vec<&GatedScript> {
                vec![$(&self.$change,)* $(&self.$step),*]
            }
        }
    };
}

scripts! {
    steps done once: insert offer confirm take_back extend release retire fail sweep drain bury;
    steps: claim read node routes events roster;
    others done once: beat;
    others: inform recover_begin recover_roster recover_report recover_settle;
}

impl Scripts {
    /// The steps in the words of a tenure, which is text without quotes.
    pub(super) fn told_under(&self, tenure: &str) -> LoadedScripts {
        let steps = self.steps().into_iter().map(|step| {
            let text =
                format!("local TENURE = '{tenure}'\n{}{}", include_str!("scripts/gate.lua"), step.text);
            let hash = Script::new(&text).get_hash().to_owned();
            (text, hash)
        });
        LoadedScripts(steps.collect())
    }
}
