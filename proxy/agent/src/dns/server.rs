//! The DNS server: reads questions, answers those about the cluster at once, forwards the others.
//!
//! Tasks: one that reads UDP and answers from the zone itself; one that accepts TCP; one per forwarded question and per
//! TCP connection, both bounded. All end with the shutdown token.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::forward::Forwarder;
use super::zone::{Answer, Zone};

/// Questions that wait for upstream at one time; more are answered SERVFAIL.
const MAX_FORWARDED: usize = 1024;
/// TCP connections at one time; more wait.
const MAX_CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
/// What a datagram holds without being fragmented on any usual link.
const MAX_DATAGRAM: u16 = 1232;
/// Aliases of aliases are followed this far.
const MAX_ALIASES: usize = 8;

/// What answers questions.
pub struct Server {
    pub zone: RwLock<Zone>,
    pub forwarder: Forwarder,
    forwarded: Arc<Semaphore>,
}

/// A question's answer, or the need to ask upstream for it.
enum Step {
    Done(Message),
    Ask,
    Follow { answer: Message, target: hickory_proto::rr::Name },
}

impl Server {
    /// A server of a zone.
    pub fn new(zone: Zone, forwarder: Forwarder) -> Self {
        Self { zone: RwLock::new(zone), forwarder, forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)) }
    }

    /// Answers datagrams until shutdown.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket, shutdown: CancellationToken) {
        let socket = Arc::new(socket);
        let mut tasks = JoinSet::new();
        let mut buf = vec![0; 4096];
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                received = socket.recv_from(&mut buf) => received,
            };
            // An error here is about an earlier answer's client.
            let Ok((len, client)) = received else { continue };
            let Some(query) = parse(&buf[..len]) else { continue };
            let limit = query.edns.as_ref().map_or(512, |e| e.max_payload().clamp(512, MAX_DATAGRAM));
            match self.step(&query) {
                Step::Done(answer) => drop(socket.try_send_to(&encode(&answer, limit), client)),
                step => {
                    let Ok(permit) = self.forwarded.clone().try_acquire_owned() else {
                        let _ = socket.try_send_to(&encode(&failure(&query, ResponseCode::ServFail), limit), client);
                        continue;
                    };
                    let (server, socket) = (self.clone(), socket.clone());
                    tasks.spawn(async move {
                        let answer = server.finish(&query, step, false).await;
                        drop(permit);
                        let _ = socket.send_to(&encode(&answer, limit), client).await;
                    });
                }
            }
        }
    }

    /// Answers connections until shutdown.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            let full = tasks.len() >= MAX_CONNECTIONS;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept(), if !full => match accepted {
                    Ok((stream, client)) => drop(tasks.spawn(self.clone().connection(stream, client))),
                    Err(error) => {
                        tracing::debug!(%error, "DNS connection not accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream, client: SocketAddr) {
        loop {
            let read = async {
                let len = stream.read_u16().await?;
                let mut bytes = vec![0; len.into()];
                stream.read_exact(&mut bytes).await?;
                Ok::<_, std::io::Error>(bytes)
            };
            let Ok(Ok(bytes)) = tokio::time::timeout(IDLE, read).await else { return };
            let Some(query) = parse(&bytes) else { return };
            let answer = match self.step(&query) {
                Step::Done(answer) => answer,
                step => self.finish(&query, step, true).await,
            };
            let bytes = encode(&answer, u16::MAX);
            let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
            framed.extend(bytes);
            if let Err(error) = stream.write_all(&framed).await {
                tracing::debug!(%error, %client, "DNS answer not delivered");
                return;
            }
        }
    }

    /// All that can be done without waiting.
    fn step(&self, query: &Message) -> Step {
        if query.metadata.op_code != OpCode::Query {
            return Step::Done(failure(query, ResponseCode::NotImp));
        }
        let [question] = &query.queries[..] else { return Step::Done(failure(query, ResponseCode::FormErr)) };
        if query.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return Step::Done(failure(query, ResponseCode::BADVERS));
        }
        if question.query_class() != DNSClass::IN {
            return Step::Done(failure(query, ResponseCode::Refused));
        }
        let zone = self.zone.read().expect("nothing panics with the zone locked");
        match zone.answer(question.name(), question.query_type()) {
            Answer::Records { mut answers, additionals } => {
                let mut message = response(query);
                let turn = usize::from(query.metadata.id) % answers.len().max(1);
                answers.rotate_left(turn);
                message.answers = answers;
                message.additionals = additionals;
                Step::Done(message)
            }
            Answer::NoData => {
                let mut message = response(query);
                message.add_authority(zone.soa());
                Step::Done(message)
            }
            Answer::NxDomain => {
                let mut message = failure(query, ResponseCode::NXDomain);
                message.metadata.authoritative = true;
                message.add_authority(zone.soa());
                Step::Done(message)
            }
            Answer::Alias { record, target } => {
                let mut answer = response(query);
                answer.add_answer(*record);
                match question.query_type() {
                    RecordType::A | RecordType::AAAA => Step::Follow { answer, target },
                    _ => Step::Done(answer),
                }
            }
            Answer::NotReady => Step::Done(failure(query, ResponseCode::ServFail)),
            Answer::Forward => match self.forwarder.remembered(query) {
                Some(message) => Step::Done(message),
                None => Step::Ask,
            },
        }
    }

    /// Asks upstream for what is missing.
    async fn finish(&self, query: &Message, mut step: Step, stream: bool) -> Message {
        let mut collected: Option<Message> = None;
        let mut asked = query.clone();
        for _ in 0..MAX_ALIASES {
            let answer = match step {
                Step::Done(message) => message,
                Step::Ask => match self.forwarder.ask(&asked, stream).await {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::debug!(%error, "upstream resolvers gave no answer");
                        failure(query, ResponseCode::ServFail)
                    }
                },
                Step::Follow { answer, target } => {
                    collected.get_or_insert_with(|| response(query)).add_answers(answer.answers);
                    if let Some(question) = asked.queries.first_mut() {
                        question.set_name(target);
                    }
                    step = self.step(&asked);
                    continue;
                }
            };
            return match collected {
                None => answer,
                Some(mut whole) => {
                    whole.add_answers(answer.answers);
                    whole.metadata.truncation |= answer.metadata.truncation;
                    whole
                }
            };
        }
        failure(query, ResponseCode::ServFail)
    }
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

/// An empty answer with authority.
fn response(query: &Message) -> Message {
    let mut message = failure(query, ResponseCode::NoError);
    message.metadata.authoritative = true;
    message
}

fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata = Metadata::response_from_request(&query.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries = query.queries.clone();
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM);
        message.set_edns(edns);
    }
    message
}

/// The bytes of a message; what does not fit into `limit` is left out and marked as truncated.
fn encode(message: &Message, limit: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    if message.emit(&mut encoder).is_ok() {
        return bytes;
    }
    message.truncate().to_vec().unwrap_or_default()
}
