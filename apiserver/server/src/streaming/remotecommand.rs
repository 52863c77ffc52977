//! The v5 remote command protocol of WebSocket clients (KEP-4006), turned into the SPDY streams that runtimes speak:
//! every message begins with its channel, and 255 followed by a channel closes that channel.

use std::pin::pin;

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::spdy;
use super::websocket::{self, Socket};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Carries the command's streams until it has ended and all it wrote was delivered, or either side is gone.
pub async fn carry(socket: Socket, mut connection: spdy::Connection, streams: Streams) {
    let mut open = async |kind: &str| connection.stream(&[("streamtype", kind)]).await;
    let (_error_in, error) = open("error").await;
    let stdin = if streams.stdin { Some(open("stdin").await) } else { None };
    let stdout = if streams.stdout { Some(open("stdout").await.1) } else { None };
    let stderr = if streams.stderr && !streams.tty { Some(open("stderr").await.1) } else { None };
    let resize = if streams.tty { Some(open("resize").await.0) } else { None };
    let (mut to_client, mut from_client) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let write = async {
        while let Some(message) = outgoing.recv().await {
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let _ = to_client.send(websocket::goodbye()).await;
    };
    let pongs = sender.clone();
    let finished = async move {
        let outputs = [(STDOUT, stdout), (STDERR, stderr)];
        let outputs = outputs.into_iter().filter_map(|(channel, from)| Some(pump(&sender, channel, from?)));
        futures::future::join_all(outputs).await;
        // The verdict comes last, when everything the command wrote was sent; then the socket is closed.
        pump(&sender, ERROR, error).await;
    };
    let read = async {
        let pongs = pongs;
        tokio::select! {
            () = read(&mut from_client, &pongs, stdin.map(|(sender, _)| sender), resize) => true,
            // Only the pong sender is left when the outputs have ended.
            () = finished => false,
        }
    };
    let (mut write, mut read) = (pin!(write), pin!(read));
    let gone = tokio::select! {
        () = &mut write => true,
        gone = &mut read => gone,
    };
    if !gone {
        write.await;
    }
}

/// Sends what a stream brings, under its channel's number.
async fn pump(sender: &mpsc::Sender<Message>, channel: u8, mut from: spdy::Receiver) {
    while let Some(data) = from.next().await {
        let mut message = Vec::with_capacity(1 + data.len());
        message.push(channel);
        message.extend_from_slice(&data);
        if sender.send(Message::Binary(message.into())).await.is_err() {
            return;
        }
    }
}

/// Delivers the client's messages until it hangs up.
async fn read(
    from_client: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    pongs: &mpsc::Sender<Message>,
    stdin: Option<spdy::Sender>,
    resize: Option<spdy::Sender>,
) {
    while let Some(Ok(message)) = from_client.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(data) => {
                let _ = pongs.send(Message::Pong(data)).await;
                continue;
            }
            Message::Close(_) => return,
            _ => continue,
        };
        deliver(&data, stdin.as_ref(), resize.as_ref()).await;
    }
}

async fn deliver(data: &Bytes, stdin: Option<&spdy::Sender>, resize: Option<&spdy::Sender>) {
    match (data.first(), stdin, resize) {
        (Some(&STDIN), Some(stdin), _) if data.len() > 1 => {
            stdin.send(data.slice(1..)).await;
        }
        (Some(&RESIZE), _, Some(resize)) if data.len() > 1 => {
            resize.send(data.slice(1..)).await;
        }
        (Some(&CLOSE), Some(stdin), _) if data.get(1) == Some(&STDIN) => {
            stdin.finish().await;
        }
        _ => {}
    }
}
