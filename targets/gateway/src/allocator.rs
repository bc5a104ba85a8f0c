//! The allocator of the process: one heap for all threads.
//!
//! Under full load some 4.5 MB are in use at once. One heap holds that in 6 MiB; glibc's, which gives each thread one of its own, in
//! 11 to 15, and musl's in 8, at the same or a higher cost per message (`benches/NOTES.md`).

use dlmalloc::GlobalDlmalloc;

#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;
