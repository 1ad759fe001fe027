//! The authority as the runner sees it: an account, and orders of one domain each. Tells failures that are a domain's own
//! from those that concern every domain, so that one tenant's mistake holds up nobody else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use router_model::hostname::Domain;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::folder::{Folder, on_disk};
use super::http::AuthorityClient;
use super::settings::AcmeSettings;
use crate::tls::Challenges;

/// An ACME authority and our account with it.
pub(super) struct Authority {
    directory: String,
    /// `mailto:…`.
    contact: Option<String>,
    client: AuthorityClient,
    challenges: Arc<Challenges>,
    folder: Folder,
    /// None until the first order, and again after trouble: a new one asks for the directory again.
    account: Option<Account>,
    /// An account that could not be written down yet; making another one would not help.
    unsaved: Option<Arc<Saved>>,
}

/// A certificate, as it came.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct OrderError {
    pub(super) reason: String,
    /// Whether it is this domain's own failure, and others may do better.
    pub(super) only_this_domain: bool,
    /// How long the authority wants to be left alone.
    pub(super) asked: Option<Duration>,
}

/// `account.json`.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(default)]
    contact: Option<String>,
    credentials: AccountCredentials,
}

/// Of an order from its beginning to its certificate.
const ORDER: Duration = Duration::from_mins(4);
/// Of each of the two waits in it.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(90));
/// What the authority says may contain what a stranger's server answered to it.
const LONGEST_REASON: usize = 600;

impl Authority {
    pub(super) fn new(
        settings: &AcmeSettings,
        contact: Option<String>,
        client: AuthorityClient,
        challenges: Arc<Challenges>,
        folder: Folder,
    ) -> Self {
        Self {
            directory: settings.directory.clone(),
            contact,
            client,
            challenges,
            folder,
            account: None,
            unsaved: None,
        }
    }

    /// Sees that there is an account to order with. Costs nothing of the budget.
    pub(super) async fn ready(&mut self) -> Result<(), OrderError> {
        if self.account.is_some() && self.unsaved.is_none() {
            return Ok(());
        }
        self.open_account().await.map_err(|reason| OrderError {
            reason: short(&reason),
            only_this_domain: false,
            asked: self.client.take_asked(),
        })
    }

