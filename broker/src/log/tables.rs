//! Where the live value of every table key lies. Pure, in memory: 64 bytes or so per key, rebuilt at open from table blocks and frames.

use std::collections::HashMap;

/// Where a table record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Record `index` of a frame that is in no epoch yet.
    Tail { group: u64, index: u32 },
    /// Record `ordinal` of the table in an epoch.
    Epoch { epoch: u32, ordinal: u32 },
}

/// The live record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) place: Place,
    /// Bytes of key and value.
    pub(super) bytes: u32,
}

/// What a group does to a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableOp {
    pub(super) table: u8,
    pub(super) key: u128,
    /// Index of the record in its frame.
    pub(super) index: u32,
    /// Bytes of key and value; `None` removes the key.
    pub(super) put: Option<u32>,
}

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    maps: HashMap<u8, HashMap<u128, Live>>,
    /// Bytes of keys and values that are live.
    live_bytes: u64,
}

impl Tables {
    /// Bytes of keys and values that are live.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Keys that are live.
    pub(super) fn keys(&self) -> u64 {
        self.maps.values().map(|m| m.len() as u64).sum()
    }

    pub(super) fn live(&self, table: u8, key: u128) -> Option<Live> {
        self.maps.get(&table)?.get(&key).copied()
    }

    /// All live records of a table.
    pub(super) fn all(&self, table: u8) -> Vec<(u128, Live)> {
        self.maps.get(&table).map(|m| m.iter().map(|(k, v)| (*k, *v)).collect()).unwrap_or_default()
    }

    /// The key now has this record, or none.
    pub(super) fn set(&mut self, table: u8, key: u128, live: Option<Live>) {
        let map = self.maps.entry(table).or_default();
        let before = match live {
            Some(live) => {
                self.live_bytes += u64::from(live.bytes);
                map.insert(key, live)
            }
            None => map.remove(&key),
        };
        self.live_bytes -= before.map_or(0, |b| u64::from(b.bytes));
    }

    /// The record moved; nothing happens if the key got another one meanwhile.
    pub(super) fn moved(&mut self, table: u8, key: u128, from: Place, to: Place) {
        if let Some(live) = self.maps.get_mut(&table).and_then(|m| m.get_mut(&key))
            && live.place == from
        {
            live.place = to;
        }
    }
}
