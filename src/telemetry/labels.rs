//! The words that metrics and log lines are labelled with.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// The label's text.
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
        /// An instance was handed out.
        Success = "success",
        /// The visitor had had enough.
        RateLimited = "rate_limited",
        /// Nothing was ready in time.
        PoolExhausted = "pool_exhausted",
        /// Something of ours failed.
        Error = "error",
    }
}
label! {
    /// Why an instance left its visitor or the pool.
    ReleaseReason {
        /// Given back.
        Released = "released",
        /// Its time ran out.
        Expired = "expired",
        /// It died.
        Failed = "failed",
        /// The server stopped, or the pool shrank.
        Drained = "drained",
    }
}
label! {
    /// How an instance was made.
    ProvisionMethod {
        /// Started from nothing.
        ColdStart = "cold_start",
        /// Restored from a checkpoint.
        CriuRestore = "criu_restore",
    }
}
label! {
    /// Whether something worked.
    Outcome {
        /// It did.
        Success = "success",
        /// It did not.
        Error = "error",
    }
}
label! {
    /// What was done to the route table.
    RouteOperation {
        /// A host became known.
        Add = "add",
        /// Its lease changed or ended.
        Update = "update",
        /// A host was forgotten.
        Remove = "remove",
        /// The whole table was loaded anew.
        Resync = "resync",
    }
}
label! {
    /// Whose host a request named.
    HostKind {
        /// The API and the pages.
        Api = "api",
        /// An instance.
        Instance = "instance",
        /// Nobody's.
        Unknown = "unknown",
    }
}
