//! Links the binary at a fixed address.
//!
//! Position-independent, it carries some 200,000 relocations, which the dynamic linker writes
//! into memory of the process's own before `main`: 1 MiB of a release build (a lab of two nodes
//! has 17 processes of it: 30 MiB of anonymous memory instead of 16), 3 MiB of a debug build; and
//! a CNI plugin pays for it at every call. Given up is the random address of the binary itself:
//! stacks, heap and libraries stay at random addresses.
//!
//! What is released is static as well (`scripts/release` asks for it), which spares the dynamic
//! linker and asks nothing of the C library of the node that the plugin is copied to.
//!
//! It also has within it the plugin as a program of its own (`weft-cni`), named by `WEFT_PLUGIN`:
//! what a node's runtime executes for each pod is then a few MiB that lie close together. Without,
//! the binary itself is put on nodes, and does the same in more time.

use std::path::PathBuf;
use std::{env, fs, io};

/// The plugin's file.
const PLUGIN: &str = "WEFT_PLUGIN";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    // A target's own flags stand: `-static-pie` and `-no-pie` do not go together.
    let given = |variable, value| env::var(variable).is_ok_and(|text| text.contains(value));
    if given("CARGO_CFG_TARGET_OS", "linux")
        && given("CARGO_CFG_TARGET_ENV", "gnu")
        && !given("CARGO_CFG_TARGET_FEATURE", "crt-static")
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
    include_plugin()
}

fn include_plugin() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={PLUGIN}");
    let within = match env::var_os(PLUGIN).map(PathBuf::from) {
        None => Vec::new(),
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            let plugin = fs::read(&path);
            plugin
                .and_then(|plugin| match plugin.is_empty() {
                    true => Err(io::Error::other("it is empty")),
                    false => Ok(plugin),
                })
                .map_err(|error| format!("{PLUGIN}: {}: {error}", path.display()))?
        }
    };
    let folder = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default();
    fs::write(folder.join("plugin"), within).map_err(|error| format!("{folder:?}: {error}"))
}
