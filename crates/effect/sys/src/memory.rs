//! What the allocator keeps for later.

/// Gives memory that is free back to the kernel: after a large list was read, of which little
/// stays. Where the C library can't, nothing happens.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the allocator's own locks and touches no memory that is in
    // use; 0 leaves no room at the top.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has all threads allocate from one arena: for a process that lives for milliseconds, whose
/// threads would each have one of their own made. Where the C library can't, nothing happens.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) changes a number, and is called before another thread is there.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
