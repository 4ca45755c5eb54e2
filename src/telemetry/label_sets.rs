//! The label sets of the metrics. The names of the fields are the names of the labels.

use prometheus_client::encoding::EncodeLabelSet;

use super::labels::{
    AcquireResult, ConnectionRefusal, Outcome, ProvisionMethod, ReleaseReason, RouteOperation,
};

/// The labels of a template's gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TemplateLabel {
    pub(super) template: String,
}

/// The labels of an acquire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AcquireLabels {
    pub(super) template: String,
    pub(super) result: AcquireResult,
}

/// The labels of an instance that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReleaseLabels {
    pub(super) template: String,
    pub(super) reason: ReleaseReason,
}

/// The labels of an attempt to make an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProvisionLabels {
    pub(super) template: String,
    pub(super) method: ProvisionMethod,
    pub(super) result: Outcome,
}

/// The labels of a bake.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BakeLabels {
    pub(super) template: String,
    pub(super) result: Outcome,
}

/// The label of the time that an instance took.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MethodLabel {
    pub(super) method: ProvisionMethod,
}

/// The label of a refused connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusalLabel {
    pub(super) reason: ConnectionRefusal,
}

/// The label of a ready check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) result: Outcome,
}

/// The labels of a change of the route table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) operation: RouteOperation,
    pub(super) result: Outcome,
}

/// The labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HttpLabels {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) status: u16,
}

/// The labels of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: &'static str,
    pub(super) commit: &'static str,
}
