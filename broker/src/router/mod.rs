//! See the module's files.

pub mod topic_map;
pub mod trie;
