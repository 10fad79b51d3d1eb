//! Whether a directory takes what an ADD writes.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable;

/// Makes the directory if it is missing, and in it a file and a second name for it, as a pod's two
/// addresses are taken; removes both. What a killed process leaves of them, GC removes.
///
/// # Errors
/// What the file system refuses.
pub fn takes_files(directory: &Path) -> io::Result<()> {
    durable::create_directory(directory)?;
    let name = |suffix| directory.join(format!(".{}.{suffix}", std::process::id()));
    let (file, link) = (name("status"), name("status-link"));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    durable::write_new(&file, b"status")?;
    let linked = fs::hard_link(&file, &link).and_then(|()| fs::remove_file(&link));
    linked.and(fs::remove_file(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_left_empty() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("one/two");
        takes_files(&directory).unwrap();
        // What a process with this number left before is in nobody's way.
        for suffix in ["status", "status-link"] {
            let name = format!(".{}.{suffix}", std::process::id());
            fs::write(directory.join(name), "").unwrap();
        }
        takes_files(&directory).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_directory_takes_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        takes_files(&file).unwrap_err();
        takes_files(&file.join("below")).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
    }
}
