//! Running iptables' programs.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use weft_desired::IpFamily;
use weft_iptables::{Chain, Listing, Restore, Table};

use super::Error;

/// How many seconds to wait for somebody else who is writing (kube-proxy's, too).
const PATIENCE: &str = "5";
/// The names of the tables that legacy iptables has in this network namespace; there is no
/// file without its kernel module.
const LEGACY_TABLES: [&str; 2] = [
    "/proc/thread-self/net/ip_tables_names",
    "/proc/thread-self/net/ip6_tables_names",
];
/// A chain by which a kubelet says which variant it uses.
const HINT: &str = "KUBE-IPTABLES-HINT";

/// Which of the kernel's two implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Over nf_tables.
    Nft,
    /// The one before.
    Legacy,
}

impl Variant {
    /// As its programs are named.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Nft => "nft",
            Variant::Legacy => "legacy",
        }
    }
}

/// The programs of a family and variant.
#[derive(Debug)]
pub(super) struct Programs {
    family: IpFamily,
    variant: Variant,
}

impl Programs {
    pub(super) fn new(family: IpFamily, variant: Variant) -> Self {
        Self { family, variant }
    }

    pub(super) fn variant(&self) -> Variant {
        self.variant
    }

    fn name(&self, suffix: &str) -> String {
        let base = match self.family {
            IpFamily::V4 => "iptables",
            IpFamily::V6 => "ip6tables",
        };
        format!("{base}-{}{suffix}", self.variant.name())
    }

    /// All that there is.
    pub(super) fn save(&self) -> Result<Listing, Error> {
        let output = run(&self.name("-save"), &[], "")?;
        Ok(Listing::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// All that there is, as it is printed with what each rule has counted.
    pub(super) fn save_with_counts(&self) -> Result<String, Error> {
        let output = run(&self.name("-save"), &["--counters"], "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a change. Other users of iptables wait meanwhile, and are waited for.
    pub(super) fn restore(&self, restore: &Restore) -> Result<(), Error> {
        let arguments = ["--noflush", "--counters", "--wait", PATIENCE];
        let text = match self.variant {
            Variant::Nft => restore.text_in_steps(),
            // Each transaction is the whole table, read and replaced.
            Variant::Legacy => restore.text(),
        };
        run(&self.name("-restore"), &arguments, &text).map_err(|error| locate(error, &text))?;
        Ok(())
    }
}

/// The variant that the machine's other users have: the one where a kubelet left its hint, or
/// else the one with more rules; both of them nf_tables first.
pub(super) fn chosen_variant() -> Result<Variant, Error> {
    let variants = present_variants()?;
    let mut most = (variants[0], 0);
    for variant in &variants {
        let mut rules = 0;
        for family in IpFamily::BOTH {
            let listing = Programs::new(family, *variant).save()?;
            let hinted = [Chain::named(HINT), Chain::KUBELET_CANARY]
                .iter()
                .any(|chain| listing.has(Table::Mangle, chain));
            if hinted {
                return Ok(*variant);
            }
            let counts = listing.chains().map(|(_, _, rules)| rules.len());
            rules += counts.sum::<usize>();
        }
        if rules > most.1 {
            most = (*variant, rules);
        }
    }
    Ok(most.0)
}

/// The variants that may hold rules, nf_tables first. Legacy's programs are not run where it
/// holds none: they'd make its tables.
pub(super) fn present_variants() -> Result<Vec<Variant>, Error> {
    let has = |variant| {
        let program = Programs::new(IpFamily::V4, variant).name("-restore");
        match run(&program, &["--version"], "") {
            Ok(_) => Ok(true),
            Err(Error::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    let mut variants = Vec::new();
    if has(Variant::Nft)? {
        variants.push(Variant::Nft);
    }
    let legacy = LEGACY_TABLES
        .iter()
        .any(|file| std::fs::read_to_string(file).is_ok_and(|tables| !tables.trim().is_empty()));
    if (legacy || variants.is_empty()) && has(Variant::Legacy)? {
        variants.push(Variant::Legacy);
    }
    if variants.is_empty() {
        return Err(Error::Missing("iptables-nft-restore".to_owned()));
    }
    Ok(variants)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<Output, Error> {
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            return Error::Missing(program.to_owned());
        }
        Error::Run {
            program: program.to_owned(),
            source,
        }
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // It reads all of its input before it says much.
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = match said.trim() {
            "" => output.status.to_string(),
            said => said.to_owned(),
        };
        return Err(Error::Failed {
            program: program.to_owned(),
            reason,
        });
    }
    written.transpose().map_err(failed)?;
    Ok(output)
}

/// Adds the line that a complaint names by its number.
fn locate(error: Error, text: &str) -> Error {
    let Error::Failed { program, reason } = error else {
        return error;
    };
    let number = reason
        .split_once("line ")
        .map(|(_, rest)| rest.trim_start_matches(|c: char| !c.is_ascii_digit()))
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse::<usize>().ok());
    let line = number.and_then(|number| text.lines().nth(number.checked_sub(1)?));
    let reason = match line {
        Some(line) => format!("{reason}: {line}"),
        None => reason,
    };
    Error::Failed { program, reason }
}
