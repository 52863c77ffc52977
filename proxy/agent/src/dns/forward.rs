//! Asks upstream resolvers what the cluster does not know, and remembers the answers for a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nothing is remembered for longer, so that a change elsewhere is seen soon.
const MAX_AGE: Duration = Duration::from_secs(30);
const MAX_CACHED: usize = 2048;

type Key = (Name, RecordType, bool);

struct Cached {
    message: Message,
    stored: Instant,
    lifetime: Duration,
}

/// The upstream resolvers and the cache in front of them.
pub struct Forwarder {
    resolvers: Vec<SocketAddr>,
    cache: Mutex<HashMap<Key, Cached>>,
}

impl Forwarder {
    /// Forwards to these, in this order.
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers, cache: Mutex::default() }
    }

    /// A remembered answer to the query, with what is left of its time to live.
    pub fn remembered(&self, query: &Message) -> Option<Message> {
        let key = key(query)?;
        let cache = self.cache.lock().expect("nothing panics with the cache locked");
        let cached = cache.get(&key)?;
        let age = cached.stored.elapsed();
        if age >= cached.lifetime {
            return None;
        }
        let mut message = cached.message.clone();
        let seconds = age.as_secs() as u32;
        for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            records.iter_mut().for_each(|r| r.ttl = r.ttl.saturating_sub(seconds));
        }
        message.metadata.id = query.metadata.id;
        message.queries = query.queries.clone();
        Some(message)
    }

    /// The first useful answer of a resolver. `stream` asks over TCP at once.
    pub async fn ask(&self, query: &Message, stream: bool) -> io::Result<Message> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no upstream resolver");
        let mut refused = None;
        for resolver in &self.resolvers {
            let answer = tokio::time::timeout(PATIENCE, exchange(*resolver, query, stream)).await;
            match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) => match answer.metadata.response_code {
                    ResponseCode::ServFail | ResponseCode::Refused => refused = Some(answer),
                    _ => {
                        self.remember(query, &answer);
                        return Ok(answer);
                    }
                },
                Err(e) => last = e,
            }
        }
        refused.ok_or(last)
    }

    fn remember(&self, query: &Message, answer: &Message) {
        let lifetime = lifetime(answer);
        let Some(key) = key(query).filter(|_| !lifetime.is_zero() && !answer.metadata.truncation) else { return };
        let mut cache = self.cache.lock().expect("nothing panics with the cache locked");
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, c| c.stored.elapsed() < c.lifetime);
        }
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(key, Cached { message: answer.clone(), stored: Instant::now(), lifetime });
    }
}

fn key(query: &Message) -> Option<Key> {
    let question = query.queries.first()?;
    let dnssec = query.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
    Some((question.name().to_lowercase(), question.query_type(), dnssec))
}

/// How long an answer may be remembered: the shortest of its records, or what its SOA says for a negative one.
fn lifetime(answer: &Message) -> Duration {
    let shortest = answer.answers.iter().map(|r| r.ttl).min();
    let negative = answer.authorities.iter().find_map(|r| match &r.data {
        RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
        _ => None,
    });
    let positive = answer.metadata.response_code == ResponseCode::NoError;
    let known = positive || answer.metadata.response_code == ResponseCode::NXDomain;
    let seconds = shortest.filter(|_| positive).or(negative).filter(|_| known).unwrap_or(0);
    Duration::from_secs(seconds.into()).min(MAX_AGE)
}

async fn exchange(resolver: SocketAddr, query: &Message, stream: bool) -> io::Result<Message> {
    let mut question = query.clone();
    question.metadata.id = rand::random();
    question.metadata.recursion_desired = true;
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let mut answer =
        if stream { over_tcp(resolver, &bytes).await? } else { over_udp(resolver, &bytes, &question).await? };
    if !answers(&answer, &question) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"));
    }
    answer.metadata.id = query.metadata.id;
    answer.queries = query.queries.clone();
    Ok(answer)
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id
        && answer.queries.len() == question.queries.len()
        && answer
            .queries
            .iter()
            .zip(&question.queries)
            .all(|(a, q)| a.name().to_lowercase() == q.name().to_lowercase() && a.query_type() == q.query_type())
}

async fn over_udp(resolver: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any: IpAddr = if resolver.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buf = vec![0; 4096];
    loop {
        let len = socket.recv(&mut buf).await?;
        // Whoever sends something else is not the resolver.
        if let Ok(message) = Message::from_vec(&buf[..len])
            && answers(&message, question)
        {
            return Ok(message);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; len.into()];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(io::Error::other)
}

/// The name servers of a resolv.conf, but for `not`.
pub fn resolv_conf(text: &str, not: IpAddr) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    servers.filter(|ip| *ip != not).map(|ip| SocketAddr::new(ip, 53)).collect()
}
