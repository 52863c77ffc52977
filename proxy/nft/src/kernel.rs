//! The netlink door to nf_tables: sends a transaction as one batch, reads the answers, dumps chains and elements.
//!
//! A netlink request is executed inside `send`, so every call is synchronous and short. The socket belongs to the network
//! namespace of the thread that opened it.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::encode::{self, Messages};
use crate::object::{Element, Family};
use crate::{Error, Nft, Transaction};

/// Large enough for a batch of 100,000 services; a limit, not an allocation.
const SEND_BUFFER: usize = 256 << 20;
const RECEIVE_BUFFER: usize = 8 << 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const MSG_DONTWAIT: i32 = 0x40;
const EAGAIN: i32 = 11;
const ENOENT: i32 = 2;

/// nf_tables of the network namespace this was opened in.
pub struct Kernel {
    socket: Netlink,
}

impl Kernel {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Netlink::open()? })
    }
}

impl Nft for Kernel {
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        let first = self.socket.seq.wrapping_add(1);
        let (messages, owners) = encode::batch(transaction.family, &transaction.table, &transaction.commands, first);
        self.socket.seq = messages.last_seq + 1;
        let mut failure = None;
        self.socket.send(&messages)?;
        self.socket.receive(|seq, kind, body| {
            if kind == NLMSG_ERROR {
                let (code, detail) = parse_error(body)?;
                if code != 0 && failure.is_none() {
                    failure = Some((seq, code, detail));
                }
            }
            Ok(seq == messages.last_seq || seq == first && failure.is_some())
        })?;
        self.socket.drain()?;
        let Some((seq, code, detail)) = failure else {
            return Ok(());
        };
        let command = match owners.get(seq.wrapping_sub(first + 1) as usize) {
            Some(index) => format!("\"{}\" in table {}", transaction.commands[*index], transaction.table),
            None => format!("a transaction of {} commands on table {}", owners.len(), transaction.table),
        };
        Err(Error::Refused { command, detail, source: io::Error::from_raw_os_error(code) })
    }

    fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error> {
        let mut chains = Vec::new();
        self.socket.dump(
            encode::GETCHAIN,
            family as u8,
            |_| {},
            |kind, body| {
                if kind == encode::NEWCHAIN && encode::text(body, 1).as_deref() == Some(table) {
                    chains.extend(encode::text(body, 3));
                }
            },
        )?;
        Ok(chains)
    }

    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, Error> {
        let mut elements = Vec::new();
        let request = |out: &mut Messages| {
            out.str(1, table);
            out.str(2, set);
        };
        self.socket.dump(encode::GETSETELEM, family as u8, request, |kind, body| {
            if kind == encode::NEWSETELEM {
                let list = encode::attribute(body, 3).unwrap_or(&[]);
                elements.extend(encode::attributes(list).filter_map(|(_, e)| encode::decode_element(e)));
            }
        })?;
        Ok(elements)
    }
}

/// A NETLINK_NETFILTER socket.
pub(crate) struct Netlink {
    socket: Socket,
    pub(crate) seq: u32,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = |e| Error::Socket("open", e);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(open)?;
        socket.bind_auto().map_err(open)?;
        let sys = |e: nix::Error| open(io::Error::from(e));
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &SEND_BUFFER).map_err(sys)?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER).map_err(sys)?;
        // Older kernels lack these; answers are then longer and say less.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Self { socket, seq: 0 })
    }

    pub(crate) fn send(&self, messages: &Messages) -> Result<(), Error> {
        self.socket.send_to(&messages.buf, &SocketAddr::new(0, 0), 0).map_err(|e| Error::Socket("send", e))?;
        Ok(())
    }

    /// Hands every message (sequence number, type, body) to `handle` until it says that it has enough.
    pub(crate) fn receive(&self, mut handle: impl FnMut(u32, u16, &[u8]) -> Result<bool, Error>) -> Result<(), Error> {
        let mut buf = Vec::with_capacity(64 << 10);
        loop {
            buf.clear();
            self.socket.recv(&mut buf, 0).map_err(|e| Error::Socket("receive", e))?;
            let mut rest = &buf[..];
            let mut enough = false;
            while rest.len() >= 16 {
                let field = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let len = field(0) as usize;
                let body = rest.get(16..len).ok_or(Error::Malformed("message length"))?;
                enough |= handle(field(8), u16::from_ne_bytes([rest[4], rest[5]]), body)?;
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
            }
            if enough {
                return Ok(());
            }
        }
    }

    /// Discards answers that nobody waits for.
    fn drain(&self) -> Result<(), Error> {
        let mut buf = Vec::with_capacity(64 << 10);
        loop {
            buf.clear();
            match self.socket.recv(&mut buf, MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(EAGAIN) => return Ok(()),
                Err(e) => return Err(Error::Socket("receive", e)),
            }
        }
    }

    /// One dump request; every object's type and attributes go to `handle`. What does not exist dumps as nothing.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        family: u8,
        request: impl FnOnce(&mut Messages),
        mut handle: impl FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        let mut out = Messages::default();
        out.start(kind, encode::DUMP, seq, family, 0);
        request(&mut out);
        out.finish();
        self.send(&out)?;
        self.receive(|answer, kind, body| {
            if answer != seq {
                return Ok(false);
            }
            match kind {
                NLMSG_DONE => Ok(true),
                NLMSG_ERROR => match parse_error(body)? {
                    (0 | ENOENT, _) => Ok(true),
                    (code, detail) => Err(Error::Refused {
                        command: "a dump".into(),
                        detail,
                        source: io::Error::from_raw_os_error(code),
                    }),
                },
                _ => {
                    handle(kind, body.get(4..).unwrap_or(&[]));
                    Ok(false)
                }
            }
        })
    }

    /// One request that is answered by an acknowledgement.
    pub(crate) fn request(&mut self, kind: u16, family: u8, request: impl FnOnce(&mut Messages)) -> Result<(), Error> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        let mut out = Messages::default();
        out.start(kind, encode::ACK, seq, family, 0);
        request(&mut out);
        out.finish();
        self.send(&out)?;
        let mut answer = (0, None);
        self.receive(|got, kind, body| {
            if got == seq && kind == NLMSG_ERROR {
                answer = parse_error(body)?;
            }
            Ok(got == seq)
        })?;
        match answer {
            (0, _) => Ok(()),
            (code, detail) => {
                Err(Error::Refused { command: "a request".into(), detail, source: io::Error::from_raw_os_error(code) })
            }
        }
    }
}

/// Error number (0 is success) and the kernel's words, if it has any.
fn parse_error(body: &[u8]) -> Result<(i32, Option<String>), Error> {
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    let code = code.ok_or(Error::Malformed("error code"))?;
    // The header of the refused message follows, then the extended acknowledgement; nothing else with capped answers.
    let detail = body.get(20..).and_then(|attributes| encode::text(attributes, 1));
    Ok((-code, detail.filter(|d| !d.is_empty() && d.is_ascii())))
}
