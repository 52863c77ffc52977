//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook (apiserver/pkg/admission/plugin/webhook): which webhooks a write
//! is shown to, in which version, and what their answers make of it. How a webhook is reached is `crate::webhook`'s.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::codec::json::FieldValidation;
use skeg_machinery::patch;
use skeg_machinery::status::Status;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::conditions::{Matched, Sight};
use super::matching::{is_exempt, matched};
use super::{Attributes, Plugin};
use crate::authz::Authorizer;
use crate::resources::Resources;
use crate::served::{Served, Types};
use crate::webhook::Webhooks;

mod hook;
pub mod review;

use hook::{Hook, Hooks};
use review::{Answer, Question};

/// What both plug-ins work with.
pub struct Callers {
    pub resources: Arc<dyn Resources>,
    pub types: Arc<dyn Types>,
    pub webhooks: Arc<Webhooks>,
    pub authorizer: Arc<dyn Authorizer>,
}

pub struct MutatingWebhooks {
    callers: Arc<Callers>,
    hooks: Hooks,
}

pub struct ValidatingWebhooks {
    callers: Arc<Callers>,
    hooks: Hooks,
}

/// Why a webhook's turn did not end well.
enum Failure {
    /// It could not be asked, or did not answer as it should: its failurePolicy decides.
    Calling(String),
    /// It said no, or the request cannot go on whatever it says.
    Refused(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Refused(Box::new(status))
    }
}

fn not_ready(attributes: &Attributes<'_>, object: Option<&Value>) -> Status {
    attributes.forbidden(object, "not yet ready to handle request")
}

impl Callers {
    /// In which version `hook` is to be asked about this write; `None` when it is not concerned.
    async fn concerned(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        seen: &Served,
        object: Option<&Value>,
    ) -> Result<Option<Served>, Status> {
        // A selector that cannot be read only matters to requests that the rules are about.
        let namespace = hook.selectors.matches_namespace(attributes, object, &*self.resources).await;
        if let Ok(false) = namespace {
            return Ok(None);
        }
        let selected = hook.selectors.matches_object(object, attributes.old_object);
        if let Ok(false) = selected {
            return Ok(None);
        }
        let Some(served) = matched(&hook.rules, hook.equivalent, attributes, &*self.types) else { return Ok(None) };
        namespace?;
        selected?;
        let meant = hook.conditions.is_empty() || self.meant(hook, attributes, seen, object, &served).await?;
        Ok(meant.then_some(served))
    }

    /// Whether the webhook's match conditions hold, over the version that it wants.
    async fn meant(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        seen: &Served,
        object: Option<&Value>,
        served: &Served,
    ) -> Result<bool, Status> {
        let convert = async |object: Option<&Value>, from: &Served| match object {
            Some(object) => self.types.convert(object.clone(), from, served).await.map(Some),
            None => Ok(None),
        };
        let (object, old) = (convert(object, seen).await?, convert(attributes.old_object, &own(attributes)).await?);
        let question = Question { attributes, served, object: object.as_ref(), old: old.as_ref() };
        let sight = Sight::new(&question, None, None, &self.authorizer);
        match hook.conditions.matched(&sight.activation()) {
            Matched::Yes => Ok(true),
            Matched::No => Ok(false),
            Matched::Unclear(_) if hook.fails_open => Ok(false),
            Matched::Unclear(why) => {
                Err(Status::forbidden(&attributes.resource.group_resource(), attributes.name, why))
            }
        }
    }

    /// Asks; an answer is one that is well formed and says yes.
    async fn ask(&self, hook: &Hook, question: &Question<'_>, mutating: bool) -> Result<Answer, Failure> {
        let calling = |why: String| Failure::Calling(format!("failed calling webhook {:?}: {why}", hook.name));
        let harmless = matches!(&*hook.side_effects, "None" | "NoneOnDryRun");
        if question.attributes.dry_run && !harmless {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Status::bad_request(why).into());
        }
        let version = review::version(&hook.review_versions).ok_or_else(|| {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            calling(format!("could not create admission objects: {why}"))
        })?;
        let uid = Uuid::new_v4().to_string();
        let asked = question.review(version, &uid);
        let answered = self.webhooks.call(&hook.client, &asked, hook.timeout).await;
        let answered = answered.map_err(|error| calling(format!("failed to call webhook: {error}")))?;
        let answer = review::read(answered, version, &uid, mutating)
            .map_err(|why| calling(format!("received invalid webhook response: {why}")))?;
        for warning in &answer.warnings {
            question.attributes.warn(warning);
        }
        match answer.allowed {
            true => Ok(answer),
            false => Err(review::denial(&hook.name, answer.result).into()),
        }
    }

    /// The Status that a failure ends the request with, if it does.
    fn outcome(&self, hook: &Hook, failure: Failure) -> Result<(), Status> {
        match failure {
            Failure::Refused(status) => Err(*status),
            Failure::Calling(why) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, why, "a webhook failed and is let pass");
                Ok(())
            }
            Failure::Calling(why) => Err(Status::internal_error(why)),
        }
    }
}

fn own(attributes: &Attributes<'_>) -> Served {
    Served { resource: attributes.resource.clone(), kind: attributes.kind.clone() }
}

const MUTATING: &str = "MutatingAdmissionWebhook";

