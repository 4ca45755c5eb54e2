//! The values of labels in metrics and log lines. The texts are part of the contract.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// Returns the text of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

label! {
    /// How an acquire ended.
    AcquireResult {
        /// An instance was assigned.
        Success = "success",
        /// A rate limit refused it.
        RateLimited = "rate_limited",
        /// No instance was ready in time.
        PoolExhausted = "pool_exhausted",
        /// The server failed.
        Error = "error",
    }
}
label! {
    /// Why an instance ended.
    ReleaseReason {
        /// Its visitor released it.
        Released = "released",
        /// Its lease expired.
        Expired = "expired",
        /// It failed.
        Failed = "failed",
        /// The server shut down, or the pool shrank.
        Drained = "drained",
    }
}
label! {
    /// How an instance was made.
    ProvisionMethod {
        /// A cold start.
        ColdStart = "cold_start",
        /// A restore from a checkpoint.
        CriuRestore = "criu_restore",
    }
}
label! {
    /// Why a connection was refused.
    ConnectionRefusal {
        /// All peers together hold as many connections as the server takes.
        Server = "server",
        /// The client holds as many connections as one client may.
        Client = "client",
    }
}
label! {
    /// Whether an operation succeeded.
    Outcome {
        /// It succeeded.
        Success = "success",
        /// It failed.
        Error = "error",
    }
}
label! {
    /// A change of the route table.
    RouteOperation {
        /// A route was added.
        Add = "add",
        /// The lease of a route changed or ended.
        Update = "update",
        /// A route was removed.
        Remove = "remove",
        /// The whole table was loaded again.
        Resync = "resync",
    }
}
label! {
    /// The kind of host that a request named.
    HostKind {
        /// The API and the pages.
        Api = "api",
        /// An instance.
        Instance = "instance",
        /// A host that this server does not answer for.
        Unknown = "unknown",
    }
}