    async fn open_account(&mut self) -> Result<(), String> {
        self.save_unsaved().await?;
        if self.account.is_some() {
            return Ok(());
        }
        let folder = self.folder.clone();
        let saved: Option<Saved> = on_disk(move || folder.load_account()).await?;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let Some(saved) = saved else {
            let contact: Vec<&str> = self.contact.as_deref().into_iter().collect();
            let account = NewAccount {
                contact: &contact,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let created = builder.create(&account, self.directory.clone(), None).await;
            let (account, credentials) = created.map_err(|error| error.to_string())?;
            tracing::info!(account = account.id(), "ACME account created");
            self.account = Some(account);
            self.unsaved = Some(Arc::new(Saved {
                contact: self.contact.clone(),
                credentials,
            }));
            return self.save_unsaved().await;
        };
        let former_contact = saved.contact;
        let restored = builder.from_credentials(saved.credentials).await;
        let account = restored.map_err(|error| error.to_string())?;
        if former_contact != self.contact {
            self.tell_contact(&account).await;
        }
        self.account = Some(account);
        Ok(())
    }

    /// A new address that the authority does not like is no reason to order nothing.
    async fn tell_contact(&self, account: &Account) {
        let contact: Vec<&str> = self.contact.as_deref().into_iter().collect();
        if let Err(error) = account.update_contacts(&contact).await {
            return tracing::warn!(%error, "the ACME account keeps its former contact");
        }
        let (folder, contact) = (self.folder.clone(), self.contact.clone());
        let saved = on_disk(move || {
            let Some(saved) = folder.load_account::<Saved>()? else {
                return Ok(());
            };
            folder.save_account(&Saved { contact, ..saved })
        });
        if let Err(error) = saved.await {
            tracing::warn!(%error, "the ACME account's contact is changed, but not written down");
        }
    }

    async fn save_unsaved(&mut self) -> Result<(), String> {
        let Some(unsaved) = self.unsaved.take() else {
            return Ok(());
        };
        let folder = self.folder.clone();
        let account = Arc::clone(&unsaved);
        let saved = on_disk(move || folder.save_account(&*account)).await;
        saved.map_err(|error| {
            self.unsaved = Some(unsaved);
            format!("the new ACME account cannot be saved: {error}")
        })
    }

    /// Orders a certificate for one domain.
    pub(super) async fn order(&mut self, domain: &Domain) -> Result<Issued, OrderError> {
        let Some(account) = self.account.clone() else {
            return Err(OrderError {
                reason: "there is no ACME account".to_owned(),
                only_this_domain: false,
                asked: None,
            });
        };
        let ordered = tokio::time::timeout(ORDER, self.order_with(&account, domain)).await;
        let failure = match ordered {
            Ok(Ok(issued)) => return Ok(issued),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Domain(format!(
                "the order was not done within {} minutes",
                ORDER.as_secs() / 60
            )),
        };
        let asked = self.client.take_asked();
        Err(self.judge(failure, asked).await)
    }

    async fn judge(&mut self, failure: Failure, asked: Option<Duration>) -> OrderError {
        let (reason, only_this_domain) = match failure {
            Failure::Domain(reason) => (reason, true),
            Failure::Acme(error) => match Blame::of(&error) {
                Blame::Domain => (error.to_string(), true),
                Blame::Authority => (error.to_string(), false),
                Blame::Account => {
                    let folder = self.folder.clone();
                    let reason = error.to_string();
                    let aside = on_disk(move || folder.set_account_aside(&reason)).await;
                    let note =
                        aside.map_or_else(|error| error, |()| "a new one will be made".to_owned());
                    (format!("{error}; {note}"), false)
                }
            },
        };
        if !only_this_domain {
            self.account = None;
        }
        OrderError {
            reason: short(&reason),
            only_this_domain,
            asked,
        }
    }

    async fn order_with(&self, account: &Account, domain: &Domain) -> Result<Issued, Failure> {
        let identifiers = [Identifier::Dns(domain.to_string())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut shown = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                other => return Err(Failure::Domain(format!("its authorization is {other:?}"))),
            }
            let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
                let reason = "the authority offers no http-01 challenge";
                return Err(Failure::Domain(reason.to_owned()));
            };
            let answer = challenge.key_authorization();
            shown.push(self.show(&challenge.token, answer.as_str()).await?);
            challenge.set_ready().await?;
        }
        let ready = order.poll_ready(&POLLING).await;
        match ready {
            Ok(OrderStatus::Ready) => {}
            ended => {
                let refused = why_refused(&mut order).await;
                return Err(match (refused, ended) {
                    (Some(reason), _) => Failure::Domain(reason),
                    (None, Err(error)) => error.into(),
                    (None, Ok(status)) => Failure::Domain(format!("the order is {status:?}")),
                });
            }
        }
        let (key, request) = request(domain)?;
        order.finalize_csr(&request).await?;
        let chain = order.poll_certificate(&POLLING).await?;
        drop(shown);
        Ok(Issued { chain, key })
    }

    /// Answers a challenge, here and on the routers that follow, until what it gives is dropped.
    async fn show(&self, token: &str, answer: &str) -> Result<Shown, Failure> {
        let shown = Shown {
            token: token.to_owned(),
            challenges: Arc::clone(&self.challenges),
            folder: self.folder.clone(),
        };
        self.challenges.expect(token, answer);
        let (folder, token, answer) = (self.folder.clone(), token.to_owned(), answer.to_owned());
        let published = on_disk(move || {
            folder.publish(&token, &answer)?;
            folder.has_followers()
        });
        let others = published.await.map_err(Failure::Domain)?;
        if others {
            tokio::time::sleep(2 * Self::FOLLOWERS_LOOK).await;
        }
        Ok(shown)
    }

    /// How often the routers that follow look for challenges.
    pub(super) const FOLLOWERS_LOOK: Duration = Duration::from_secs(1);
}

/// A challenge that is answered.
struct Shown {
    token: String,
    challenges: Arc<Challenges>,
    folder: Folder,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.challenges.forget(&self.token);
        if let Err(error) = self.folder.withdraw(&self.token) {
            tracing::warn!(%error, "a challenge that is over cannot be taken out of the ACME folder");
        }
    }
}

