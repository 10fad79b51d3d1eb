//! Links the binary at a fixed address.
//!
//! Position-independent, it carries some 200,000 relocations, which the dynamic linker writes
//! into memory of the process's own before `main`: 1 MiB of a release build (a lab of two nodes
//! has 17 processes of it: 30 MiB of anonymous memory instead of 16), 3 MiB of a debug build; and
//! a CNI plugin pays for it at every call. Given up is the random address of the binary itself:
//! stacks, heap and libraries stay at random addresses.
//!
//! What is released is static as well (the Makefile asks for it), which spares the dynamic linker
//! and asks nothing of the C library of the node that the plugin is copied to.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A target's own flags stand: `-static-pie` and `-no-pie` do not go together.
    let given = |variable, value| std::env::var(variable).is_ok_and(|text| text.contains(value));
    if given("CARGO_CFG_TARGET_OS", "linux")
        && given("CARGO_CFG_TARGET_ENV", "gnu")
        && !given("CARGO_CFG_TARGET_FEATURE", "crt-static")
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
