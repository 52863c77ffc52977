//! Requests that become streams to a node or a pod: logs, exec, attach, port-forward, proxy.
//!
//! ```text
//!  SPDY, WebSocket v4 and older ── bytes as they are ───────────────▶ kubelet ─▶ runtime
//!  WebSocket v5 ── websocket ─ remotecommand ─ spdy ────────────────▶ kubelet     (upstream: StreamTranslatorHandler)
//!  SPDY inside WebSocket (port-forward) ── websocket ─ bytes ───────▶ kubelet     (upstream: TunnelingHandler)
//! ```
//!
//! Authentication and authorization are behind us here; admission of a connect is run before anything is opened.

pub mod exec;
pub mod kubelet;
pub mod links;
pub mod logs;
pub mod portforward;
pub mod proxy;
pub mod remotecommand;
pub mod spdy;
pub mod tunnel;
pub mod websocket;
