//! The CNI plugin as a program of its own.

use std::process::ExitCode;

/// musl's own gives memory back to the kernel at once, fifty times in an ADD.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    weft_cni::run()
}
