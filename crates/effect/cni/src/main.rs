//! The CNI plugin as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cni::run()
}
