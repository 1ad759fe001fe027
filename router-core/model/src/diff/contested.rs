//! Claims that are not met: apps that name a domain which another app holds. They are remembered, because a change brings
//! only the apps that differ: when the holder lets go of the domain, whoever has waited for it gets it.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::Plan;
use crate::app::App;

/// The apps that did not get all their domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contested {
    /// As they were documented, with every domain that they claim.
    apps: HashMap<Arc<str>, Arc<App>>,
    /// Who claims a domain, by its key; who has waited longest comes first. Holders may stand here too.
    claimants: HashMap<Box<str>, Vec<Arc<str>>>,
}

impl Contested {
    /// How many apps there are.
    pub fn len(&self) -> usize {
        self.apps.len()
    }

    /// Whether every app has all its domains.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Notes who is left without a domain once a plan has been carried out.
    pub fn note(&mut self, plan: &Plan) {
        if plan.whole {
            *self = Self::default();
        }
        // Whoever still waits for something keeps its place.
        let stays = |app: &Arc<App>| {
            let known = self.apps.get(&app.name);
            known.is_some_and(|known| Arc::ptr_eq(known, app))
        };
        let (staying, new): (Vec<_>, Vec<_>) = plan.contesting.iter().partition(|app| stays(app));
        let staying: HashSet<&str> = staying.iter().map(|app| &*app.name).collect();
        for name in plan
            .settled
            .iter()
            .filter(|name| !staying.contains(&***name))
        {
            self.forget(name);
        }
        for app in new {
            self.forget(&app.name);
            for domain in &app.domains {
                let claimants = self.claimants.entry(domain.key().into()).or_default();
                claimants.push(Arc::clone(&app.name));
            }
            self.apps.insert(Arc::clone(&app.name), Arc::clone(app));
        }
    }

    /// Who claims a domain.
    pub(super) fn claimants(&self, key: &str) -> &[Arc<str>] {
        self.claimants.get(key).map_or(&[], Vec::as_slice)
    }

    /// An app as it was documented.
    pub(super) fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    fn forget(&mut self, name: &str) {
        let Some(app) = self.apps.remove(name) else {
            return;
        };
        for domain in &app.domains {
            if let Some(claimants) = self.claimants.get_mut(domain.key()) {
                claimants.retain(|claimant| **claimant != *name);
                if claimants.is_empty() {
                    self.claimants.remove(domain.key());
                }
            }
        }
    }
}
