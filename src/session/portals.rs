//! Portals of the extended protocol, by the client's names.

use crate::plan::{CopyIn, Template};
use crate::session::config::Followed;
use crate::session::control::Control;
use crate::session::extended::Name;
use crate::session::oids::Columns;
use crate::shards::ShardId;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) enum Portal {
    On {
        shard: ShardId,
        template: Arc<Template>,
        columns: Option<Columns>,
        /// a COPY whose rows decide the route; `shard` is only asked
        rows: Option<Arc<CopyIn>>,
        /// what the first Execute is going to set
        makes: Option<Box<Followed>>,
    },
    /// served by pgweir
    Control { control: Control, text: Box<str> },
}

/// Most clients have none but the unnamed one, which needs no table.
#[derive(Debug, Default)]
pub(super) struct Portals {
    unnamed: Option<Portal>,
    named: HashMap<Name, Portal, foldhash::fast::RandomState>,
}

impl Portals {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }
    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }
    pub(super) fn insert(&mut self, name: Name, portal: Portal) {
        if name.is_empty() {
            self.unnamed = Some(portal);
        } else {
            self.named.insert(name, portal);
        }
    }
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Portal> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }
    pub(super) fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
    }
}
