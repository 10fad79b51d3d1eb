//! Parts of volumes (`subPath`): what a volume holds may be links to anywhere.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Makes a part of a volume as a folder where it is not there, and nothing outside of the volume
/// whatever links there are in it. Returns where it is, without links.
pub(super) fn make(volume: &Path, part: &Path) -> io::Result<PathBuf> {
    let volume = volume.canonicalize()?;
    let inside = |path: &Path| {
        let path = path.canonicalize()?;
        if path.starts_with(&volume) {
            Ok(path)
        } else {
            Err(io::Error::other("it leads out of the volume"))
        }
    };
    // A link that leads nowhere is there too.
    let mut there = part.ancestors();
    if let Some(deepest) = there.find(|path| path.symlink_metadata().is_ok()) {
        inside(deepest)?;
    }
    if !part.exists() {
        fs::create_dir_all(part)?;
    }
    inside(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_made_outside_of_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("out")).unwrap();
        symlink(outside.join("nothing"), volume.join("dangling")).unwrap();
        symlink("a", volume.join("in")).unwrap();
        for part in ["out", "out/new", "out/new/er", "dangling", "dangling/new"] {
            assert!(make(&volume, &volume.join(part)).is_err(), "{part}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);

        let canonical = volume.canonicalize().unwrap();
        for part in ["a/b", "a/b", "in/b"] {
            let made = make(&volume, &volume.join(part)).unwrap();
            assert_eq!(made, canonical.join("a/b"));
        }
    }
}
