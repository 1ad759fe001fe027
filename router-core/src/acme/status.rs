//! How the ordering of certificates stands, for `/v1/certificates` and metrics.

use serde::Serialize;

/// How the ordering of certificates stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AcmeStatus {
    /// The authority's directory.
    pub directory: String,
    /// Whether this router orders; if not, another one that shares the folder does.
    pub orders_here: bool,
    /// Most orders an hour.
    pub per_hour: u32,
    /// What is left of them now.
    pub budget_left: u32,
    /// Why nothing is ordered at the moment although something is due: the budget, the authority, the folder.
    pub held_up_by: Option<String>,
    /// Orders made since the start.
    pub ordered: u64,
    /// Certificates got since the start.
    pub issued: u64,
    /// Orders that failed since the start, for whatever reason.
    pub failed: u64,
    /// Each domain that has or should have a certificate, in order of their names.
    pub domains: Vec<DomainStatus>,
}

/// One domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainStatus {
    /// The domain.
    pub domain: String,
    /// How it stands.
    pub state: DomainState,
    /// When the certificate that is served ends.
    pub not_after: Option<String>,
    /// When the next order is due; none while that is not known, or when there will be none.
    pub next_try: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// What went wrong the last time; none once an order has succeeded.
    pub last_error: Option<String>,
}

/// How one domain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// Has no certificate yet; an order is due.
    Waiting,
    /// Is being ordered.
    Ordering,
    /// Has a certificate that is not due for renewal.
    Valid,
    /// Has a certificate that is due for renewal.
    Renewing,
    /// The last order failed. If it has a certificate, that is still served.
    Failing,
    /// Is covered by a certificate from elsewhere, so nothing is ordered.
    Covered,
    /// Is not ordered any more; its certificate is served until it ends.
    Retired,
    /// Has no certificate from anywhere and cannot be ordered; `last_error` says why.
    Impossible,
}
