//! The runtime's event stream, from containerd's own events (1.6 has no other) or, elsewhere, from CRI's.

use crate::containerd::events as task;
use crate::containerd::services::events::v1::SubscribeRequest;
use crate::containerd::services::events::v1::events_client::EventsClient;
use crate::containerd::types::Envelope;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Error, NAMESPACE, Result, v1};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::transport::Channel;

/// A hint that something happened; what is true now has to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// Id of the container, or of the sandbox.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
}

/// Kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its process runs.
    Started,
    /// Its process ended.
    Stopped,
    /// It is gone.
    Deleted,
    /// A process in it was killed for memory.
    Oom,
}

/// Events until the connection ends.
pub type EventStream = BoxStream<'static, Result<RuntimeEvent>>;

pub(crate) async fn subscribe(channel: Channel) -> Result<EventStream> {
    match containerd(channel.clone()).await {
        Err(e) if e.is_unimplemented() => cri(channel).await,
        other => other,
    }
}

async fn containerd(channel: Channel) -> Result<EventStream> {
    let filters =
        ["start", "exit", "oom"].map(|topic| format!(r#"namespace=={NAMESPACE},topic=="/tasks/{topic}""#)).to_vec();
    let stream = EventsClient::new(channel)
        .subscribe(SubscribeRequest { filters })
        .await
        .map_err(|status| Error::status("Subscribe", &status))?
        .into_inner();
    Ok(stream
        .map_err(|status| Error::status("Subscribe", &status))
        .try_filter_map(|envelope| async move { Ok(translate(&envelope)) })
        .boxed())
}

/// The event of an envelope; none for the end of an exec'd process or what cannot be read.
fn translate(envelope: &Envelope) -> Option<RuntimeEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => {
            let event = task::TaskStart::decode(bytes).ok()?;
            Some(RuntimeEvent { id: event.container_id, kind: EventKind::Started })
        }
        "/tasks/exit" => {
            let event = task::TaskExit::decode(bytes).ok()?;
            (event.id == event.container_id)
                .then_some(RuntimeEvent { id: event.container_id, kind: EventKind::Stopped })
        }
        "/tasks/oom" => {
            let event = task::TaskOom::decode(bytes).ok()?;
            Some(RuntimeEvent { id: event.container_id, kind: EventKind::Oom })
        }
        _ => None,
    }
}

async fn cri(channel: Channel) -> Result<EventStream> {
    let stream = RuntimeServiceClient::new(channel)
        .get_container_events(v1::GetEventsRequest {})
        .await
        .map_err(|status| Error::status("GetContainerEvents", &status))?
        .into_inner();
    Ok(stream
        .map_err(|status| Error::status("GetContainerEvents", &status))
        .try_filter_map(|event| async move {
            let kind = match event.container_event_type() {
                v1::ContainerEventType::ContainerCreatedEvent => return Ok(None),
                v1::ContainerEventType::ContainerStartedEvent => EventKind::Started,
                v1::ContainerEventType::ContainerStoppedEvent => EventKind::Stopped,
                v1::ContainerEventType::ContainerDeletedEvent => EventKind::Deleted,
            };
            Ok(Some(RuntimeEvent { id: event.container_id, kind }))
        })
        .boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> Envelope {
        let event = prost_types::Any { type_url: String::new(), value: message.encode_to_vec() };
        Envelope { topic: topic.into(), event: Some(event), ..Default::default() }
    }

    #[test]
    fn the_end_of_an_execd_process_is_not_the_end_of_its_container() {
        let mut exit = task::TaskExit { container_id: "c".into(), id: "c".into(), ..Default::default() };
        let stopped = Some(RuntimeEvent { id: "c".into(), kind: EventKind::Stopped });
        assert_eq!(translate(&envelope("/tasks/exit", &exit)), stopped);
        exit.id = "exec-1".into();
        assert_eq!(translate(&envelope("/tasks/exit", &exit)), None);
    }
}
