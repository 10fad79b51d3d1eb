//! A lab's processes as this machine sees them: no program has to look for them inside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, eventually, expect};

/// Every process's parent.
fn parents() -> BTreeMap<u32, u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // proc(5): the command's name in parentheses, the state, the parent.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && let Some((_, rest)) = stat.rsplit_once(") ")
            && let Some(parent) = rest.split(' ').nth(1)
        {
            parents.insert(pid, parent.parse::<u32>().unwrap());
        }
    }
    parents
}

fn has_command(pid: u32, command: &str) -> bool {
    command_line(pid).is_some_and(|line| line.starts_with(command))
}

/// None of a process that is gone.
fn command_line(pid: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    Some(line.replace('\0', " "))
}

#[track_caller]
fn kill_outright(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// Kills a process's only child, which has such a command line.
#[track_caller]
pub(super) fn kill_child(parent: u32, command: &str) {
    let child = eventually(&format!("{parent} has begun {command}"), || {
        let parents = parents();
        let children: Vec<u32> = parents
            .iter()
            .filter(|(pid, its)| **its == parent && has_command(**pid, command))
            .map(|(pid, _)| *pid)
            .collect();
        expect(children, |children| children.len() == 1)
    })[0];
    kill_outright(child);
}

/// A process that is stopped, as by Ctrl-Z, until this is dropped: who ends it waits for it.
pub(crate) struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that was killed cannot go on.
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

impl Lab {
    /// Stops the front.
    #[track_caller]
    pub(crate) fn stop_front(&self) -> Stopped {
        let front = Pid::from_raw(i32::try_from(self.front()).unwrap()).unwrap();
        kill_process(front, Signal::STOP).unwrap();
        Stopped(front)
    }

    /// The process ids, on this machine, of the lab's processes with such a command line. One that
    /// was forked and is about to become another program still has its parent's, and is none.
    pub(crate) fn processes(&self, command: &str) -> BTreeSet<u32> {
        let parents = parents();
        let is_ours = |mut pid: u32| {
            while let Some(parent) = parents.get(&pid) {
                if *parent == self.front() {
                    return true;
                }
                pid = *parent;
            }
            false
        };
        parents
            .keys()
            .copied()
            .filter(|pid| is_ours(*pid) && has_command(*pid, command))
            .filter(|pid| {
                let parent = parents.get(pid).and_then(|parent| command_line(*parent));
                command_line(*pid) != parent
            })
            .collect()
    }

    /// Kills one process, and waits for the one that replaces it.
    #[track_caller]
    pub(crate) fn kill_part(&self, command: &str, victim: u32) {
        let before = self.processes(command);
        assert!(
            before.contains(&victim),
            "{victim} is no {command}: {before:?}"
        );
        kill_outright(victim);
        eventually(&format!("another {command} runs"), || {
            expect(self.processes(command), |now| {
                now.len() == before.len() && !now.contains(&victim)
            })
        });
    }

    /// Kills processes of the lab, whoever starts them again or does not.
    #[track_caller]
    pub(crate) fn kill_outright(&self, victims: &BTreeSet<u32>) {
        victims.iter().copied().for_each(kill_outright);
    }

    /// The process id, on this machine, of the lab's PID 1.
    #[track_caller]
    pub(crate) fn init(&self) -> u32 {
        let inits = self.processes("weft internal init");
        assert_eq!(inits.len(), 1, "{inits:?}");
        inits.into_iter().next().unwrap_or_default()
    }

    /// Ends the API server as a crash would; the lab starts another.
    #[track_caller]
    pub(crate) fn kill_api_server(&self) {
        let servers = self.processes("weft internal apiserver");
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers.into_iter().for_each(kill_outright);
    }
}