/// A fresh key (ECDSA P-256), PEM, and the signing request for it.
fn request(domain: &Domain) -> Result<(Zeroizing<String>, Vec<u8>), Failure> {
    let refused = |error: rcgen::Error| Failure::Domain(error.to_string());
    let mut params = CertificateParams::new([domain.to_string()]).map_err(refused)?;
    params.distinguished_name = DistinguishedName::new();
    let mut key = KeyPair::generate().map_err(refused)?;
    let request = params.serialize_request(&key).map_err(refused);
    let text = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    Ok((text, request?.der().to_vec()))
}

/// The authority's own words about a challenge that failed; an order only says that it is invalid.
async fn why_refused(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let mut errors = state
            .challenges
            .iter()
            .filter_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = errors.next() {
            return Some(format!("the challenge failed: {problem}"));
        }
    }
    None
}

enum Failure {
    Domain(String),
    Acme(instant_acme::Error),
}

impl From<instant_acme::Error> for Failure {
    fn from(error: instant_acme::Error) -> Self {
        Self::Acme(error)
    }
}

/// Whose failure it is.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    Domain,
    Account,
    Authority,
}

impl Blame {
    fn of(error: &instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => Self::of_problem(problem),
            // An authority that takes too long over one name may be quick about another.
            instant_acme::Error::Timeout(_) => Self::Domain,
            _ => Self::Authority,
        }
    }

    fn of_problem(problem: &Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        match kind.rsplit(':').next().unwrap_or_default() {
            "accountDoesNotExist" => Self::Account,
            "badNonce"
            | "badPublicKey"
            | "badSignatureAlgorithm"
            | "externalAccountRequired"
            | "invalidContact"
            | "serverInternal"
            | "unsupportedContact"
            | "userActionRequired" => Self::Authority,
            _ if problem.status.is_some_and(|status| status >= 500) => Self::Authority,
            // Rate limits too: most are per name or per registered domain, and one tenant's must not stop the others'. One
            // that is about all of us costs an order each, which the budget bounds.
            _ => Self::Domain,
        }
    }
}

/// One line of a bounded length.
fn short(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = line.clone().take(LONGEST_REASON).collect();
    if line.count() > LONGEST_REASON {
        short.push('…');
    }
    short
}

/// Without the account's key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_failure_it_is() {
        for (kind, status, expected) in [
            ("unauthorized", Some(403), Blame::Domain),
            ("connection", Some(400), Blame::Domain),
            ("dns", Some(400), Blame::Domain),
            ("caa", Some(403), Blame::Domain),
            ("rejectedIdentifier", Some(400), Blame::Domain),
            ("rateLimited", Some(429), Blame::Domain),
            ("rateLimited", Some(503), Blame::Authority),
            ("serverInternal", None, Blame::Authority),
            ("serverInternal", Some(500), Blame::Authority),
            ("userActionRequired", Some(403), Blame::Authority),
            ("accountDoesNotExist", Some(400), Blame::Account),
            ("somethingNew", Some(502), Blame::Authority),
            ("somethingNew", Some(400), Blame::Domain),
        ] {
            let problem = Problem {
                r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: None,
                status,
                subproblems: Vec::new(),
            };
            assert_eq!(Blame::of(&problem.into()), expected, "{kind} {status:?}");
        }
        let timeout = instant_acme::Error::Timeout(None);
        assert_eq!(Blame::of(&timeout), Blame::Domain);
        let unreachable = instant_acme::Error::Other("refused".into());
        assert_eq!(Blame::of(&unreachable), Blame::Authority);
    }

    #[test]
    fn reasons_are_one_line_and_bounded() {
        assert_eq!(short("a\r\nb\u{1b}[31m"), "a  b [31m");
        assert_eq!(
            short(&"ü".repeat(LONGEST_REASON)),
            "ü".repeat(LONGEST_REASON)
        );
        let cut = short(&"ü".repeat(10_000));
        assert_eq!(cut.chars().count(), LONGEST_REASON + 1);
    }
}
