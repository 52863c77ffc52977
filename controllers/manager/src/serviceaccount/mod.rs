//! Gives every namespace its ServiceAccount `default` (upstream: serviceaccounts_controller.go).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{Namespace, ServiceAccount};
use skeg_controller_runtime::{Controller, Error, Outcome, Store, Str, WorkQueue, run_controller};

use crate::context::Context;

const NAME: &str = "default";

struct ServiceAccounts {
    namespaces: Arc<Store<Namespace>>,
    accounts: Arc<Store<ServiceAccount>>,
}

/// What a namespace lacks.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Create,
}

fn plan(namespace: Option<&Namespace>, account: Option<&ServiceAccount>) -> Option<Action> {
    let namespace = namespace?;
    let active = !namespace.metadata.deleting() && namespace.status.phase != "Terminating";
    (active && account.is_none()).then_some(Action::Create)
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let namespaces = context.stores.get::<Namespace>();
    let accounts = context.stores.get::<ServiceAccount>();
    let line = queue.clone();
    namespaces.subscribe(move |change| {
        if !change.is_deleted() {
            line.add(change.object().metadata.key());
        }
    });
    let line = queue.clone();
    accounts.subscribe(move |change| {
        if change.is_deleted() && change.object().metadata.name == NAME {
            line.add(change.object().metadata.namespace.clone());
        }
    });
    run_controller(Arc::new(ServiceAccounts { namespaces, accounts }), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for ServiceAccounts {
    type Key = Str;
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }
    async fn synced(&self) {
        self.namespaces.synced().await;
        self.accounts.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let account = self.accounts.find(key, NAME);
        match plan(self.namespaces.get(key).as_deref(), account.as_deref()) {
            None => {}
            Some(Action::Create) => {
                let body = json!({"metadata": {"name": NAME, "namespace": key}});
                match self.accounts.create(key, &body).await {
                    Ok(_) => {}
                    Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_active_namespace_without_the_account_gets_one() {
        let account = ServiceAccount::default();
        let active: Namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let leaving: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}})).unwrap();
        for (name, namespace, account, expected) in [
            ("all good: do nothing", Some(&active), Some(&account), None),
            ("missing: create", Some(&active), None, Some(Action::Create)),
            ("terminating: leave", Some(&leaving), None, None),
            ("no namespace: nothing", None, None, None),
        ] {
            assert_eq!(plan(namespace, account), expected, "{name}");
        }
    }
}