impl MutatingWebhooks {
    pub fn new(callers: Arc<Callers>) -> MutatingWebhooks {
        MutatingWebhooks { callers, hooks: Hooks::new("mutatingwebhookconfigurations") }
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.hooks.run(self.callers.resources.clone(), shutdown).await;
    }

    /// The webhooks that may be concerned by a write; none for one that they may not see.
    async fn hooks(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<Arc<Vec<Arc<Hook>>>, Status> {
        if is_exempt(attributes) {
            return Ok(Arc::default());
        }
        self.hooks.current().await.ok_or_else(|| not_ready(attributes, object))
    }

    /// Asks each webhook in turn; the object, where there is one, comes back as they left it.
    async fn dispatch(
        &self,
        hooks: &[Arc<Hook>],
        attributes: &Attributes<'_>,
        object: Option<Value>,
    ) -> Result<Option<Value>, Status> {
        let mut round = Round { callers: &self.callers, attributes, seen: own(attributes), object };
        for hook in hooks {
            let Some(served) = self.callers.concerned(hook, attributes, &round.seen, round.object.as_ref()).await?
            else {
                continue;
            };
            if !attributes.reinvocation.is_due(MUTATING, &hook.id) {
                continue;
            }
            let result = round.turn(hook, served).await;
            if let Ok(true) = result {
                attributes.reinvocation.changed(MUTATING);
            }
            if hook.reinvoked {
                attributes.reinvocation.asked(MUTATING, &hook.id);
            }
            if let Err(failure) = result {
                self.callers.outcome(hook, failure)?;
            }
        }
        round.end().await
    }
}

/// The object on its way through the mutating webhooks, in the version of the one last asked.
struct Round<'a> {
    callers: &'a Callers,
    attributes: &'a Attributes<'a>,
    seen: Served,
    object: Option<Value>,
}

impl Round<'_> {
    async fn turn_to(&mut self, served: Served) -> Result<(), Status> {
        if self.seen != served
            && let Some(object) = self.object.take()
        {
            self.object = Some(self.callers.types.convert(object, &self.seen, &served).await?);
        }
        self.seen = served;
        Ok(())
    }

    /// Whether the webhook changed the object.
    async fn turn(&mut self, hook: &Hook, served: Served) -> Result<bool, Failure> {
        self.turn_to(served).await?;
        let old = match self.attributes.old_object {
            Some(old) => Some(self.callers.types.convert(old.clone(), &own(self.attributes), &self.seen).await?),
            None => None,
        };
        let question = Question {
            attributes: self.attributes,
            served: &self.seen,
            object: self.object.as_ref(),
            old: old.as_ref(),
        };
        let answer = self.callers.ask(hook, &question, true).await?;
        if answer.patch.is_empty() {
            return Ok(false);
        }
        let Some(object) = &self.object else {
            let why = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(Status::internal_error(why).into());
        };
        let patched = patch::json_patch(object, &answer.patch, FieldValidation::Ignore)
            .map_err(|status| Status::internal_error(status.message))?;
        let new = self.callers.types.complete(&patched.value, &self.seen)?;
        let changed = new != *object;
        self.object = Some(new);
        Ok(changed)
    }

    async fn end(mut self) -> Result<Option<Value>, Status> {
        let own = own(self.attributes);
        self.turn_to(own).await?;
        Ok(self.object)
    }
}

#[async_trait]
impl Plugin for MutatingWebhooks {
    fn name(&self) -> &'static str {
        MUTATING
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        let hooks = self.hooks(attributes, Some(object)).await?;
        if hooks.is_empty() {
            return Ok(());
        }
        attributes.reinvocation.begin(MUTATING, object);
        if let Some(new) = self.dispatch(&hooks, attributes, Some(object.clone())).await? {
            *object = new;
        }
        attributes.reinvocation.end(MUTATING, object);
        Ok(())
    }

    async fn before_delete(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let hooks = self.hooks(attributes, None).await?;
        self.dispatch(&hooks, attributes, None).await.map(|_| ())
    }
}

impl ValidatingWebhooks {
    pub fn new(callers: Arc<Callers>) -> ValidatingWebhooks {
        ValidatingWebhooks { callers, hooks: Hooks::new("validatingwebhookconfigurations") }
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.hooks.run(self.callers.resources.clone(), shutdown).await;
    }

    async fn turn(
        &self,
        hook: &Hook,
        served: Served,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        let (types, own) = (&self.callers.types, own(attributes));
        let convert = async |object: Option<&Value>| match object {
            Some(object) => types.convert(object.clone(), &own, &served).await.map(Some),
            None => Ok(None),
        };
        let (object, old) = (convert(object).await?, convert(attributes.old_object).await?);
        let question = Question { attributes, served: &served, object: object.as_ref(), old: old.as_ref() };
        match self.callers.ask(hook, &question, false).await {
            Ok(_) => Ok(()),
            Err(failure) => self.callers.outcome(hook, failure),
        }
    }
}

#[async_trait]
impl Plugin for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    /// All concerned webhooks at once; the first in their order that refuses is the one that the client hears of.
    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        if is_exempt(attributes) {
            return Ok(());
        }
        let hooks = self.hooks.current().await.ok_or_else(|| not_ready(attributes, object))?;
        let mut turns = Vec::new();
        for hook in hooks.iter() {
            if let Some(served) = self.callers.concerned(hook, attributes, &own(attributes), object).await? {
                turns.push(self.turn(hook, served, attributes, object));
            }
        }
        futures::future::join_all(turns).await.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests;
