//! What the console may look at. Nothing in it can be changed through it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Settings;
use crate::publisher::follow::{Doing, SlotState};
use crate::publisher::stream::Progress;
use crate::registry::Registry;

/// The daemon, as its console sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub registry: Arc<Registry>,
    pub progress: watch::Receiver<Progress>,
    pub slot_state: watch::Receiver<SlotState>,
    pub settings: watch::Receiver<Arc<Settings>>,
}

/// In one word or two, for tables.
pub(super) fn doing(doing: Doing) -> &'static str {
    match doing {
        Doing::Connecting => "connecting",
        Doing::Creating => "creating the slot",
        Doing::Standby => "standby",
        Doing::Streaming => "streaming",
        Doing::Idle => "idle",
    }
}
