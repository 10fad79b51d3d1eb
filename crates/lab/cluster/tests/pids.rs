//! The control group that limits a pod's processes on kernels without a limit of a PID
//! namespace's own: made, met by a program that forks, removed, and swept.

use std::fs::{self, File};
use std::io::Write;

use weft_cluster::lab::pids::{self, LabGroup};
use weft_netlab::process::{self, Spawn};
use weft_netlab::sys_namespace::Kind;

const MOST: u32 = 8;

#[test]
fn a_program_that_forks_meets_the_limit_of_its_group() {
    let lab = match LabGroup::make("test") {
        Ok(lab) => lab,
        Err(error) => {
            println!("a_program_that_forks_meets_the_limit_of_its_group ... skipped: {error}");
            return;
        }
    };
    let path = lab.path().to_owned();
    let (input, start) = process::pipe().unwrap();
    let (output, said) = process::pipe().unwrap();
    let script = "read go; n=0; while [ $n -lt 40 ]; do sleep 600 & n=$((n+1)); echo $n; done";
    let shell = Spawn::new("/bin/sh")
        .args(["-c", script])
        .namespaces(&[Kind::Pid])
        .descriptor(input, 0)
        .descriptor(said.try_clone().unwrap(), 1)
        .descriptor(said, 2)
        .dies_with_parent()
        .spawn()
        .unwrap();
    pids::limit(&path, "pod", shell.id(), MOST).unwrap();
    File::from(start).write_all(b"\n").unwrap();
    // The shell gives up, and with PID 1 of the namespace everything in it ends.
    shell.wait().unwrap();
    let said = std::io::read_to_string(File::from(output)).unwrap();
    // The shell itself is one of them.
    assert!(said.contains(&format!("{}\n", MOST - 1)), "{said}");
    assert!(!said.contains(&format!("{MOST}\n")), "{said}");
    assert!(said.to_lowercase().contains("fork"), "{said}");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(pids::forget(&path, "pod"));
    assert!(!path.join("pod").exists());

    // What a killed lab has left goes, what is locked stays.
    let left = path.with_file_name(format!("weft-lab-killed.{}", std::process::id()));
    fs::create_dir(&left).unwrap();
    fs::create_dir(left.join("pod")).unwrap();
    pids::sweep().unwrap();
    assert!(!left.exists() && path.exists());
    drop(lab);
    assert!(!path.exists());
}
