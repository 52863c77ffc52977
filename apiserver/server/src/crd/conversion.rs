//! How the objects of a definition get from one version to another: as they are, or by asking a webhook.

use std::sync::Arc;

use serde_json::Value;
use skeg_catalog::custom::{Convert, SameShape};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::meta;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::webhook::{ClientConfig, Webhooks, conversion};

/// The conversion that a definition asks for.
pub fn of(definition: &Value, webhooks: &Arc<Webhooks>) -> Arc<dyn Convert> {
    let text = |path: &[&str]| meta::str_at(definition, path).to_owned();
    if text(&["spec", "conversion", "strategy"]) != "Webhook" {
        return Arc::new(SameShape);
    }
    let webhook = meta::get(definition, &["spec", "conversion", "webhook"]).cloned().unwrap_or_default();
    let versions = meta::array_at(&webhook, &["conversionReviewVersions"]).iter().filter_map(Value::as_str);
    Arc::new(ByWebhook {
        webhooks: webhooks.clone(),
        config: ClientConfig::from_json(&webhook["clientConfig"]),
        versions: versions.map(str::to_owned).collect(),
    })
}

struct ByWebhook {
    webhooks: Arc<Webhooks>,
    config: ClientConfig,
    versions: Vec<String>,
}

impl Convert for ByWebhook {
    fn convert(&self, object: Value, to: &GroupVersionKind) -> Result<Value, String> {
        let converted = self.convert_all(vec![object], to)?;
        converted.into_iter().next().ok_or_else(|| "the webhook returned nothing".to_owned())
    }

    /// Waits for the webhook on this thread; the runtime's other tasks go on on another.
    fn convert_all(&self, objects: Vec<Value>, to: &GroupVersionKind) -> Result<Vec<Value>, String> {
        let desired = to.api_version();
        if objects.iter().all(|object| meta::api_version(object) == desired) {
            return Ok(objects);
        }
        let runtime = Handle::try_current().ok().filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        let runtime = runtime.ok_or("conversion by webhook needs a runtime with several threads")?;
        let asked = conversion::convert(&self.webhooks, &self.config, &self.versions, &desired, objects);
        tokio::task::block_in_place(|| runtime.block_on(asked))
    }
}
