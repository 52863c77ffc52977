//! Connection tracking entries: lists the flows of one protocol and deletes those that a predicate names.

use std::net::SocketAddr;

use crate::encode::{address, attribute};
use crate::kernel::Netlink;
use crate::{Error, Family};

const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

/// One tracked flow: where its first packet was sent, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination as the client wrote it.
    pub original_dest: SocketAddr,
    /// Source of the answers: the endpoint after translation.
    pub reply_source: SocketAddr,
}

/// The conntrack table of the network namespace this was opened in.
pub struct Conntrack {
    socket: Netlink,
}

impl Conntrack {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Netlink::open()? })
    }

    /// Deletes every flow of the protocol for which `stale` holds; returns how many.
    pub fn sweep(&mut self, family: Family, proto: u8, mut stale: impl FnMut(Flow) -> bool) -> Result<usize, Error> {
        let mut doomed = Vec::new();
        self.socket.dump(
            GET,
            family as u8,
            |_| {},
            |_, entry| {
                if let Some(flow) = parse(entry, proto).filter(|flow| stale(*flow)) {
                    let original = attribute(entry, TUPLE_ORIG).unwrap_or(&[]).to_vec();
                    doomed.push((flow, original, attribute(entry, ID).unwrap_or(&[]).to_vec()));
                }
            },
        )?;
        let mut deleted = 0;
        for (_, original, id) in doomed {
            let result = self.socket.request(DELETE, family as u8, |out| {
                out.bytes(TUPLE_ORIG | 0x8000, &original);
                out.bytes(ID, &id);
            });
            match result {
                Ok(()) => deleted += 1,
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }
}

fn parse(entry: &[u8], proto: u8) -> Option<Flow> {
    let original = attribute(entry, TUPLE_ORIG)?;
    let reply = attribute(entry, TUPLE_REPLY)?;
    if attribute(attribute(original, 2)?, 1)? != [proto] {
        return None;
    }
    let ip = |tuple, v4, v6| {
        let ip = attribute(tuple, 1)?;
        address(attribute(ip, v4).or_else(|| attribute(ip, v6))?)
    };
    let port = |tuple, kind| {
        let port: [u8; 2] = attribute(attribute(tuple, 2)?, kind)?.try_into().ok()?;
        Some(u16::from_be_bytes(port))
    };
    Some(Flow {
        original_dest: SocketAddr::new(ip(original, 2, 4)?, port(original, 3)?),
        reply_source: SocketAddr::new(ip(reply, 1, 3)?, port(reply, 2)?),
    })
}
