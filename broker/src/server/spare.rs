//! Buffers between two uses. A connection that is idle holds none, and one made anew for each packet would cost as much as the packet:
//! each thread keeps one for reading and one for writing, for whichever connection it serves next.

use std::cell::Cell;

use bytes::BytesMut;

/// A larger one is freed after its use: a thread keeps twice so much at most.
const KEEP_BYTES: usize = 64 * 1024;

/// A smaller one is not worth keeping.
const WORTH_BYTES: usize = 1024;

/// What a buffer is for. Those for reading are larger from the start, and shared with the messages in them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    Reading,
    Writing,
}

thread_local! {
    static SPARE: [Cell<BytesMut>; 2] = Default::default();
}

/// An empty buffer, with the room of an earlier one if there is one.
pub(super) fn take(purpose: Use) -> BytesMut {
    SPARE.with(|spare| spare[purpose as usize].take())
}

/// Keeps an empty buffer for the next use, unless it is too large or somebody still has a part of it.
pub(super) fn give_back(purpose: Use, mut buffer: BytesMut) {
    let is_ours = buffer.is_empty() && buffer.try_reclaim(WORTH_BYTES);
    if is_ours && !buffer.try_reclaim(KEEP_BYTES + 1) {
        SPARE.with(|spare| spare[purpose as usize].set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The room of a buffer that was given back, as far as it was kept.
    fn kept(buffer: BytesMut) -> usize {
        drop(take(Use::Reading));
        give_back(Use::Reading, buffer);
        let mut next = take(Use::Reading);
        assert!(next.is_empty());
        // What was read out of it is room again.
        let _ = next.try_reclaim(KEEP_BYTES);
        next.capacity()
    }

    #[test]
    fn a_buffer_is_used_again_whole_although_it_was_emptied_in_parts() {
        let mut buffer = BytesMut::with_capacity(4 * WORTH_BYTES);
        buffer.extend_from_slice(&[7; 4 * WORTH_BYTES]);
        drop(buffer.split_to(WORTH_BYTES));
        bytes::Buf::advance(&mut buffer, 3 * WORTH_BYTES);
        give_back(Use::Writing, buffer);
        let mut again = take(Use::Writing);
        assert!(again.try_reclaim(4 * WORTH_BYTES) && again.is_empty());
        assert_eq!(take(Use::Writing).capacity(), 0, "there is one");
    }

    #[test]
    fn one_that_is_large_or_shared_or_holds_something_is_not_kept() {
        assert!(kept(BytesMut::with_capacity(KEEP_BYTES)) >= KEEP_BYTES);
        assert_eq!(kept(BytesMut::with_capacity(KEEP_BYTES + 1)), 0);
        assert_eq!(kept(BytesMut::with_capacity(WORTH_BYTES - 1)), 0);
        let mut shared = BytesMut::with_capacity(4 * WORTH_BYTES);
        shared.extend_from_slice(&[7; 4 * WORTH_BYTES]);
        let part = shared.split_to(4 * WORTH_BYTES).freeze();
        assert_eq!(kept(shared), 0, "{} bytes are a message that somebody waits for", part.len());
        assert_eq!(kept(BytesMut::from(&[7; 2 * WORTH_BYTES][..])), 0);
    }
}
