//! What becomes of an object whose owners may be gone.

use hashbrown::HashMap;
use skeg_controller_runtime::{Meta, Owner, Propagation, Str};

use super::graph::{FOREGROUND, ORPHAN};

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists.
    Solid,
    /// There is no such object.
    Absent,
    /// It is being deleted in the foreground and waits for its dependents.
    Waiting,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Keep,
    /// Only these owner references remain.
    KeepOwners(Vec<Owner>),
    /// Its own dependents wait too: they must not block it for ever (a cycle), then it goes in the foreground.
    DeleteUnblocked,
    Delete(Propagation),
}

/// Decides by the live object, its owners' states, and whether it has dependents that go in the foreground
/// (`Some(true)`), dependents at all (`Some(false)`) or none.
pub fn plan(live: &Meta, states: &HashMap<Str, OwnerState>, dependents: Option<bool>) -> Action {
    if live.owners.is_empty() {
        return Action::Keep;
    }
    let state = |o: &&Owner| states.get(&o.uid).copied().unwrap_or(OwnerState::Solid);
    let solid: Vec<&Owner> = live.owners.iter().filter(|o| state(o) == OwnerState::Solid).collect();
    if !solid.is_empty() {
        return if solid.len() == live.owners.len() {
            Action::Keep
        } else {
            Action::KeepOwners(solid.into_iter().cloned().collect())
        };
    }
    let waiting = live.owners.iter().any(|o| state(&o) == OwnerState::Waiting);
    if waiting && let Some(foreground) = dependents {
        return if foreground { Action::DeleteUnblocked } else { Action::Delete(Propagation::Foreground) };
    }
    Action::Delete(if live.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if live.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}
