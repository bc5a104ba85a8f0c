//! All live records of a table. Every block and every frame is unpacked and walked once, however many of its records are live: a table
//! of a hundred thousand keys is read at each start.

use bytes::Bytes;

use super::ReadError;
use super::held::Source;
use super::layout::{TABLE_BASE, TAG_PUT};
use super::record::TableId;
use super::records::{FrameRecords, Record};
use super::shared::{Content, Shared};
use super::tables::{Live, Place};

type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes);

impl Shared {
    /// See `Log::table_scan`.
    pub(super) fn table_scan(&self, table: TableId, visit: Visit<'_>) -> Result<(), ReadError> {
        let mut all = self.lock().tables.all(table.0);
        // As they lie.
        all.sort_unstable_by_key(|(_, live)| match live.place {
            Place::Epoch { epoch, ordinal } => (0, u64::from(epoch), ordinal),
            Place::Tail { group, index } => (1, group, index),
        });
        let mut rest = &all[..];
        while let Some((_, first)) = rest.first() {
            let together = match first.place {
                Place::Epoch { epoch, ordinal } => self.scan_block(table, epoch, ordinal, rest, visit)?,
                Place::Tail { group, .. } => self.scan_frame(table, group, rest, visit)?,
            };
            rest = &rest[together..];
        }
        Ok(())
    }

    /// Visits those at the front of `rest` that lie in the block with this ordinal, at least one. Returns how many those are.
    fn scan_block(
        &self,
        table: TableId,
        epoch: u32,
        ordinal: u32,
        rest: &[(u128, Live)],
        visit: Visit<'_>,
    ) -> Result<usize, ReadError> {
        let at = u64::from(ordinal);
        let Ok(Some(Content::Block(block))) =
            self.content(Source::Epoch(epoch), TABLE_BASE + u32::from(table.0), at, at)
        else {
            self.scan_one(table, rest[0], None, visit)?;
            return Ok(1);
        };
        let mut messages = block.messages().map_while(Result::ok);
        let mut count = 0;
        for &(hash, live) in rest {
            let Place::Epoch { epoch: e, ordinal } = live.place else { break };
            let seq = u64::from(ordinal);
            if e != epoch || seq > block.last_seq {
                break;
            }
            let found = messages.find(|m| m.seq >= seq).filter(|m| m.seq == seq && m.tag == TAG_PUT);
            self.scan_one(table, (hash, live), found.map(|m| (m.subject, block.body.slice_ref(m.payload))), visit)?;
            count += 1;
        }
        Ok(count)
    }

    /// The same for the frame of a group.
    fn scan_frame(
        &self,
        table: TableId,
        group: u64,
        rest: &[(u128, Live)],
        visit: Visit<'_>,
    ) -> Result<usize, ReadError> {
        let Ok(Some(Content::Frame { body, .. })) =
            self.content(Source::Frame(group), TABLE_BASE + u32::from(table.0), 0, 0)
        else {
            self.scan_one(table, rest[0], None, visit)?;
            return Ok(1);
        };
        let mut records = (0_u32..).zip(FrameRecords::new(&body));
        let mut count = 0;
        for &(hash, live) in rest {
            let Place::Tail { group: g, index } = live.place else { break };
            if g != group {
                break;
            }
            let found = match records.find(|(at, _)| *at == index) {
                Some((_, Ok(Record::Put { key, value, .. }))) => Some((key, body.slice_ref(value))),
                _ => None,
            };
            self.scan_one(table, (hash, live), found, visit)?;
            count += 1;
        }
        Ok(count)
    }

    /// Visits what was found of a key, if that is still its record. If not, or where nothing was found, it is looked for by itself.
    fn scan_one(
        &self,
        table: TableId,
        (hash, live): (u128, Live),
        found: Option<(&[u8], Bytes)>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError> {
        match found {
            Some((key, value)) if self.lock().tables.live(table.0, hash) == Some(live) => visit(key, value),
            _ => {
                if let Some((key, value)) = self.table_record(table, hash)? {
                    visit(&key, value);
                }
            }
        }
        Ok(())
    }
}
