//! How fast the node's DNS server answers, one question after the other:
//!
//! `dns_bench SERVER:PORT NAME [QUESTIONS]`

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, name, rest @ ..] = &args[..] else { return Err("arguments: SERVER:PORT NAME [QUESTIONS]".into()) };
    let questions: usize = rest.first().map_or(Ok(20_000), |n| n.parse())?;
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let bytes = query.to_vec()?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buf = [0; 1500];
    let mut times = Vec::with_capacity(questions);
    for _ in 0..questions {
        let started = Instant::now();
        socket.send(&bytes)?;
        let len = socket.recv(&mut buf)?;
        times.push(started.elapsed());
        if Message::from_vec(&buf[..len])?.answers.is_empty() {
            return Err("an empty answer".into());
        }
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{questions} answers: p50 {:?} p99 {:?} max {:?}", at(50), at(99), at(100));
    Ok(())
}
